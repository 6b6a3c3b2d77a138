"""Rows on their way through an outbox topic: msgpack, each message whole by itself.

Decided here: a message is a version and *pieces*; a piece is rows with the same columns, or keys of
rows to be deleted. Values are what the sink that encoded them can write: plain msgpack types. Long
yields become several messages, so that none is near the brokers' bound.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from onceflow.errors import LaterVersion, SerializationError
from onceflow.limits import OUTBOX_MESSAGE_BYTES_MAX
from onceflow.sinks.participant import EncodedRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VERSION: Final = 1
"""Grows when a field changes its meaning."""


class OutboxPiece(msgspec.Struct, array_like=True, frozen=True):
    """Rows with the same columns.

    Attributes:
        columns: their names; those of the key, in its order, for deletions.
        is_delete: whether the rows with these keys are to be deleted.
        rows: values in the order of the columns.
    """

    columns: tuple[str, ...]
    is_delete: bool
    rows: list[tuple[Any, ...]]


class _Message(msgspec.Struct, array_like=True, frozen=True):
    version: int
    pieces: list[OutboxPiece]


class _Versioned(msgspec.Struct, array_like=True, frozen=True):
    """A message of any version: what follows its number is left as it is."""

    version: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Message)
_VERSIONS: Final = msgspec.msgpack.Decoder(_Versioned)


def encode_rows(rows: Iterable[tuple[tuple[str, ...], bool, tuple[Any, ...]]]) -> EncodedRows:
    """Make messages of rows, given as (columns, is it a deletion, values).

    Raises:
        SerializationError: a value that is none of the plain types, or too large a number.
    """
    messages: list[bytes] = []
    pieces: list[OutboxPiece] = []
    count = bulk_bytes = 0
    for columns, is_delete, values in rows:
        count += 1
        row_bytes = sum([len(v) if type(v) in _SIZED else 9 for v in values])
        if pieces and bulk_bytes + row_bytes > OUTBOX_MESSAGE_BYTES_MAX:
            messages.append(_encoded(pieces))
            pieces, bulk_bytes = [], 0
        bulk_bytes += row_bytes
        last = pieces[-1] if pieces else None
        if last is None or last.columns != columns or last.is_delete is not is_delete:
            last = OutboxPiece(columns, is_delete, [])
            pieces.append(last)
        last.rows.append(values)
    if pieces:
        messages.append(_encoded(pieces))
    return EncodedRows(count, sum(map(len, messages)), messages)


def _encoded(pieces: list[OutboxPiece]) -> bytes:
    try:
        return _ENCODER.encode(_Message(_VERSION, pieces))
    except (OverflowError, TypeError, UnicodeEncodeError) as error:
        raise SerializationError(
            f"a value of a row cannot travel through the outbox: {error}. Convert it before it is "
            "yielded."
        ) from error


def decode_message(message: bytes) -> Sequence[OutboxPiece]:
    """The pieces of a message.

    Raises:
        SerializationError: it is none of ours.
        LaterVersion: it is of a later version, and not to be judged here.
    """
    try:
        version = _VERSIONS.decode(message).version
        if version > _VERSION:
            raise LaterVersion(
                f"A message of an outbox has the version {version}, and up to {_VERSION} are known "
                "here. It stays in Kafka, and neither it nor what follows it was applied by this "
                "worker. Run the version of onceflow that wrote it, or a later one."
            )
        return _DECODER.decode(message).pieces
    except msgspec.DecodeError as error:
        raise SerializationError(f"not a message of an outbox: {error}") from error


def readable(message: bytes) -> bytes:
    """A message as JSON for people, bytes in base64; empty if it cannot be read here."""
    try:
        return msgspec.json.encode(decode_message(message))
    except (LaterVersion, SerializationError):
        return b""


_SIZED: Final = frozenset({str, bytes})
