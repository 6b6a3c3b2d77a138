"""The command line: one module per noun, imported only when its command runs.

Rules of this room: results go to standard output, talk to standard error. Errors are raised, and
become exit codes in ``main`` alone, by the ``exit_code`` of their class. A module of this room
imports at its top what is quick to import, so that ``onceflow --help`` is.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from onceflow.errors import InvariantViolation, OnceflowError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Noun(NamedTuple):
    module: str
    summary: str


NOUNS: dict[str, _Noun] = {
    "worker": _Noun("onceflow.cli.worker", "Run workers of an application."),
    "dev": _Noun("onceflow.cli.dev", "Start a local Kafka, and workers of an application on it."),
    "demo": _Noun("onceflow.cli.demo", "The main job: real data, killed workers, a verdict."),
    "kafka": _Noun("onceflow.cli.kafka", "Start, stop and look at a local Kafka."),
    "handback": _Noun("onceflow.cli.handback", "Prepare an application to return to stock Faust."),
    "meta": _Noun("onceflow.cli.meta", "The replicated group: serve, status, members, backup, kv."),
    "txn": _Noun("onceflow.cli.txn", "Transactions with two-phase sinks: list, show, resolve."),
    "config": _Noun("onceflow.cli.config", "Show the effective settings and their sources."),
}
"""Every command, in the order of ``--help``. Each module holds a ``typer.Typer`` named ``app``."""


_COMPLETION = {"install_completion", "show_completion"}


class _LazyGroup(TyperGroup):
    """Imports a command's module when the command is used, not to list it.

    Typer calls these methods with its context, by its names.
    """

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        return list(NOUNS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in NOUNS:
            return None
        module = import_module(NOUNS[cmd_name].module)
        command = get_command(cast("typer.Typer", module.app))
        # Completion is installed once, for the whole command line.
        command.params = [each for each in command.params if each.name not in _COMPLETION]
        return command

    def format_commands(self, ctx: object, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, noun.summary) for name, noun in NOUNS.items()])


app = typer.Typer(
    name="onceflow",
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 Kafka or group not reachable, "
    "4 fenced or data at risk: do not restart blindly.",
)


def _show_version(value: object) -> None:
    if value:
        typer.echo(f"onceflow {version('onceflow')}")
        raise typer.Exit


@app.callback()
def onceflow(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Exactly-once, fast Faust agents on Apache Kafka."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; the only place where errors become exit codes.

    Raises:
        SystemExit: always, with one of the exit codes of `onceflow.errors`.
    """
    try:
        app(None if arguments is None else list(arguments))
    except OnceflowError as error:
        typer.echo(f"onceflow: {error}", err=True)
        sys.exit(error.exit_code)
    except InvariantViolation as error:
        traceback.print_exc()
        typer.echo("onceflow: the above is a bug of onceflow; please report it.", err=True)
        sys.exit(error.exit_code)
