"""Writes an epoch's rows into a PostgreSQL table, inside the transaction that is to be prepared.

Decided here: rows without a key go in by COPY. Rows with a key go in as arrays, one per column,
that the server unnests, so that the last one of each key wins and replaces or deletes its row.
*Alternative:* a staging table filled by COPY. *Why not:* temporary tables are forbidden in prepared
transactions, and an ordinary one leaves a dead row behind for each written one, or takes 3 ms to
make and drop in each epoch.
Measured on PostgreSQL 15, 20 / 1,000 / 10,000 rows of ten columns per epoch, in us per row: arrays
40 / 10 / 11, staging table 46 / 18 / 9, made and dropped 190 / 30 / 13, JSON 34 / 15 / 13.

Must never import Faust.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import psycopg

from onceflow.columns import csvrows
from onceflow.sinks.postgresql_rows import Piece, array_literal, copy_text, pieces_of
from onceflow.sinks.postgresql_session import DeadlinePassed, blames_data
from onceflow.sinks.postgresql_table import identifier, qualified
from onceflow.sinks.postgresql_types import BARE, Column, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onceflow.sinks.participant import EncodedRows
    from onceflow.sinks.postgresql_rows import RowEncoder, ShapedRow
    from onceflow.sinks.postgresql_session import Session

_LINE: Final = re.compile(r"^COPY \S.*?, \w+ (\d+)")
"""How the context of an error names COPY's line, in whatever language the server speaks."""


class TableWriter:
    """Writes into one table.

    Args:
        session: its connection is inside a transaction whenever ``write`` is called.
        table: as the user wrote it.
        columns: of the table.
        key: columns that identify a row; empty for a sink that appends.
        encoder: the one that made the rows.
    """

    def __init__(
        self,
        session: Session,
        table: str,
        columns: Sequence[Column],
        key: Sequence[str],
        encoder: RowEncoder,
    ) -> None:
        self._session = session
        self._table = qualified(table)
        self._columns = {column.name: column for column in columns}
        self._key = tuple(key)
        self._encoder = encoder

    def write(self, rows: Sequence[EncodedRows]) -> None:
        """Write the rows.

        Raises:
            RowsBlamed: the data of a row is to blame; the transaction is of no use any more.
            psycopg.Error: anything else.
        """
        for piece in pieces_of(rows):
            try:
                self._write_piece(piece)
            except psycopg.Error as error:
                if not blames_data(error):
                    raise
                raise RowsBlamed(error, self._culprit(piece, error)) from error
            except UnicodeEncodeError as error:
                raise RowsBlamed(error, _not_encodable(piece)) from error

    def _write_piece(self, piece: Piece) -> None:
        if self._key:
            self._replace(piece)
        elif piece.tables:
            self._copy_tables(piece)
        else:
            self._copy(piece.columns, copy_text(piece.rows).encode(), "")

    def _copy_tables(self, piece: Piece) -> None:
        texts = [csvrows.csv_bytes(table) for table in piece.tables]
        if any(b"\n\\." in text for text in texts):
            # Servers before version 18 take such a line for the end, even inside quotes.
            for table in piece.tables:
                rows = self._encoder.encode_rows(csvrows.rows_of(table)).payload
                self._copy(piece.columns, copy_text(rows).encode(), "")
            return
        # The server counts lines, and a quoted text may have several.
        lines = [text.count(b"\n") for text in texts]
        piece.starts = [0, *accumulate(lines[:-1])]
        self._copy(piece.columns, b"".join(texts), " WITH (FORMAT csv)")

    def _copy(self, columns: Iterable[str], text: bytes, form: str) -> None:
        listed = ", ".join(map(identifier, columns))
        statement = f"COPY {self._table} ({listed}) FROM STDIN{form}"
        with self._session.connection().cursor().copy(statement.encode()) as copy:
            copy.write(text)

    @staticmethod
    def _culprit(piece: Piece, error: psycopg.Error) -> int | None:
        if len(piece.yields) == 1:
            return piece.yields[0]
        found = _LINE.match(error.diag.context or "")
        return piece.culprit(int(found[1]) - 1) if found else None

    def _replace(self, piece: Piece) -> None:
        gone = [row for shape, row in piece.rows if shape.is_delete]
        if gone:
            self._delete(gone)
        if piece.tables:
            bare = {name for name in piece.columns if self._columns[name].kind in BARE}
            self._upsert(piece.columns, csvrows.array_literals(piece.tables, bare), [])
        elif piece.columns:
            flags = ["t" if shape.is_delete else "f" for shape, _ in piece.rows] if gone else []
            self._upsert(piece.columns, self._literals(piece.columns, piece.rows), flags)

    def _literals(self, columns: Sequence[str], rows: Sequence[ShapedRow]) -> list[str]:
        """One array per column; a deletion has its key and nothing else."""
        kinds = [self._columns[name].kind for name in columns]
        places = [self._key.index(name) if name in self._key else None for name in columns]
        plain = [
            tuple([None if place is None else row[place] for place in places])
            if shape.is_delete
            else row
            for shape, row in rows
        ]
        return [
            array_literal(kind, values)
            for kind, values in zip(kinds, zip(*plain, strict=True), strict=True)
        ]

    def _delete(self, keys: Sequence[tuple[object, ...]]) -> None:
        kinds = [self._columns[name].kind for name in self._key]
        given = ", ".join(f"%s::{self._array_type(name)}" for name in self._key)
        names = ", ".join(map(_in_query, self._key))
        same = " AND ".join(f"t.{_in_query(name)} = {self._given(name)}" for name in self._key)
        literals = [
            array_literal(kind, values)
            for kind, values in zip(kinds, zip(*keys, strict=True), strict=True)
        ]
        self._session.execute(
            f"DELETE FROM {_doubled(self._table)} AS t USING unnest({given}) AS u ({names})"
            f" WHERE {same}",
            literals,
        )

    def _upsert(self, columns: Sequence[str], literals: list[str], gone: list[str]) -> None:
        """Write rows of which the last one of a key wins; where that is a deletion, nothing."""
        names = ", ".join(map(_in_query, columns))
        key = ", ".join(map(_in_query, self._key))
        given = [f"%s::{self._array_type(name)}" for name in columns]
        change = ", ".join(
            f"{_in_query(name)} = EXCLUDED.{_in_query(name)}"
            for name in columns
            if name not in self._key
        )
        flag, condition = ("", "")
        if gone:
            given.append("%s::bool[]")
            literals = [*literals, "{" + ",".join(gone) + "}"]
            flag, condition = (", onceflow_gone", " WHERE NOT onceflow_gone")
        last = (
            f"SELECT DISTINCT ON ({key}) {names}{flag} FROM (SELECT "
            f"{', '.join(f'{self._given(name)} AS {_in_query(name)}' for name in columns)}{flag}, "
            f"onceflow_number FROM unnest({', '.join(given)}) WITH ORDINALITY"
            f" AS u ({names}{flag}, onceflow_number)) AS typed"
            f" ORDER BY {key}, onceflow_number DESC"
        )
        self._session.execute(
            f"INSERT INTO {_doubled(self._table)} ({names}) SELECT {names} FROM ({last}) AS last"
            f"{condition} ON CONFLICT ({key}) DO "
            + (f"UPDATE SET {change}" if change else "NOTHING"),
            literals,
        )

    def _array_type(self, name: str) -> str:
        # unnest would take an array of arrays apart altogether, so arrays travel as texts.
        column = self._columns[name]
        return "text[]" if column.kind is Kind.ARRAY else _doubled(column.array_type)

    def _given(self, name: str) -> str:
        column = self._columns[name]
        cast_to = f"::{_doubled(column.array_type[:-2])}" if column.kind is Kind.ARRAY else ""
        return f"u.{_in_query(name)}{cast_to}"


class RowsBlamed(Exception):  # noqa: N818 - named as errors.py names errors
    """The data of rows is to blame.

    Attributes:
        error: what PostgreSQL or Python said.
        culprit: which of the yields it is; None if that is not known.
    """

    def __init__(self, error: psycopg.Error | UnicodeEncodeError, culprit: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.culprit = culprit


def first_refused(writer: TableWriter, rows: Sequence[EncodedRows], session: Session) -> int | None:
    """Find the first yield that is refused, by writing ever shorter beginnings without effect.

    Costs some log2(len(rows)) times the writing, within the session's bound. Returns None if no
    beginning is refused for its data, or the time does not suffice.
    """
    accepted, refused = 0, len(rows)
    try:
        while accepted + 1 < refused:
            middle = (accepted + refused) // 2
            if _is_refused(writer, rows[:middle], session):
                refused = middle
            else:
                accepted = middle
        is_found = _is_refused(writer, rows[:refused], session)
    except psycopg.Error:
        # Which row is to blame is a help, not a must: without it the engine tries records alone.
        return None
    return refused - 1 if is_found else None


def _is_refused(writer: TableWriter, rows: Sequence[EncodedRows], session: Session) -> bool:
    session.execute("BEGIN")
    try:
        writer.write(rows)
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except RowsBlamed:
        return True
    except DeadlinePassed:
        raise
    except psycopg.Error as error:
        if not blames_data(error):
            raise
        return True
    finally:
        if not session.is_lost():
            session.execute("ROLLBACK")
    return False


def _not_encodable(piece: Piece) -> int | None:
    for number, (_, row) in enumerate(piece.rows):
        try:
            "".join(map(str, row)).encode()
        except UnicodeEncodeError:
            return piece.culprit(number)
    return None


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def _in_query(name: str) -> str:
    """A name in a statement with values, where a percent sign stands for one."""
    return _doubled(identifier(name))
