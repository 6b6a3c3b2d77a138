"""Segments: the files of the log, how they are named and begun, and how they are read back.

Theory of reading: batches are written one after the other, each only after the one before was
synced. A batch that is not whole is therefore a torn tail, never acknowledged, if and only if
nothing that was written later is whole. Anything whole behind it proves that it was acknowledged:
that is damage, and cutting it off would take back a promise. A later segment proves the same,
since it is begun only when the one before is synced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from onceflow_consensus.errors import StorageCorrupt, StorageUnknown
from onceflow_consensus.storage.checksum import crc32c
from onceflow_consensus.storage.records import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    FORMAT_VERSION,
    DamagedError,
    Record,
    read_batch,
    read_records,
)

if TYPE_CHECKING:
    from onceflow_consensus.storage.disk import Disk

_MAGIC = b"OFLOGSEG"
_HEADER = struct.Struct("<8sIIQ16sI")
SALT_BYTES = 16
SEGMENT_HEADER_BYTES = _HEADER.size
_PREFIX, _SUFFIX = "log-", ".seg"

REJOIN = (
    "Do not delete or cut the files to get it started: what it had promised would be lost. Remove "
    "this replica from the group, give it an empty directory and a new id, and add it as a "
    "learner; it gets a snapshot."
)
"""What an operator has to do with a damaged replica."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Begins a segment: its place in the log, and the salt of all checksums in it."""

    number: int
    first_sequence: int
    salt: bytes


def segment_name(number: int) -> str:
    """Return the file name of a segment; names sort as numbers do."""
    return f"{_PREFIX}{number:016d}{_SUFFIX}"


def segment_names(disk: Disk) -> list[str]:
    """Return the segments of a directory in order."""
    return [name for name in disk.names() if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]


def encode_header(header: SegmentHeader) -> bytes:
    """Return the first bytes of a segment."""
    fields = (_MAGIC, FORMAT_VERSION, header.number, header.first_sequence, header.salt)
    body = _HEADER.pack(*fields, 0)[:-4]
    return body + crc32c(body).to_bytes(4, "little")


def read_header(data: bytes) -> SegmentHeader | None:
    """Return a segment's header, None if it is not whole.

    Raises:
        StorageUnknown: it is whole and of another version.
    """
    if len(data) < _HEADER.size:
        return None
    magic, version, number, first_sequence, salt, checksum = cast(
        "tuple[bytes, int, int, int, bytes, int]", _HEADER.unpack_from(data)
    )
    if magic != _MAGIC or checksum != crc32c(data[: _HEADER.size - 4]):
        return None
    if version != FORMAT_VERSION:
        raise StorageUnknown(
            f"the log is of format {version} and this program writes {FORMAT_VERSION}; nothing "
            "was changed. Start it with the version that wrote it."
        )
    return SegmentHeader(number, first_sequence, salt)


@dataclass(slots=True)
class ReadSegment:
    """What a segment holds: its records, and where the next batch belongs.

    ``torn_bytes`` lie behind ``end_offset`` and were never acknowledged.
    """

    name: str
    header: SegmentHeader
    records: list[Record]
    next_sequence: int
    end_offset: int
    torn_bytes: int


def read_segments(disk: Disk) -> list[ReadSegment]:
    """Return the segments of a directory in order, whole but for a torn tail.

    A last segment that was begun and never finished is removed.

    Raises:
        StorageCorrupt: acknowledged data is damaged or missing.
        StorageUnknown: another version wrote it.
    """
    names = segment_names(disk)
    segments: list[ReadSegment] = []
    for position, name in enumerate(names):
        data = disk.read(name)
        is_last = position == len(names) - 1
        header = read_header(data)
        if header is None:
            if is_last and BATCH_MAGIC not in data:
                # Its header never became durable, so that nothing was written behind it.
                disk.remove(name)
                disk.sync_directory()
                break
            raise _corrupt(name, 0, "the segment's header is damaged")
        if segments:
            _check_follows(segments[-1], header, name)
        segment = _read_batches(name, header, data)
        if segment.torn_bytes and not is_last:
            raise _corrupt(name, segment.end_offset, "a later segment follows a damaged batch")
        segments.append(segment)
    return segments


def _check_follows(before: ReadSegment, header: SegmentHeader, name: str) -> None:
    if header.salt != before.header.salt:
        raise _corrupt(name, 0, "the segment belongs to another log")
    if header.number != before.header.number + 1 or header.first_sequence != before.next_sequence:
        raise _corrupt(name, 0, f"batches from {before.next_sequence} on are missing before it")


def _read_batches(name: str, header: SegmentHeader, data: bytes) -> ReadSegment:
    records: list[Record] = []
    offset, sequence = SEGMENT_HEADER_BYTES, header.first_sequence
    while True:
        try:
            found, payload = read_batch(header.salt, data, offset)
        except DamagedError as damage:
            torn_bytes = _torn_bytes(name, header, data, offset, damage)
            return ReadSegment(name, header, records, sequence, offset, torn_bytes)
        if found != sequence:
            raise _corrupt(name, offset, f"batch {found} stands where {sequence} belongs")
        try:
            records.extend(read_records(payload))
        except DamagedError as damage:
            raise _corrupt(name, offset, str(damage)) from damage
        offset += BATCH_HEADER_BYTES + len(payload)
        sequence += 1


def _torn_bytes(
    name: str, header: SegmentHeader, data: bytes, offset: int, damage: DamagedError
) -> int:
    """Return how many bytes behind ``offset`` are a torn tail; zero if nothing was written."""
    written = len(data[offset:].rstrip(b"\0"))
    candidate = data.find(BATCH_MAGIC, offset + 1)
    while candidate >= 0:
        try:
            later, _ = read_batch(header.salt, data, candidate)
        except DamagedError:
            candidate = data.find(BATCH_MAGIC, candidate + 1)
            continue
        raise _corrupt(name, offset, f"{damage}, and batch {later} behind it is whole")
    return written


def _corrupt(name: str, offset: int, what: str) -> StorageCorrupt:
    return StorageCorrupt(f"{name} at byte {offset}: {what}. {REJOIN}")
