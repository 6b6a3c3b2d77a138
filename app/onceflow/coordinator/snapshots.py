"""The record as a stream of chunks: what a replica that lacks the log is given.

A header says which machine and which version of the format wrote it, and how many rows follow;
each chunk after it holds rows of one kind, of one application. A program reads the versions up to
its own and refuses later ones, because what it does not know would be lost to it alone.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import msgspec

from onceflow.coordinator.app_record import AppRecord, Content, standing_of
from onceflow.coordinator.vocabulary import Alarm, Lease, OffsetNote, Transaction
from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.limits import SNAPSHOT_CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MACHINE = "onceflow coordinator"
"""First field of a header, by which machines are told apart."""

STATE_VERSION = 1


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    machine: str
    version: int
    log_time_ms: int
    next_sweep_ms: int
    alarms_total: int
    apps: list[tuple[str, str, int]]
    rows: int


class _Kind(IntEnum):
    ALARMS = 1
    TRANSACTIONS = 2
    OFFSETS = 3
    LEASES = 4
    FORGOTTEN = 5


class _Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    kind: _Kind
    scope: str
    rows: list[msgspec.Raw]


class _Forgotten(msgspec.Struct, array_like=True, frozen=True, gc=False):
    incarnation: str
    commit_epoch: int


_ENCODER = msgspec.msgpack.Encoder()
_HEADERS = msgspec.msgpack.Decoder(_Header)
_CHUNKS = msgspec.msgpack.Decoder(_Chunk)
_ROWS: dict[_Kind, msgspec.msgpack.Decoder[Any]] = {
    _Kind.ALARMS: msgspec.msgpack.Decoder(Alarm),
    _Kind.TRANSACTIONS: msgspec.msgpack.Decoder(Transaction),
    _Kind.OFFSETS: msgspec.msgpack.Decoder(OffsetNote),
    _Kind.LEASES: msgspec.msgpack.Decoder(Lease),
    _Kind.FORGOTTEN: msgspec.msgpack.Decoder(_Forgotten),
}
_Row = Alarm | Transaction | OffsetNote | Lease | _Forgotten


def snapshot_chunks(content: Content) -> Iterator[bytes]:
    """Yield the chunks of a state that does not change any more."""
    sections = [*_sections(content)]
    yield _ENCODER.encode(
        _Header(
            MACHINE,
            STATE_VERSION,
            content.log_time_ms,
            content.next_sweep_ms,
            content.alarms_total,
            [(scope, record.name, record.moves) for scope, record in content.apps.items()],
            sum(len(rows) for _, _, rows in sections),
        )
    )
    for kind, scope, rows in sections:
        for some in _filled(rows):
            yield _ENCODER.encode(_Chunk(kind, scope, some))


def _sections(content: Content) -> Iterator[tuple[_Kind, str, list[_Row]]]:
    yield _Kind.ALARMS, "", [*content.alarms]
    for scope, record in content.apps.items():
        for transactions in record.transactions.values():
            yield _Kind.TRANSACTIONS, scope, [*transactions.values()]
        yield _Kind.OFFSETS, scope, [*record.offsets.values()]
        yield _Kind.LEASES, scope, [*record.leases.values()]
        yield _Kind.FORGOTTEN, scope, [_Forgotten(*item) for item in record.forgotten.items()]


def _filled(rows: list[_Row]) -> Iterator[list[msgspec.Raw]]:
    """Yield the encoded rows, about a chunk at a time."""
    some: list[msgspec.Raw] = []
    some_bytes = 0
    for row in rows:
        encoded = _ENCODER.encode(row)
        some.append(msgspec.Raw(encoded))
        some_bytes += len(encoded)
        if some_bytes >= SNAPSHOT_CHUNK_BYTES:
            yield some
            some, some_bytes = [], 0
    if some:
        yield some


def read_snapshot(chunks: Iterable[bytes]) -> Content:
    """Return the state that chunks hold.

    Raises:
        SnapshotUnreadable: they are another machine's, of a later version, damaged or cut off.
    """
    source = iter(chunks)
    try:
        header = _HEADERS.decode(next(source, b""))
        _check(header)
        content = Content(header.log_time_ms, header.next_sweep_ms, header.alarms_total)
        for scope, name, moves in header.apps:
            content.apps[scope] = AppRecord(scope, name, moves)
        count = 0
        for piece in source:
            chunk = _CHUNKS.decode(piece)
            decode = _ROWS[chunk.kind].decode
            for row in chunk.rows:
                _take(content, chunk.scope, decode(row))
            count += len(chunk.rows)
    except (msgspec.DecodeError, KeyError) as error:
        raise SnapshotUnreadable(f"it is damaged: {error}") from error
    if count != header.rows:
        raise SnapshotUnreadable(f"it has {count} of {header.rows} rows")
    return content


def _check(header: _Header) -> None:
    if header.machine != MACHINE:
        raise SnapshotUnreadable(f"it holds {header.machine!r}, not {MACHINE!r}")
    if not 1 <= header.version <= STATE_VERSION:
        raise SnapshotUnreadable(
            f"it is of format {header.version} and this program reads up to {STATE_VERSION}; "
            "nothing was changed. Start it with the version that wrote it."
        )


def _take(content: Content, scope: str, row: _Row) -> None:
    if isinstance(row, Alarm):
        content.alarms.append(row)
        return
    record = content.apps[scope]
    match row:
        case Transaction():
            key = (row.incarnation, row.commit_epoch)
            record.transactions[standing_of(row)][key] = row
        case OffsetNote():
            record.offsets[row.topic, row.number] = row
        case Lease():
            record.leases[row.incarnation] = row
        case _Forgotten():
            record.forgotten[row.incarnation] = row.commit_epoch
