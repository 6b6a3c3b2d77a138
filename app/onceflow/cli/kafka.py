"""``onceflow kafka``: start, stop and look at a local Kafka.

Rules of this file: results go to standard output, progress to standard error; errors are raised
and become exit codes where the commands are mounted.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from onceflow.errors import Unreachable
from onceflow.localkafka.cluster import LocalKafka
from onceflow.localkafka.detached import (
    directory_for,
    preferred_port,
    remember_ports,
    start_detached,
    stop_detached,
)
from onceflow.localkafka.detached import status as status_of

if TYPE_CHECKING:
    from onceflow.localkafka.detached import ClusterStatus

EXIT_NOT_RUNNING = 3
"""Exit code of ``status`` when nothing answers: the one of all servers that are not reachable."""

_LOOK_S = 0.5
"""How often a command in the foreground looks after its brokers and its parent."""

app = typer.Typer(help="A local Apache Kafka for development and tests.", no_args_is_help=True)


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"


_Port = Annotated[
    int, typer.Option(help="Port of the first broker; 0 chooses one.", min=0, max=65_535)
]
_Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Where data and logs are kept; by default in the user's cache."),
]
_Output = Annotated[Output, typer.Option("--output", "-o", help="Form of the result.")]


@app.command()
def start(
    *,
    port: _Port = 0,
    directory: _Directory = None,
    brokers: Annotated[int, typer.Option(help="1 or 3.")] = 1,
    heap_mb: Annotated[int, typer.Option(help="Java heap of each broker, in MB.", min=128)] = 512,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and stop the brokers at the end.")
    ] = False,
    output: _Output = Output.TABLE,
) -> None:
    """Start Kafka, and return once it answers; it runs on. Running already is fine."""
    if foreground:
        _run_in_foreground(directory_for(directory, port), port, brokers, heap_mb)
        return
    started = start_detached(directory, brokers=brokers, port=port, heap_mb=heap_mb, progress=_tell)
    _show(started, output)


@app.command()
def stop(*, port: _Port = 0, directory: _Directory = None, output: _Output = Output.TABLE) -> None:
    """Stop Kafka; its data stays. Not running is fine."""
    stopped = stop_detached(directory, port=port)
    if output is Output.JSON:
        _print_json({"stopped": stopped})
    else:
        typer.echo("stopped" if stopped else "was not running")


@app.command()
def status(
    *, port: _Port = 0, directory: _Directory = None, output: _Output = Output.TABLE
) -> None:
    """Tell whether Kafka answers: exit code 0 if it does, 3 if not."""
    found = status_of(directory, port=port)
    _show(found, output)
    if not found.running:
        raise typer.Exit(EXIT_NOT_RUNNING)


def _run_in_foreground(place: Path, port: int, brokers: int, heap_mb: int) -> None:
    cluster = LocalKafka(
        place,
        brokers=brokers,
        port=port or preferred_port(place, brokers),
        heap_mb=heap_mb,
        progress=_tell,
    )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    parent = os.getppid()
    with cluster:
        if cluster.owned:
            remember_ports(place)
        typer.echo(f"Kafka answers at {cluster.bootstrap}; end it with Ctrl-C")
        while not ended.wait(_LOOK_S):
            # A command whose parent was killed is handed to another one, and nobody waits for it.
            if os.getppid() != parent:
                return
            dead = [each for each in cluster.brokers if cluster.pid(each) is None]
            if dead:
                raise Unreachable(
                    f"broker {dead[0]} ended by itself; its log is {cluster.log_path(dead[0])}"
                )
        _tell("stopping Apache Kafka")


def _show(found: ClusterStatus, output: Output) -> None:
    if output is Output.JSON:
        _print_json(asdict(found))
        return
    if not found.bootstrap:
        typer.echo(f"no Kafka was started in {found.directory}")
        return
    typer.echo(f"{'running' if found.running else 'not running'}: {found.bootstrap}")
    if found.directory is not None:
        typer.echo(f"directory: {found.directory}")
    if found.brokers:
        table = Table("broker", "port", "pid", "answers")
        for each in found.brokers:
            pid = "-" if each.pid is None else str(each.pid)
            table.add_row(str(each.broker), str(each.port), pid, "yes" if each.answers else "no")
        Console().print(table)


def _print_json(content: object) -> None:
    typer.echo(orjson.dumps(content).decode())


def _tell(step: str) -> None:
    typer.echo(f"{step} ...", err=True)
