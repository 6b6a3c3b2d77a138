"""Snapshots on disk: written beside, synced, then put in place under their name.

A snapshot file holds a header, the members (JSON) and the state, each with a CRC32C. It
either has its final name and is whole, or it is a leftover that is removed at the next start.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, cast

from onceflow_consensus.errors import StorageCorrupt, StorageUnknown
from onceflow_consensus.limits import KEPT_SNAPSHOTS, SNAPSHOT_CHUNK_BYTES
from onceflow_consensus.raft.messages import RaftSnapshot
from onceflow_consensus.storage.checksum import crc32c
from onceflow_consensus.storage.records import (
    FORMAT_VERSION,
    DamagedError,
    decode_configuration,
    encode_configuration,
)
from onceflow_consensus.storage.segments import REJOIN

if TYPE_CHECKING:
    from onceflow_consensus.storage.disk import Disk

_MAGIC = b"OFSNAPSH"
_HEADER = struct.Struct("<8sIIIQII")
_CRC_BYTES = 4
_NAME = re.compile(r"snap-(\d{20})-(\d{20})\.snap")
_LEFTOVER = "snap.tmp"


class SnapshotStore:
    """The snapshots of one replica, the newest few."""

    def __init__(self, disk: Disk) -> None:
        """Open the store and remove what an interrupted write left."""
        self._disk = disk
        if _LEFTOVER in disk.names():
            disk.remove(_LEFTOVER)
            disk.sync_directory()

    def positions(self) -> list[tuple[int, int]]:
        """Return index and term of each snapshot, the newest first."""
        found = (_NAME.fullmatch(name) for name in self._disk.names())
        return sorted(((int(m[1]), int(m[2])) for m in found if m is not None), reverse=True)

    def save(self, raft_snapshot: RaftSnapshot) -> None:
        """Write a snapshot; when this returns it is durable. Older ones beyond a few are removed.

        Raises:
            StorageFailed: the disk failed; stop the replica.
        """
        meta = encode_configuration(raft_snapshot.configuration)
        state = raft_snapshot.data
        fields = (len(meta), crc32c(meta), len(state), crc32c(state))
        header = _HEADER.pack(_MAGIC, FORMAT_VERSION, *fields, 0)[:-_CRC_BYTES]
        header += crc32c(header).to_bytes(_CRC_BYTES, "little")
        disk = self._disk
        disk.create(_LEFTOVER, 0)
        disk.write(_LEFTOVER, 0, header + meta)
        offset = len(header) + len(meta)
        for start in range(0, len(state), SNAPSHOT_CHUNK_BYTES):
            disk.write(_LEFTOVER, offset + start, state[start : start + SNAPSHOT_CHUNK_BYTES])
        disk.sync(_LEFTOVER)
        disk.rename(_LEFTOVER, _name(raft_snapshot.index, raft_snapshot.term))
        disk.sync_directory()
        for position in self.positions()[KEPT_SNAPSHOTS:]:
            disk.remove(_name(*position))

    def load(self, index: int, term: int) -> RaftSnapshot:
        """Return a snapshot.

        Raises:
            StorageCorrupt: it is damaged. Start from an older one only if the log still holds
                everything after that.
            StorageUnknown: another version wrote it.
        """
        name = _name(index, term)
        data = self._disk.read(name)
        try:
            meta, state = _read(data)
            return RaftSnapshot(index, term, decode_configuration(meta), state)
        except DamagedError as damage:
            raise StorageCorrupt(f"{name}: {damage}. {REJOIN}") from damage


def _name(index: int, term: int) -> str:
    return f"snap-{index:020d}-{term:020d}.snap"


def _read(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < _HEADER.size:
        raise DamagedError("the header is cut off")
    magic, version, meta_bytes, meta_crc, state_bytes, state_crc, header_crc = cast(
        "tuple[bytes, int, int, int, int, int, int]", _HEADER.unpack_from(data)
    )
    # Before the version is believed: a damaged one must not send anybody to look for a program.
    if magic != _MAGIC or header_crc != crc32c(data[: _HEADER.size - _CRC_BYTES]):
        raise DamagedError("the header is damaged")
    if version != FORMAT_VERSION:
        raise StorageUnknown(
            f"the snapshot is of format {version} and this program reads {FORMAT_VERSION}; "
            "nothing was changed. Start it with the version that wrote it."
        )
    end = _HEADER.size + meta_bytes
    meta, state = data[_HEADER.size : end], data[end:]
    if crc32c(meta) != meta_crc or len(state) != state_bytes or crc32c(state) != state_crc:
        raise DamagedError("the content does not have its checksum")
    return meta, state
