"""Backups of a group: taken from a running one, and made the beginning of a new one.

A backup is a state file of the server: frames with checksums, and an end by which a whole file is
told from one that was cut off. The sessions in it are ended when it is restored.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from onceflow.cli.meta_asking import REQUEST_ID, run
from onceflow.cli.meta_options import told
from onceflow.coordinator.group_machine import GroupMachine
from onceflow.errors import ConfigError, DataAtRisk, Unreachable
from onceflow_consensus.errors import ConsensusError
from onceflow_consensus.kv import Get, encode_query
from onceflow_consensus.server.recovery import MemberData, found_group
from onceflow_consensus.server.state_files import StateFiles, open_state
from onceflow_consensus.sessions import ReplicatedState
from onceflow_consensus.storage import DurableLog, OsDisk
from onceflow_consensus.transport.requests import (
    Consistency,
    Done,
    Read,
    ReadAnswered,
    TakeBackup,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from onceflow.cli.meta_asking import Asker
    from onceflow.cli.meta_options import Connection
    from onceflow_consensus.server.options import ServerOptions

_LAG_S = 0.05
"""Between questions to members that lag."""

_PROBE = encode_query(Get(b"?"))
"""Any query: what counts is the index that a linearizable answer to it reflects."""


def take_backup(connection: Connection, file: Path, *, is_stale_enough: bool) -> dict[str, object]:
    """Write the state of the group to ``file``, which appears when it is whole and durable.

    Args:
        connection: how the group is reached.
        file: must not exist.
        is_stale_enough: take what a member has, without asking the group whether that is all.

    Returns:
        What was taken: ``file``, ``bytes``, ``index``.

    Raises:
        ConfigError: the file exists or cannot be written.
        Unreachable: no member answers, or the answer was cut off.
    """
    if file.exists():
        raise ConfigError(f"{file} exists. Nothing was done. Name another file, or move it away.")
    partial = file.with_name(file.name + ".part")

    async def take(asker: Asker) -> int:
        least_index = 0
        if not is_stale_enough:
            probe = Read(REQUEST_ID, Consistency.LINEARIZABLE, [_PROBE])
            least_index = (await asker.ask(probe, ReadAnswered)).index
        while (index := await _receive(asker, partial)) < least_index:
            # A member that lags: the next one, or it a moment later, has more.
            asker.turn_elsewhere()
            await asyncio.sleep(_LAG_S)
        return index

    try:
        index = run(connection, take)
        size_bytes = partial.stat().st_size
        partial.rename(file)
    except OSError as error:
        raise ConfigError(f"{partial} cannot be written ({error}); there is no backup.") from error
    finally:
        partial.unlink(missing_ok=True)
    return {"file": str(file), "bytes": size_bytes, "index": index}


async def _receive(asker: Asker, partial: Path) -> int:
    """Write what a member sends to ``partial``, and return the index that it reflects."""
    with partial.open("wb") as out:
        await _copy(asker, out)
        out.flush()
        os.fsync(out.fileno())
    try:
        header, pieces = open_state(partial)
        for _ in pieces:
            pass  # every piece's checksum is looked at
    except ConsensusError as error:
        raise Unreachable(
            f"The member closed the connection before its state was whole ({error}). There is no "
            "backup. Take it again."
        ) from error
    return header.index


async def _copy(asker: Asker, out: BinaryIO) -> None:
    async with aclosing(asker.stream(TakeBackup(REQUEST_ID))) as answers:
        async for answer in answers:
            if not isinstance(answer, Done) or not answer.body:
                return
            out.write(answer.body)


def restore_backup(options: ServerOptions, file: Path) -> int:
    """Make an empty directory the beginning of a group whose state is that of a backup.

    Args:
        options: those that the member will be started with.
        file: a backup.

    Returns:
        The index at which the group begins.

    Raises:
        ConfigError: the directory is not empty.
        DataAtRisk: the backup is damaged, or of another version; nothing was made.
    """
    if options.directory.exists() and any(options.directory.iterdir()):
        raise ConfigError(
            f"{options.directory} is not empty. Nothing was done. Move it away: a restored member "
            "begins anew, and must not take up what another one had promised."
        )
    state = ReplicatedState(GroupMachine())
    try:
        header, pieces = open_state(file)
        state.restore(pieces)
    except ConsensusError as error:
        raise DataAtRisk(
            f"The backup {file} cannot be used: {error} Nothing was made. Take another backup."
        ) from error
    state.forget_sessions()
    with told():
        disk = OsDisk(options.directory / "log")
        try:
            files = StateFiles(options.directory / "state")
            data = MemberData(disk, DurableLog(disk), files, state)
            found_group(data, options, header.index)
        finally:
            disk.close()
    return header.index
