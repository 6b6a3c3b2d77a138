"""Rows for Parquet files: from what agents yield to Arrow, packed, and into a file.

Rules of the file: a row either fits the schema exactly or is refused with an error that can be
blamed on its record; nothing is dropped, and a null is written only where the schema admits it.
Packed rows are an Arrow stream, so that what waits for its file is typed already.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast, get_type_hints

import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from onceflow.columns.arrow import (
    ArrowArray,
    ArrowBatch,
    ArrowError,
    ArrowField,
    ArrowSchema,
    ArrowTable,
    pa,
    pc,
)
from onceflow.columns.schema import schema_from_annotations
from onceflow.errors import ConfigError, DataAtRisk, SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_parquet: Any = cast("Any", pyarrow.parquet)

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

    def from_rows(self, rows: Sequence[Mapping[str, Any]]) -> ArrowBatch:
        """Give rows as a batch of the whole schema.

        Raises:
            SerializationError: a row has a column that the schema lacks, or a value of another
                type, or none where one must be.
        """
        for row in rows:
            if not self._names.issuperset(row):
                unknown = ", ".join(repr(name) for name in row if name not in self._names)
                raise SerializationError(
                    f"the row has {unknown}, which the Parquet schema has not; it would be lost. "
                    f"The schema has {', '.join(self._schema.names)}"
                )
        columns = [_column([row.get(field.name) for row in rows], field) for field in self._schema]
        return self._checked(pa.RecordBatch.from_arrays(columns, schema=self._schema))

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
                raise SerializationError(
                    f"column {field.name!r} has no value, and the Parquet schema says that it "
                    "always has one"
                )
        return batch

    def pack(self, parts: Sequence[ArrowBatch | Mapping[str, Any]]) -> bytes:
        """Give rows, checked before, and batches as an Arrow stream of the files' schema."""
        names = self.file_schema.names
        batches: list[Any] = []
        rows: list[Mapping[str, Any]] = []
        for part in parts:
            if isinstance(part, Mapping):
                rows.append(cast("Mapping[str, Any]", part))
                continue
            if rows:
                batches.append(pa.RecordBatch.from_pylist(rows, schema=self.file_schema))
                rows = []
            batches.append(pa.RecordBatch.from_arrays([part.column(n) for n in names], names=names))
        if rows:
            batches.append(pa.RecordBatch.from_pylist(rows, schema=self.file_schema))
        table = pa.Table.from_batches([batch.cast(self.file_schema) for batch in batches])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.file_schema) as writer:
            writer.write_table(table.combine_chunks())
        return sink.getvalue().to_pybytes()


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
