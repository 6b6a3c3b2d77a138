"""One member of the replicated group in this process, until it is told to stop or fails."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import typer

from onceflow.cli.meta_options import told
from onceflow.errors import ConfigError
from onceflow_consensus.kv import KeyValueMachine
from onceflow_consensus.server.member import start_member
from onceflow_consensus.server.process import tune_process

if TYPE_CHECKING:
    from onceflow_consensus.server.options import ServerOptions


def run_member(options: ServerOptions) -> None:
    """Run a member until SIGTERM or Ctrl-C, or until it fails.

    Raises:
        ConfigError: an option, an address or a TLS file cannot be used; nothing was started.
        DataAtRisk: its data is damaged; see the message.
        StorageFailed: its disk takes no writes; it stopped, the others go on.
    """
    tune_process()
    with told():
        asyncio.run(_run(options))


async def _run(options: ServerOptions) -> None:
    ended = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _end, ended)
    try:
        member = await start_member(options, KeyValueMachine())
    except OSError as error:
        raise ConfigError(
            f"{options.listen.peer} or {options.listen.client} cannot be listened on ({error}). "
            "Nothing was started. Stop what listens there, or correct the addresses."
        ) from error
    typer.echo(
        f"member {options.peer_id} of {options.cluster_id!r} ({options.engine.value}) answers "
        f"clients at {options.listen.client}",
        err=True,
    )
    try:
        await asyncio.wait([ended, member.failed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await member.stop()
    if member.failed.done():
        member.failed.result()


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
