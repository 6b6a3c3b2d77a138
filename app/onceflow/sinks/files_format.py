"""How the rows of a files sink are written: JSON lines or Parquet.

What it decides: which directory a row belongs to, and what stands in its file. The partition column
is in the directory's name (Hive's layout, ``column=value``) and not in the file.

Must never import Faust or Kafka; Arrow comes through ``onceflow.columns``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote

import orjson

from onceflow.columns.parquetrows import (
    ParquetRows,
    RowValues,
    is_columnar,
    rows_of_columns,
    write_parquet,
)
from onceflow.errors import SerializationError
from onceflow.limits import FILES_DIRECTORY_BYTES_MAX
from onceflow.sinks.files_segment import Rows
from onceflow.sinks.rows import Delete, Row, items_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from onceflow.columns.arrow import ArrowSchema

NULL_DIRECTORY: Final = "__HIVE_DEFAULT_PARTITION__"
"""Hive's name for rows without a value in the partition column; readers know it."""


class Part:
    """Rows of one directory.

    Attributes:
        rows: how many.
        size_bytes: roughly.
        pieces: as the format wants them.
    """

    __slots__ = ("pieces", "rows", "size_bytes")

    def __init__(self) -> None:
        self.rows = 0
        self.size_bytes = 0
        self.pieces: list[Any] = []

    def add(self, rows: int, size_bytes: int, pieces: Iterable[Any]) -> None:
        """Take rows in."""
        self.rows += rows
        self.size_bytes += size_bytes
        self.pieces.extend(pieces)


class RowFormat(ABC):
    """What a row becomes.

    Args:
        partition_by: column that names the directory, or none.

    Attributes:
        kind: tells packed rows apart that cannot go into one file.
    """

    kind: str

    def __init__(self, partition_by: str | None) -> None:
        self._partition_by = partition_by

    @abstractmethod
    def parts(self, value: object) -> dict[str, Part]:
        """Give the rows of one yield by directory.

        Raises:
            SerializationError: a row cannot be written.
        """

    @abstractmethod
    def pack(self, part: Part) -> Rows:
        """Give rows of one directory as they are kept until their file is made."""

    def directory(self, row: Row) -> str:
        """Give the directory of a row."""
        if self._partition_by is None:
            return ""
        if self._partition_by not in row:
            raise SerializationError(
                f"the row has no {self._partition_by!r}, which names its directory"
            )
        return directory_name(self._partition_by, row[self._partition_by])


class JsonFormat(RowFormat):
    """One JSON object per line, in UTF-8."""

    kind = "json"

    def parts(self, value: object) -> dict[str, Part]:
        """Give the lines of each directory."""
        rows = rows_of_columns(value) if is_columnar(value) else plain_rows(value)
        parts: dict[str, Part] = {}
        for row in rows:
            part = parts.setdefault(self.directory(row), Part())
            kept = {name: each for name, each in row.items() if name != self._partition_by}
            try:
                line = orjson.dumps(kept, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError as error:
                raise SerializationError(f"the row cannot be written as JSON: {error}") from error
            # JSON has no such numbers, and null would be written without a word.
            if b"null" in line and _has_no_number(kept):
                raise SerializationError(
                    "the row cannot be written as JSON: it has a float that is infinite or no "
                    "number. Yield None or a text instead"
                )
            part.add(1, len(line), [line])
        return parts

    def pack(self, part: Part) -> Rows:
        """Give the lines."""
        return Rows(part.rows, b"".join(part.pieces))


class ParquetFormat(RowFormat):
    """Parquet of one schema.

    Args:
        schema: of the rows as they are yielded.
        partition_by: column that names the directory, or none.
    """

    def __init__(self, schema: ArrowSchema, partition_by: str | None) -> None:
        super().__init__(partition_by)
        self._rows = ParquetRows(schema, partition_by)
        self.kind = f"parquet:{self._rows.checksum:08x}"

    def parts(self, value: object) -> dict[str, Part]:
        """Give rows of each directory, checked against the schema."""
        parts: dict[str, Part] = {}
        if is_columnar(value):
            for at, batch in self._rows.from_columns(value):
                name = "" if self._partition_by is None else directory_name(self._partition_by, at)
                part = parts.setdefault(name, Part())
                part.add(batch.num_rows, batch.nbytes, [batch])
            return parts
        for row in plain_rows(value):
            values = self._rows.row_values(row)
            part = parts.setdefault(self.directory(row), Part())
            part.add(1, _size_bytes(values), [values])
        return parts

    def pack(self, part: Part) -> Rows:
        """Give the rows as an Arrow stream."""
        return Rows(part.rows, self._rows.pack(part.pieces))


def _has_no_number(value: object) -> bool:
    """Whether a float in a value, at any depth, is none of JSON's numbers."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inner: Any = value
    if isinstance(value, dict):
        return any(map(_has_no_number, inner.values()))
    return isinstance(value, list | tuple) and any(map(_has_no_number, inner))


def _size_bytes(values: RowValues) -> int:
    """What a row takes, roughly: its texts, and eight bytes for each value."""
    return 8 * len(values) + sum(len(each) for each in values if isinstance(each, str | bytes))


def plain_rows(value: object) -> Sequence[Row]:
    """Give the rows of what an agent yielded: a mapping, a record, or a list of them.

    Raises:
        SerializationError: it is none of these, or a deletion.
    """
    items = items_of(value)
    rows = [item for item in items if not isinstance(item, Delete)]
    if len(rows) < len(items):
        raise SerializationError("files are only appended to: nothing can be deleted from them")
    return rows


def directory_name(column: str, value: object) -> str:
    """Give the name of the directory of a value in Hive's layout.

    Raises:
        SerializationError: the value cannot name a directory exactly, or is too long.
    """
    match value:
        case None:
            text = NULL_DIRECTORY
        case bool():
            text = str(value).lower()
        case str() | int():
            text = str(value)
        case date() if not isinstance(value, datetime):
            text = value.isoformat()
        case _:
            raise SerializationError(
                f"{column}={value!r} cannot name a directory: use text, integers, booleans or dates"
            )
    if value is not None and text in {"", NULL_DIRECTORY}:
        raise SerializationError(f"{column}={value!r} cannot name a directory")
    try:
        name = f"{quote(column, safe='')}={quote(text, safe=' ')}"
    except UnicodeEncodeError as error:
        raise SerializationError(f"{column}={value!r} cannot name a directory: {error}") from error
    if len(name) > FILES_DIRECTORY_BYTES_MAX:
        raise SerializationError(
            f"{column}={value!r} is too long to name a directory: {len(name)} bytes encoded, at "
            f"most {FILES_DIRECTORY_BYTES_MAX}"
        )
    return name


def suffix_of(kind: str) -> str:
    """Give how the names of files end that hold rows of this kind."""
    return ".jsonl" if kind == JsonFormat.kind else ".parquet"


def writer_of(kind: str) -> Callable[[Iterable[bytes], BinaryIO], None]:
    """Give what makes one file of packed rows of this kind."""
    return _write_lines if kind == JsonFormat.kind else write_parquet


def _write_lines(sections: Iterable[bytes], file: BinaryIO) -> None:
    file.writelines(sections)
