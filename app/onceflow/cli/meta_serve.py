"""One member of the replicated group in this process, until it is told to stop or fails."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import typer

from onceflow.cli.meta_options import HTTP_OFF, told
from onceflow.coordinator.group_machine import GroupMachine
from onceflow.errors import ConfigError
from onceflow_consensus.replica import start_replica
from onceflow_consensus.server import run_process, start_member

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from onceflow_consensus.replica import Replica
    from onceflow_consensus.server import ServerOptions
    from onceflow_consensus.server.member import Member

    Show = Callable[[Member], None]

_PUBLISH_S = 0.2
"""How often a member shows its numbers, and says who leads if that changed."""


def run_member(options: ServerOptions, http: str | None, trace: Path | None) -> None:
    """Run a member until SIGTERM or Ctrl-C, or until it fails.

    Args:
        options: the member's.
        http: address of metrics and health, ``HTTP_OFF``, or None for the first free one.
        trace: file for lines about all that the engine goes through, see ``tracing``.

    Raises:
        ConfigError: an option, an address or a TLS file cannot be used; nothing was started.
        DataAtRisk: its data is damaged; see the message.
        StorageFailed: its disk takes no writes; it stopped, the others go on.
    """
    machine = GroupMachine()
    with told(), _traced(trace) as start, _watched(http, machine) as show:
        run_process(_run(options, machine, show, start))


@contextmanager
def _traced(trace: Path | None) -> Generator[Callable[..., Replica]]:
    if trace is None:
        yield start_replica
        return
    from onceflow_consensus.tracing.starting import (  # noqa: PLC0415 - for judges only
        TraceFile,
        start_traced_replica,
    )

    try:
        file = TraceFile(trace)
    except OSError as error:
        raise ConfigError(
            f"The trace file {trace} cannot be written ({error}). Nothing was started. Correct "
            "the path of --trace."
        ) from error
    with closing(file):
        yield partial(start_traced_replica, trace=file)


def _watched(http: str | None, machine: GroupMachine) -> AbstractContextManager[Show]:
    if http == HTTP_OFF:
        return nullcontext(lambda _member: None)
    from onceflow.cli.meta_watch import serve_http  # noqa: PLC0415 - slow to import

    return serve_http(http, machine)


async def _run(
    options: ServerOptions, machine: GroupMachine, show: Show, start: Callable[..., Replica]
) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _end, ended)
    try:
        member = await start_member(options, machine, start)
    except OSError as error:
        raise ConfigError(
            f"{options.listen.peer} or {options.listen.client} cannot be listened on ({error}). "
            "Nothing was started. Stop what listens there, or correct the addresses."
        ) from error
    _tell(
        f"member {options.peer_id} of {options.cluster_id!r} ({options.engine.value}) answers "
        f"clients at {options.listen.client}"
    )
    publishing = asyncio.create_task(_publish(member, show))
    try:
        await asyncio.wait([ended, member.failed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        publishing.cancel()
        await member.stop()
    if member.failed.done():
        member.failed.result()


async def _publish(member: Member, show: Show) -> None:
    told_of: tuple[int, int | None] | None = None
    while True:
        status = member.driver.replica.status
        raft_leader = status.raft_leader or None
        show(member)
        if told_of != (status.term, raft_leader):
            told_of = (status.term, raft_leader)
            leads = "nobody leads" if raft_leader is None else f"member {raft_leader} leads"
            _tell(f"term {status.term}: {leads}")
        await asyncio.sleep(_PUBLISH_S)


def _tell(what: str) -> None:
    typer.echo(what, err=True)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
