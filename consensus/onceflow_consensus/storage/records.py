"""The binary form of what the log holds: records, and batches of records.

A batch is what one sync covers::

    magic (4) | CRC32C (4) | payload length (4) | zero (4) | sequence (8) | payload

A record within it::

    CRC32C (4) | length (4) | kind (1) | body (length)

All numbers are little-endian. The batch's checksum begins with the log's salt, so that bytes of
another log, or of a user's data, are never taken for a batch of this one. Sequence numbers grow
by one per batch over all segments: a missing batch is seen. The format has a version, kept in
each segment's header.
"""

from __future__ import annotations

import json
import struct
from enum import Enum
from typing import TYPE_CHECKING, cast

import msgspec

from onceflow_consensus.limits import MAX_RECORD_BYTES
from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.configuration import Configuration
from onceflow_consensus.raft.messages import Entry, EntryKind, HardState
from onceflow_consensus.storage.checksum import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT_VERSION = 1
BATCH_MAGIC = b"OFB\x01"

_BATCH = struct.Struct("<4sIIIQ")
_CHECKED_OF_BATCH = struct.Struct("<IIQ")
_RECORD = struct.Struct("<IIB")
_CHECKED_OF_RECORD = struct.Struct("<IB")
_ENTRY = struct.Struct("<QQB")
_HARD_STATE = struct.Struct("<QQQ")
_BASE = struct.Struct("<QQB")

_ENTRY_KIND = 1
_HARD_STATE_KIND = 2
_BASE_KIND = 3
_CLOSED_KIND = 4

_KINDS = tuple(EntryKind)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}

BATCH_HEADER_BYTES = _BATCH.size


class BaseKind(Enum):
    """What a position does to the entries that are read before it.

    DROPPED: those up to it are dropped. RESET: those above it too, a snapshot has replaced the
    log. FLOOR: none; it says where the log stood when a segment was begun, and is used if the
    segments before were removed.
    """

    DROPPED = 0
    RESET = 1
    FLOOR = 2


class Base(msgspec.Struct, frozen=True, gc=False):
    """The position below the first entry that is kept."""

    index: int
    term: int
    kind: BaseKind = BaseKind.DROPPED


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The log was closed in order: everything before it was acknowledged."""


Record = Entry | HardState | Base | Closed


class DamagedError(Exception):
    """Bytes are not what was written. The reader decides what that means."""


def encode_record(record: Record) -> bytes:
    """Return a record's binary form."""
    if isinstance(record, Entry):
        kind, number = _ENTRY_KIND, _KIND_NUMBERS[record.kind]
        body = _ENTRY.pack(record.term, record.index, number) + record.data
    elif isinstance(record, HardState):
        kind = _HARD_STATE_KIND
        body = _HARD_STATE.pack(record.term, record.vote, record.commit_index)
    elif isinstance(record, Base):
        kind = _BASE_KIND
        body = _BASE.pack(record.index, record.term, record.kind.value)
    else:
        kind, body = _CLOSED_KIND, b""
    checked = _CHECKED_OF_RECORD.pack(len(body), kind) + body
    return crc32c(checked).to_bytes(4, "little") + checked


def encode_batch(salt: bytes, sequence: int, payload: bytes) -> bytes:
    """Return a batch: what is written at once and made durable by one sync."""
    checked = _CHECKED_OF_BATCH.pack(len(payload), 0, sequence)
    checksum = crc32c(salt, checked, payload).to_bytes(4, "little")
    return BATCH_MAGIC + checksum + checked + payload


def read_batch(salt: bytes, data: bytes, offset: int) -> tuple[int, bytes]:
    """Return sequence and payload of the batch at ``offset``.

    Raises:
        DamagedError: there is no whole batch of this log.
    """
    if offset + _BATCH.size > len(data):
        raise DamagedError("a batch's header is cut off")
    magic, checksum, length, _, sequence = cast(
        "tuple[bytes, int, int, int, int]", _BATCH.unpack_from(data, offset)
    )
    start = offset + _BATCH.size
    if magic != BATCH_MAGIC or start + length > len(data):
        raise DamagedError("no batch begins here, or it is cut off")
    payload = data[start : start + length]
    if checksum != crc32c(salt, data[offset + 8 : start], payload):
        raise DamagedError(f"batch {sequence} does not have its checksum")
    return sequence, payload


def read_records(payload: bytes) -> Iterator[Record]:
    """Yield the records of a batch.

    Raises:
        DamagedError: a record is not what was written.
    """
    offset = 0
    while offset < len(payload):
        if offset + _RECORD.size > len(payload):
            raise DamagedError("a record's header is cut off")
        checksum, length, kind = cast("tuple[int, int, int]", _RECORD.unpack_from(payload, offset))
        end = offset + _RECORD.size + length
        if length > MAX_RECORD_BYTES or end > len(payload):
            raise DamagedError("a record is cut off")
        if checksum != crc32c(payload[offset + 4 : end]):
            raise DamagedError("a record does not have its checksum")
        yield _decode_record(kind, payload[offset + _RECORD.size : end])
        offset = end


def _decode_record(kind: int, body: bytes) -> Record:
    try:
        if kind == _ENTRY_KIND:
            term, index, number = cast("tuple[int, int, int]", _ENTRY.unpack_from(body))
            return Entry(term, index, _KINDS[number], body[_ENTRY.size :])
        if kind == _HARD_STATE_KIND:
            return HardState(*cast("tuple[int, int, int]", _HARD_STATE.unpack(body)))
        if kind == _BASE_KIND:
            index, term, number = cast("tuple[int, int, int]", _BASE.unpack(body))
            return Base(index, term, BaseKind(number))
    except (struct.error, IndexError, ValueError) as error:
        raise DamagedError(f"a record of kind {kind} has another form") from error
    if kind == _CLOSED_KIND and not body:
        return Closed()
    raise DamagedError(f"a record is of the unknown kind {kind}")


def encode_configuration(configuration: Configuration) -> bytes:
    """Return a configuration as JSON: small, rare, and readable when a disk is examined."""
    return json.dumps(
        {
            "incoming": sorted(configuration.voters.incoming),
            "outgoing": sorted(configuration.voters.outgoing),
            "learners": sorted(configuration.learners),
            "learners_next": sorted(configuration.learners_next),
            "auto_leave": configuration.auto_leave,
        }
    ).encode()


def decode_configuration(data: bytes) -> Configuration:
    """Return the configuration that ``encode_configuration`` wrote.

    Raises:
        DamagedError: it is not one.
    """
    try:
        fields = cast("dict[str, list[int]]", json.loads(data))
        voters = JointVoters(frozenset(fields["incoming"]), frozenset(fields["outgoing"]))
        return Configuration(
            voters,
            frozenset(fields["learners"]),
            frozenset(fields["learners_next"]),
            bool(fields["auto_leave"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError("a configuration has another form") from error
