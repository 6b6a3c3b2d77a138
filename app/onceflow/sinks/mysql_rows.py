"""Rows of a MySQL sink: literals when they are yielded, statements when they are written.

Decided here: which statements give, in order, the result of row after row. Consecutive rows with
the same columns go into one INSERT, which takes them one after the other; with a key it replaces
(ON DUPLICATE KEY UPDATE), so that the last row of a key wins. Consecutive deletions go into one
DELETE. Nothing is reordered, because what counts as the same key is up to the column's collation.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from onceflow.columns.parquetrows import is_columnar, rows_of_columns
from onceflow.errors import SerializationError
from onceflow.limits import MYSQL_STATEMENT_BYTES_MAX
from onceflow.sinks.mysql_types import Column, literal
from onceflow.sinks.participant import EncodedRows
from onceflow.sinks.rows import Delete, Row, items_of, key_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Shape:
    """What rows have in common that one statement can write.

    Attributes:
        columns: of a row; empty for a deletion.
    """

    columns: tuple[str, ...]


DELETION = Shape(())
"""Its literals are the key's values."""

Literals: TypeAlias = tuple[Shape, str]
"""A shape, and ``(value, value)`` as SQL."""


def identifier(name: str) -> str:
    """A name in an SQL statement."""
    return "`" + name.replace("`", "``") + "`"


def qualified(table: str) -> str:
    """``database.table`` or ``table`` in an SQL statement; a name with a dot has a database."""
    return ".".join(identifier(part) for part in table.split(".", 1))


class RowWriter:
    """Encodes rows of one table, and gives the statements that write them.

    Args:
        table: as the user wrote it.
        columns: that rows may have.
        key: columns that identify a row; empty for a sink that appends.
        row_bytes_max: longest row that the server takes.
    """

    def __init__(
        self, table: str, columns: Sequence[Column], key: Sequence[str], row_bytes_max: int
    ) -> None:
        self._table = table
        self._columns = {column.name: column for column in columns}
        self._key = tuple(key)
        self._needed = tuple(
            column.name for column in columns if column.is_required or column.name in self._key
        )
        self._row_bytes_max = row_bytes_max
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def encode(self, value: object) -> EncodedRows:
        """Turn what an agent yielded into literals.

        Raises:
            SerializationError: it does not fit the table.
        """
        items = rows_of_columns(value) if is_columnar(value) else items_of(value)
        payload = [
            self._deletion(item) if isinstance(item, Delete) else self._row(item) for item in items
        ]
        size_bytes = 0
        for _, text in payload:
            try:
                length = len(text.encode())
            except UnicodeEncodeError as error:
                raise SerializationError(
                    f"a row for table {self._table} has a text that is no Unicode: {error}"
                ) from error
            if length > self._row_bytes_max:
                raise SerializationError(
                    f"a row for table {self._table} takes {length} bytes, and the server's "
                    f"max_allowed_packet lets {self._row_bytes_max} pass. Raise it there, or yield "
                    f"less."
                )
            size_bytes += length
        return EncodedRows(len(payload), size_bytes, payload)

    def _row(self, row: Row) -> Literals:
        names = tuple(row)
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = self._checked(names)
        for name in self._needed:
            if row.get(name) is None:
                why = "is part of the sink's key" if name in self._key else "is NOT NULL"
                raise SerializationError(
                    f"a row for table {self._table} has no value in column {name!r}, which {why}."
                )
        values = [literal(self._columns[name], value) for name, value in row.items()]
        return shape, f"({','.join(values)})"

    def _checked(self, names: tuple[str, ...]) -> Shape:
        unknown = [name for name in names if name not in self._columns]
        if unknown or not names:
            what = f"takes no column {unknown[0]!r}" if unknown else "takes no row without columns"
            raise SerializationError(
                f"table {self._table} {what}. Columns that rows may have are "
                f"{list(self._columns)}; yield only these, or alter the table and start again."
            )
        return Shape(names)

    def _deletion(self, delete: Delete) -> Literals:
        if not self._key:
            raise SerializationError(
                f"nothing can be deleted from table {self._table}: its sink has no key, so that "
                f"rows are only appended. Give the sink key=[...]."
            )
        values = zip(self._key, key_values(delete, self._key), strict=True)
        texts = [literal(self._columns[name], value) for name, value in values]
        return DELETION, f"({','.join(texts)})"

    def statements(self, yields: Sequence[EncodedRows]) -> Iterator[str]:
        """Give the statements that write rows, in the order in which they must run."""
        rows = (row for encoded in yields for row in encoded.payload)
        for shape, members in groupby(rows, lambda row: row[0]):
            head, tail = self._delete_parts() if shape == DELETION else self._insert_parts(shape)
            texts: list[str] = []
            size_bytes = 0
            for _, text in members:
                # A character takes up to four bytes; rows are cut well below the packet.
                if texts and size_bytes + len(text) > MYSQL_STATEMENT_BYTES_MAX:
                    yield f"{head}{','.join(texts)}{tail}"
                    texts, size_bytes = [], 0
                texts.append(text)
                size_bytes += len(text)
            yield f"{head}{','.join(texts)}{tail}"

    def _insert_parts(self, shape: Shape) -> tuple[str, str]:
        names = ", ".join(map(identifier, shape.columns))
        head = f"INSERT INTO {qualified(self._table)} ({names}) VALUES "
        if not self._key:
            return head, ""
        changed = [name for name in shape.columns if name not in self._key] or [self._key[0]]
        updates = [f"{identifier(name)} = VALUES({identifier(name)})" for name in changed]
        return head, f" ON DUPLICATE KEY UPDATE {', '.join(updates)}"

    def _delete_parts(self) -> tuple[str, str]:
        names = ", ".join(map(identifier, self._key))
        return f"DELETE FROM {qualified(self._table)} WHERE ({names}) IN (", ")"
