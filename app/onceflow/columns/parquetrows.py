"""Rows for Parquet files: from what agents yield to Arrow, packed, and into a file.

Rules of the file: a row either fits the schema exactly or is refused with an error that can be
blamed on its record; nothing is dropped, and a null is written only where the schema admits it.
Packed rows are an Arrow stream, so that what waits for its file is typed already.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from copy import deepcopy
from datetime import date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, cast, get_type_hints

import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from onceflow.columns.arrow import (
    ArrowArray,
    ArrowBatch,
    ArrowError,
    ArrowField,
    ArrowSchema,
    ArrowTable,
    ArrowType,
    pa,
    pc,
)
from onceflow.columns.schema import schema_from_annotations
from onceflow.errors import ConfigError, DataAtRisk, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_parquet: Any = cast("Any", pyarrow.parquet)

RowValues: TypeAlias = tuple[Any, ...]
"""Values of one row, in the order of the files' columns."""

ROW_GROUP_ROWS: Final = 131_072
"""Rows of a row group: some megabytes, what readers take at once."""


def is_columnar(value: object) -> bool:
    """Whether a value is an Arrow table or record batch."""
    return isinstance(value, pa.Table | pa.RecordBatch)


def rows_of_columns(columns: ArrowTable) -> list[dict[str, Any]]:
    """Give the rows of an Arrow table or record batch."""
    return columns.to_pylist()


def schema_of(source: object) -> ArrowSchema:
    """Give the schema that a user described.

    Args:
        source: a ``pyarrow.Schema``, a record class with annotations, or a mapping of names to
            types.

    Raises:
        ConfigError: it is none of these, or a type has no column.
    """
    if isinstance(source, pa.Schema):
        return source
    if isinstance(source, type):
        return schema_from_annotations(get_type_hints(source))
    if isinstance(source, Mapping):
        return schema_from_annotations(cast("Mapping[str, Any]", source))
    raise ConfigError(
        f"{source!r} describes no columns; give schema= a pyarrow.Schema, a record class or a "
        "mapping of column names to types"
    )


class ParquetRows:
    """Turns rows and columns into packed Arrow of one schema.

    Args:
        schema: of the rows as they are yielded.
        partition_by: column that names the directory and is left out of the files; or none.
    """

    def __init__(self, schema: ArrowSchema, partition_by: str | None) -> None:
        self._schema = schema
        self._names = frozenset(schema.names)
        self._partition_by = partition_by
        self._fields = [(field.name, field, _check_of(field.type)) for field in schema]
        if partition_by is not None and partition_by not in self._names:
            raise ConfigError(
                f"partition_by={partition_by!r} is no column of the schema; it has "
                f"{', '.join(schema.names)}"
            )
        self.file_schema: ArrowSchema = pa.schema(
            [field for field in schema if field.name != partition_by]
        )
        self.checksum = zlib.crc32(self.file_schema.serialize().to_pybytes())
        """Equal for equal schemas, in every process."""

    def row_values(self, row: Mapping[str, Any]) -> RowValues:
        """Give a row's values in the order of the files' columns, checked against the schema.

        They are copies where they could change: the row is written when its epoch ends.

        Raises:
            SerializationError: the row has a column that the schema lacks, or a value of another
                type, or none where one must be.
        """
        if not self._names.issuperset(row):
            unknown = ", ".join(repr(name) for name in row if name not in self._names)
            raise SerializationError(
                f"the row has {unknown}, which the Parquet schema has not; it would be lost. "
                f"The schema has {', '.join(self._schema.names)}"
            )
        values: list[Any] = []
        for name, field, fits in self._fields:
            value = row.get(name)
            if value is None:
                if not field.nullable:
                    raise _no_value(name)
            elif fits is None or not fits(value):
                _column([value], field)
                value = deepcopy(value)
            if name != self._partition_by:
                values.append(value)
        return tuple(values)

    def from_columns(self, columns: ArrowTable) -> list[tuple[Any, ArrowBatch]]:
        """Split a table or batch by the partition column.

        Returns:
            the value (None without a partition column) and the rows of each part.

        Raises:
            SerializationError: the columns are not those of the schema.
        """
        if sorted(columns.schema.names) != sorted(self._names):
            raise SerializationError(
                f"the columns are {', '.join(columns.schema.names)}, and the Parquet schema has "
                f"{', '.join(self._schema.names)}"
            )
        table = columns if isinstance(columns, pa.Table) else pa.Table.from_batches([columns])
        try:
            table = table.select(self._schema.names).cast(self._schema)
        except (ArrowError, TypeError, ValueError) as error:
            raise SerializationError(
                f"the columns do not fit the Parquet schema: {error}"
            ) from error
        parts: list[tuple[Any, Any]] = [(None, table)]
        if self._partition_by is not None:
            column = table.column(self._partition_by)
            parts = [
                (value.as_py(), table.filter(_equal(column, value))) for value in column.unique()
            ]
        return [
            (value, self._checked(batch))
            for value, part in parts
            for batch in part.combine_chunks().to_batches()
        ]

    def _checked(self, batch: ArrowBatch) -> ArrowBatch:
        for index, field in enumerate(self._schema):
            if not field.nullable and batch.column(index).null_count:
                raise _no_value(field.name)
        return batch

    def pack(self, parts: Sequence[ArrowBatch | RowValues]) -> bytes:
        """Give rows, checked before, and batches as an Arrow stream of the files' schema."""
        batches: list[Any] = []
        for is_row, members in groupby(parts, lambda part: type(part) is tuple):
            if is_row:
                columns = zip(*cast("Iterable[RowValues]", members), strict=True)
                arrays = [
                    pa.array(values, field.type)
                    for values, field in zip(columns, self.file_schema, strict=True)
                ]
                batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.file_schema))
            else:
                names = self.file_schema.names
                several = cast("Iterable[ArrowBatch]", members)
                batches += [batch.select(names).cast(self.file_schema) for batch in several]
        table = pa.Table.from_batches(batches)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.file_schema) as writer:
            writer.write_table(table.combine_chunks())
        return sink.getvalue().to_pybytes()


def _no_value(name: str) -> SerializationError:
    return SerializationError(
        f"column {name!r} has no value, and the Parquet schema says that it always has one"
    )


def _is_text(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        # A lone surrogate is no UTF-8, which Arrow would find out only when the epoch ends.
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _exactly(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _check_of(arrow_type: ArrowType) -> Callable[[Any], bool] | None:
    """Give a quick check for values that surely fit; others are left to Arrow. None: all are."""
    types = pa.types
    if types.is_integer(arrow_type):
        bits = arrow_type.bit_width
        low, high = (
            (-(1 << bits - 1), 1 << bits - 1)
            if types.is_signed_integer(arrow_type)
            else (0, 1 << bits)
        )
        return lambda value: type(value) is int and low <= value < high
    if types.is_timestamp(arrow_type):
        has_zone = arrow_type.tz is not None
        if arrow_type.unit != "us":
            return None
        return lambda value: type(value) is datetime and (value.tzinfo is not None) is has_zone
    found = (
        (types.is_floating, _exactly(float)),
        (types.is_string, _is_text),
        (types.is_boolean, _exactly(bool)),
        (types.is_binary, _exactly(bytes)),
        (types.is_date32, _exactly(date)),
    )
    return next((check for matches, check in found if matches(arrow_type)), None)


def _column(values: list[Any], field: ArrowField) -> ArrowArray:
    """Give values as a column of this field's type, if they fit it exactly."""
    try:
        column = pa.array(values, field.type)
        # Arrow cuts 1.5 to 1 where it is told that integers are wanted; it says so when it casts
        # what it took the values for by itself.
        found = pa.array(values)
        if found.type != field.type:
            found.cast(field.type)
    except (ArrowError, TypeError, ValueError, OverflowError) as error:
        raise SerializationError(
            f"column {field.name!r} does not fit its type {field.type} of the Parquet schema: "
            f"{error}"
        ) from error
    return column


def _equal(column: Any, value: Any) -> Any:
    return pc.equal(column, value) if value.is_valid else pc.is_null(column)


def write_parquet(streams: Iterable[bytes], file: BinaryIO) -> None:
    """Write packed rows of one schema as one Parquet file.

    Args:
        streams: at least one, as ``ParquetRows.pack`` made them.
        file: open for writing.

    Raises:
        DataAtRisk: packed rows cannot be read.
    """
    writer: Any = None
    gathered: list[Any] = []
    rows = 0
    try:
        for packed in streams:
            table = pa.ipc.open_stream(packed).read_all()
            if writer is None:
                writer = _parquet.ParquetWriter(file, table.schema, compression="zstd")
            gathered.append(table)
            rows += table.num_rows
            if rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(gathered), row_group_size=ROW_GROUP_ROWS)
                gathered, rows = [], 0
        if gathered:
            writer.write_table(pa.concat_tables(gathered), row_group_size=ROW_GROUP_ROWS)
        if writer is not None:
            writer.close()
    except ArrowError as error:
        raise DataAtRisk(
            f"committed rows that wait for their Parquet file cannot be read: {error}. They lie "
            "below .onceflow in the sink's directory; keep it, and report this"
        ) from error
