"""The program of a hosted group of one: ``python -m onceflow.supervisor.coordinator_process``.

With ``--app`` it looks first whether the application needs a group, and where its data lies; then
it becomes, in the same process, the member that serves it, without what the application loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.coordinator.group_machine import GroupMachine
from onceflow.coordinator.reaching import DEFAULT_CLUSTER, told
from onceflow.errors import ConfigError, InvariantViolation, OnceflowError
from onceflow.limits import COORDINATOR_HOST_STOP_S
from onceflow.supervisor.hosting import ADDRESS_FILE, EXIT_NOT_NEEDED, HOST
from onceflow.supervisor.lifeline import watch_lifeline
from onceflow_consensus.server import ServerOptions, run_process, start_member
from onceflow_consensus.transport.addresses import Address, MemberAddresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow_consensus.server.member import Member


class _Arguments(argparse.Namespace):
    app: str | None
    dir: Path | None
    port: int
    lifeline: int


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="onceflow.supervisor.coordinator_process")
    parser.add_argument("--app")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    arguments = parser.parse_args(argv, _Arguments())
    watch_lifeline(arguments.lifeline, COORDINATOR_HOST_STOP_S)
    try:
        directory = arguments.dir
        if directory is None:
            directory = _directory_of(arguments.app or "")
            if directory is None:
                return EXIT_NOT_NEEDED
            _become_member(directory, arguments)
        with told():
            run_process(_serve(directory, arguments.port))
    except (OnceflowError, InvariantViolation) as error:
        sys.stderr.write(f"onceflow coordinator: {error}\n")
        return error.exit_code
    return EXIT_NOT_NEEDED


def _directory_of(app_path: str) -> Path | None:
    """Return where the group's data lies, None if the application needs no group of ours."""
    from onceflow.engine.hosted import group_directory, needs_group  # noqa: PLC0415 - slow
    from onceflow.engine.worker import find_app  # noqa: PLC0415 - slow

    try:
        app = find_app(app_path)
    except ConfigError:
        return None  # the workers cannot import it either, and say so
    return group_directory(app) if needs_group(app) else None


def _become_member(directory: Path, arguments: _Arguments) -> None:
    """Run this program again without the application, which takes 100 MB."""
    options = [f"--dir={directory}", f"--port={arguments.port}", f"--lifeline={arguments.lifeline}"]
    program = "onceflow.supervisor.coordinator_process"
    os.execv(sys.executable, [sys.executable, "-m", program, *options])  # noqa: S606 - our own


async def _serve(directory: Path, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    addresses = MemberAddresses(Address(HOST, 0), Address(HOST, port))
    options = ServerOptions(1, DEFAULT_CLUSTER, directory, addresses, {1: addresses})
    try:
        member = await start_member(options, GroupMachine())
    except OSError as error:
        raise ConfigError(
            f"{HOST}:{port} cannot be listened on ({error}). It is tried again; workers go on "
            "without a record meanwhile."
        ) from error
    address_file = directory / ADDRESS_FILE
    address_file.write_text(f"{HOST}:{port}\n", "utf-8")
    try:
        await _until_ended(ended, member)
    finally:
        address_file.unlink(missing_ok=True)
        await member.stop()


async def _until_ended(ended: asyncio.Event, member: Member) -> None:
    asked = asyncio.ensure_future(ended.wait())
    await asyncio.wait([asked, member.failed], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if member.failed.done():
        member.failed.result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
