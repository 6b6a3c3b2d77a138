"""Rows on their way to PostgreSQL: checked when an agent yields them, written when the epoch seals.

Decided here: how a yield becomes rows of a table, and how rows become the text that PostgreSQL
loads. A yielded dict is checked through its *shape*, the names and types of its values, which is
worked out once; after that a row costs two look-ups. Formatting is put off to the seal, where one
pass over the joined text tells whether anything in it needs escaping.

Must never import psycopg, and does no I/O.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from onceflow.columns import csvrows
from onceflow.columns.batch import KEY_COLUMN, OFFSET_COLUMN, TIMESTAMP_COLUMN
from onceflow.errors import SerializationError
from onceflow.limits import COLUMNAR_ROWS_MIN, ROW_SHAPES_MAX
from onceflow.sinks.participant import EncodedRows
from onceflow.sinks.postgresql_types import BARE, Column, Kind, converter, is_plain, quoted
from onceflow.sinks.rows import Delete, Row, items_of, key_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onceflow.columns.arrow import ArrowTable

BATCH_COLUMNS: Final = frozenset({KEY_COLUMN, OFFSET_COLUMN, TIMESTAMP_COLUMN})
"""What ``RecordBatch.to_arrow`` adds; left out unless the table has columns of these names."""

_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What rows with the same columns and the same types of values have in common."""

    columns: tuple[str, ...]
    is_delete: bool
    """The values are those of a key, whose row is to be deleted."""
    template: str
    """Makes a line of COPY's text format, but for escapes, out of a row by ``%``."""
    nulls: int
    """How many values are None: so many backslashes the line must have."""
    conversions: tuple[tuple[int, Callable[[Any], str]], ...]
    """Which values need more than ``str()``, and what they need."""
    texts: tuple[int, ...]
    """Which values are texts, for their size."""

    def size_bytes(self, values: tuple[Any, ...]) -> int:
        """What a row takes, roughly."""
        return 8 * len(values) + sum([len(values[index]) for index in self.texts])

    def values_of(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row that ``str()`` can write, and that nobody can change any more."""
        changed = list(values)
        for index, convert in self.conversions:
            changed[index] = convert(changed[index])
        return tuple(changed)


ShapedRow: TypeAlias = tuple[Shape, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class ArrowRows:
    """An Arrow table whose columns fit."""

    columns: tuple[str, ...]
    table: ArrowTable


class RowEncoder:
    """Turns what an agent yields into rows of one table.

    Args:
        table: its name, for errors.
        columns: of the table, those that can be written.
        key: columns that identify a row; empty for a sink that appends.
    """

    def __init__(self, table: str, columns: Sequence[Column], key: Sequence[str]) -> None:
        self._table = table
        self._columns = {column.name: column for column in columns}
        self._key = tuple(key)
        self._required = [column.name for column in columns if column.is_required]
        self._shapes: dict[tuple[tuple[str, ...], tuple[type, ...]], Shape] = {}
        self._delete_shapes: dict[tuple[type, ...], Shape] = {}

    def encode(self, value: object) -> EncodedRows:
        """See ``Participant.encode``."""
        if type(value) is dict:
            shape, row = shaped = self._shaped(cast("Row", value))
            return EncodedRows(1, shape.size_bytes(row), [shaped])
        table = csvrows.as_arrow_table(value)
        if table is not None:
            return self._encode_arrow(table)
        items = items_of(value)
        if len(items) >= COLUMNAR_ROWS_MIN:
            table = csvrows.simple_table(items)
            if table is not None and self._takes(table):
                return self._encode_arrow(table)
        return self.encode_rows(items)

    def encode_rows(self, items: Sequence[Row | Delete]) -> EncodedRows:
        """Encode rows and deletions one by one, whatever their number.

        Raises:
            SerializationError: as ``encode``.
        """
        rows = list(map(self._shaped, items))
        return EncodedRows(len(rows), sum([shape.size_bytes(row) for shape, row in rows]), rows)

    def _shaped(self, item: Row | Delete) -> ShapedRow:
        if isinstance(item, Delete):
            shape, values = self._delete_row(item)
        else:
            names, values = tuple(item), tuple(item.values())
            found = self._shapes.get((names, tuple(map(type, values))))
            shape = self._shape(names, values) if found is None else found
        if not shape.conversions:
            return shape, values
        try:
            return shape, shape.values_of(values)
        except (ValueError, TypeError) as error:
            raise SerializationError(
                f"a value of a row for table {self._table} cannot be written: {error}"
            ) from error

    def _takes(self, table: ArrowTable) -> bool:
        """Whether columns of plain rows fit as they are; else each row tells what is wrong."""
        return all(
            name in self._columns
            and (python is type(None) or is_plain(self._columns[name].kind, python))
            for name, python in csvrows.value_types(table).items()
        )

    def _delete_row(self, delete: Delete) -> tuple[Shape, tuple[Any, ...]]:
        if not self._key:
            raise SerializationError(
                f"Delete needs a sink with a key, and the sink of table {self._table} has none: "
                f"it only appends. Give it key=[...], or yield no Delete."
            )
        values = key_values(delete, self._key)
        types = tuple(map(type, values))
        shape = self._delete_shapes.get(types)
        if shape is None:
            shape = self._make_shape(self._key, values, is_delete=True)
            self._remember(self._delete_shapes, types, shape)
        return shape, values

    def _shape(self, names: tuple[str, ...], values: tuple[Any, ...]) -> Shape:
        self._check_names(names)
        given = dict(zip(names, values, strict=True))
        for name in (*self._required, *self._key):
            if given.get(name) is None:
                self._refuse_absent(name)
        shape = self._make_shape(names, values, is_delete=False)
        self._remember(self._shapes, (names, tuple(map(type, values))), shape)
        return shape

    @staticmethod
    def _remember(shapes: dict[Any, Shape], what: Any, shape: Shape) -> None:
        if len(shapes) >= ROW_SHAPES_MAX:
            shapes.clear()
        shapes[what] = shape

    def _check_names(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._columns]
        if unknown or not names:
            what = f"has no column {unknown[0]!r}" if unknown else "takes no row without columns"
            raise SerializationError(
                f"table {self._table} {what}. Its columns are {list(self._columns)}; yield only "
                f"these, or alter the table and start the worker again."
            )

    def _refuse_absent(self, name: str) -> None:
        why = "is part of the sink's key" if name in self._key else "is NOT NULL without a default"
        raise SerializationError(
            f"a row for table {self._table} has no value in column {name!r}, which {why}."
        )

    def _make_shape(
        self, names: tuple[str, ...], values: tuple[Any, ...], *, is_delete: bool
    ) -> Shape:
        parts: list[str] = []
        conversions: list[tuple[int, Callable[[Any], str]]] = []
        texts: list[int] = []
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            parts.append("\\N%.0s" if value is None else "%s")
            if value is None:
                continue
            kind = self._columns[name].kind
            python = cast("type[object]", type(value))
            if not is_plain(kind, python):
                conversions.append((index, self._converter(name, python)))
                texts.append(index)
            elif python is str:
                texts.append(index)
        return Shape(
            names,
            is_delete,
            "\t".join(parts),
            values.count(None),
            tuple(conversions),
            tuple(texts),
        )

    def _converter(self, name: str, python: type) -> Callable[[Any], str]:
        column = self._columns[name]
        convert = converter(column.kind, python)
        if convert is None:
            raise SerializationError(
                f"column {name!r} of table {self._table} is {column.type_name} and takes no "
                f"{python.__name__}. Convert it before it is yielded."
            )
        return convert

    def _encode_arrow(self, table: ArrowTable) -> EncodedRows:
        own = [n for n in table.column_names if n in self._columns or n not in BATCH_COLUMNS]
        if len(own) < len(table.column_names):
            table = table.select(own)
        types = csvrows.value_types(table)
        names = tuple(types)
        self._check_names(names)
        absent = csvrows.null_columns(table)
        for name in (*self._required, *self._key):
            if name not in types or name in absent:
                self._refuse_absent(name)
        converters = {
            name: self._converter(name, python)
            for name, python in types.items()
            if python is not type(None) and not is_plain(self._columns[name].kind, python)
        }
        fitted = csvrows.with_texts(table, converters)
        return EncodedRows(len(table), int(fitted.nbytes), ArrowRows(names, fitted))


def copy_text(rows: Sequence[ShapedRow]) -> str:
    """Lines in COPY's text format, of rows with the same columns."""
    text = "\n".join([shape.template % row for shape, row in rows])
    tabs = (len(rows[0][0].columns) - 1) * len(rows)
    nulls = sum([shape.nulls for shape, _ in rows])
    if (
        text.count("\t") == tabs
        and text.count("\n") == len(rows) - 1
        and text.count("\\") == nulls
        and "\r" not in text
    ):
        return text
    return "\n".join(
        [
            "\t".join(["\\N" if each is None else str(each).translate(_ESCAPES) for each in row])
            for _, row in rows
        ]
    )


def array_literal(kind: Kind, values: Sequence[Any]) -> str:
    """Values of one column as the text of an array."""
    if None in values:
        texts = [
            "NULL" if v is None else str(v) if kind in BARE else quoted(str(v)) for v in values
        ]
        return "{" + ",".join(texts) + "}"
    if kind in BARE:
        return "{" + ",".join(map(str, values)) + "}"
    joined = '","'.join(map(str, values))
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        return "{" + ",".join([quoted(str(value)) for value in values]) + "}"
    return '{"' + joined + '"}' if values else "{}"


@dataclass(slots=True, eq=False)
class Piece:
    """Rows of one epoch that one statement can write."""

    columns: tuple[str, ...]
    """Empty while there are only deletions."""
    rows: list[ShapedRow]
    tables: list[ArrowTable]
    """Instead of ``rows``, one per yield."""
    starts: list[int]
    """Number of the first row, from 0, of each yield in it."""
    yields: list[int]
    """Which yields these are."""

    def culprit(self, row: int) -> int:
        """Which yield brought the row with this number, from 0."""
        return self.yields[bisect_right(self.starts, row) - 1]


def pieces_of(yields: Sequence[EncodedRows]) -> list[Piece]:
    """Cut an epoch's yields into pieces that give, in order, the same result as row after row."""
    pieces: list[Piece] = []
    piece: Piece | None = None
    for index, encoded in enumerate(yields):
        if isinstance(encoded.payload, ArrowRows):
            arrow = encoded.payload
            if piece is None or not piece.tables or piece.columns != arrow.columns:
                piece = Piece(arrow.columns, [], [], [], [])
                pieces.append(piece)
            piece.starts.append(sum(map(len, piece.tables)))
            piece.tables.append(arrow.table)
            piece.yields.append(index)
            continue
        for shaped in cast("list[ShapedRow]", encoded.payload):
            shape = shaped[0]
            if piece is None or not _joins(piece, shape):
                piece = Piece((), [], [], [], [])
                pieces.append(piece)
            if not shape.is_delete and not piece.columns:
                piece.columns = shape.columns
            if not piece.yields or piece.yields[-1] != index:
                piece.starts.append(len(piece.rows))
                piece.yields.append(index)
            piece.rows.append(shaped)
    return pieces


def _joins(piece: Piece, shape: Shape) -> bool:
    if piece.tables:
        return False
    return shape.is_delete or not piece.columns or shape.columns == piece.columns
