"""The rows of windowed aggregates: store keys, the row codec, and numbers as text.

Layout of a store key: the window's start, then the key's own bytes. The start is 8 bytes big-endian
with the sign bit flipped, so that the order of bytes is the order of time, also before 1970, and
expiry is a range delete.

Layout of a row: words of 8 bytes, little-endian, whatever the machine, because changelogs travel.
The first word is ``count * 2 + kind``; then follow sum, minimum and maximum, as far as the
aggregates need them: int64 if the kind is ``INTEGER``, float64 if it is ``FLOAT``. A changelog
record of a window is (store key, row) as they are.

All functions here work on whole columns: ``array('q')`` strides and Arrow buffers, no loop over
rows in Python but the ones that join or cut ``bytes``.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

import struct
import sys
from array import array
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

from onceflow.columns.arrow import ArrowArray, ArrowType, pa
from onceflow.errors import TaskCorrupted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORD_BYTES = 8
START_BYTES = 8
"""Length of the part of a store key that holds the window's start."""

_SIGN_BIT = 1 << 63


class Kind(IntEnum):
    """What a window's sum, minimum and maximum are made of.

    ``INTEGER``: every value of the window was a JSON integer; the numbers are exact 64-bit ones.
    ``FLOAT``: at least one value had a fraction or an exponent; the numbers are float64.
    """

    INTEGER = 0
    FLOAT = 1


ARROW_OF_KIND: dict[Kind, ArrowType] = {Kind.INTEGER: pa.int64(), Kind.FLOAT: pa.float64()}

_NOTHING: dict[Kind, dict[str, int | float]] = {
    Kind.INTEGER: {"sum": 0, "min": (1 << 63) - 1, "max": -(1 << 63)},
    Kind.FLOAT: {"sum": 0.0, "min": float("inf"), "max": float("-inf")},
}
"""What changes nothing when it is merged: a window without records."""


def window_prefix(start_ms: int) -> bytes:
    """Give the store key prefix of the windows that start at ``start_ms``.

    It is also the lower bound of them and of all later ones in the store's order.
    """
    return (start_ms + _SIGN_BIT).to_bytes(START_BYTES, "big")


def window_start_ms(store_key: bytes) -> int:
    """Give the window start of a store key."""
    return int.from_bytes(store_key[:START_BYTES], "big") - _SIGN_BIT


def numbers_of(column: ArrowArray) -> list[Any]:
    """Give the numbers of a column of 64-bit numbers without nulls."""
    # Twenty times faster than to_pylist(), which makes an Arrow scalar of each.
    start = column.offset * WORD_BYTES
    numbers: array[Any] = array("q" if pa.types.is_integer(column.type) else "d")
    numbers.frombytes(memoryview(column.buffers()[1])[start : start + len(column) * WORD_BYTES])
    return numbers.tolist()


def column_of(words: array[int], arrow_type: ArrowType) -> ArrowArray:
    """Lay an Arrow column of 64-bit numbers over words, without copying."""
    return pa.Array.from_buffers(arrow_type, len(words), [None, pa.py_buffer(words)])


def bytes_of(column: ArrowArray) -> list[bytes]:
    """Give the entries of a binary column without nulls."""
    ends = array("i")
    ends.frombytes(memoryview(column.buffers()[1])[column.offset * 4 :][: len(column) * 4 + 4])
    heap = column.buffers()[2]
    data = b"" if heap is None else heap.to_pybytes()
    return [data[start:end] for start, end in pairwise(ends)]


def texts_of(numbers: Sequence[int | float]) -> list[bytes]:
    """Give finite 64-bit numbers as JSON texts; floats in the shortest form that reads back."""
    return orjson.dumps(numbers)[1:-1].split(b",") if numbers else []


class RowCodec:
    """Packs and unpacks columns of rows.

    Args:
        numbers: which of ``sum``, ``min``, ``max`` a row holds, in that order.
    """

    def __init__(self, numbers: tuple[str, ...]) -> None:
        self.numbers = numbers
        self._words = 1 + len(numbers)
        self.row_bytes = self._words * WORD_BYTES
        self._structs = {
            Kind.INTEGER: struct.Struct("<q" + "q" * len(numbers)),
            Kind.FLOAT: struct.Struct("<q" + "d" * len(numbers)),
        }
        self._nothing = {
            kind: self._structs[kind].pack(kind, *(_NOTHING[kind][name] for name in numbers))
            for kind in Kind
        }

    def pack(
        self, kind: Kind, counts: list[int], numbers: Mapping[str, Sequence[int | float]]
    ) -> list[bytes]:
        """Give the rows of these columns.

        Args:
            kind: of all the windows.
            counts: how many records each has.
            numbers: a column of 64-bit numbers per name that the codec holds.
        """
        mark = int(kind)
        heads = [count * 2 + mark for count in counts]
        columns = [numbers[name] for name in self.numbers]
        return list(map(self._structs[kind].pack, heads, *columns))

    def unpack(
        self, rows: Sequence[bytes | None], kind: Kind
    ) -> tuple[array[int], dict[str, array[int]]]:
        """Give the columns of these rows; an absent row is a window of ``kind`` without records.

        Returns:
            the heads, and the words of each number by its name.

        Raises:
            TaskCorrupted: a row has not the length of a row of these aggregates.
        """
        words = array("q")
        words.frombytes(self._packed(rows, kind))
        if sys.byteorder == "big":
            words.byteswap()
        return words[0 :: self._words], {
            name: words[position :: self._words] for position, name in enumerate(self.numbers, 1)
        }

    def unpack_few(self, rows: Sequence[bytes | None], kind: Kind) -> list[tuple[Any, ...]]:
        """Give the same columns as plain numbers, the heads first; at least one row.

        Raises:
            TaskCorrupted: as by ``unpack``.
        """
        return list(zip(*self._structs[kind].iter_unpack(self._packed(rows, kind)), strict=True))

    def unpack_row(self, row: bytes | None) -> tuple[Kind, int, list[int | float]]:
        """Give kind, count and numbers of one row; an absent one is a window without records.

        Raises:
            TaskCorrupted: the row has not the length of a row of these aggregates.
        """
        packed = self._packed([row], Kind.INTEGER)
        kind = Kind(packed[0] & 1)
        head, *numbers = self._structs[kind].unpack(packed)
        return kind, head >> 1, numbers

    def _packed(self, rows: Sequence[bytes | None], kind: Kind) -> bytes:
        """Join the rows; absent ones become windows of ``kind`` without records."""
        nothing = self._nothing[kind]
        packed = b"".join([nothing if row is None else row for row in rows])
        if len(packed) != len(rows) * self.row_bytes:
            raise TaskCorrupted(
                f"a stored window is not {self.row_bytes} bytes long, as the aggregates "
                f"count, {', '.join(self.numbers)} need; the table was written by other "
                "aggregates. Give the table a new name, or reset the application"
            )
        return packed
