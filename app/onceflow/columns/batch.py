"""A run of consecutive records of one partition, as columns.

What an agent receives from ``stream.batches()``. The columns are plain lists of what Kafka
delivered; ``to_arrow()`` decodes them into Arrow arrays, which polars, DuckDB and pandas read in
place. Rules of the file: a value that does not decode is an error that names its record, never a
null, because a null would be a lost record that nobody sees.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onceflow.columns.arrow import ArrowArray, ArrowBatch, ArrowError, ArrowSchema, ArrowType, pa
from onceflow.columns.jsonrows import JsonRows, decoded, json_decoder
from onceflow.columns.schema import python_type
from onceflow.errors import ColumnDecodeError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY_COLUMN, VALUE_COLUMN = "_key", "_value"
OFFSET_COLUMN, TIMESTAMP_COLUMN = "_offset", "_timestamp"
"""Columns that ``to_arrow`` adds; the underscore keeps them apart from fields of the values."""


class RecordBatch:
    """Consecutive records of one partition, oldest first, one list per column.

    Attributes:
        topic: where the records come from.
        partition: its number.
        keys: as delivered; None where a record has no key.
        values: as delivered; None is a tombstone.
        offsets: ascending, not always consecutive (compaction and transactions leave gaps).
        timestamps: milliseconds since 1970, UTC.
        headers: per record a list of (name, value) or None; None if no record has headers.
        schema: by which ``to_arrow`` decodes the values if no other is given, or a function that
            makes it when it is needed; None: not at all.
    """

    __slots__ = (
        "headers",
        "keys",
        "offsets",
        "partition",
        "schema",
        "timestamps",
        "topic",
        "values",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        keys: list[bytes | None],
        values: list[bytes | None],
        offsets: list[int],
        timestamps: list[int],
        headers: list[Any] | None = None,
        schema: ArrowSchema | Callable[[], ArrowSchema | None] | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.keys = keys
        self.values = values
        self.offsets = offsets
        self.timestamps = timestamps
        self.headers = headers
        self.schema = schema

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, records: slice) -> RecordBatch:
        """Give the records of a slice as a batch of their own; a single index is refused."""
        if not isinstance(records, slice):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"a batch is sliced, batch[a:b], not indexed with {records!r}; take one record's "
                "fields from the columns, as in batch.values[i]"
            )
        return RecordBatch(
            self.topic,
            self.partition,
            self.keys[records],
            self.values[records],
            self.offsets[records],
            self.timestamps[records],
            None if self.headers is None else self.headers[records],
            self.schema,
        )

    def __repr__(self) -> str:
        span = f"offsets {self.offsets[0]}..{self.offsets[-1]}" if self.offsets else "empty"
        return f"<RecordBatch {self.topic}[{self.partition}] {len(self)} records, {span}>"

    def to_arrow(
        self, schema: ArrowSchema | None = None, *, keys: ArrowType | ArrowSchema | None = None
    ) -> ArrowBatch:
        """Decode the batch into Arrow columns.

        Args:
            schema: a ``pyarrow.Schema`` of the fields to take from values that are JSON objects;
                fields that it does not name are skipped. A field may be absent or null only if
                the schema says ``nullable`` (Arrow's default); a value of another type is an
                error in any case. Without it the batch's own schema is used, which the engine
                derives from the topic's record class; without either the values stay bytes.
            keys: how to decode keys: None leaves them bytes, ``pyarrow.string()`` reads UTF-8, any
                other type reads JSON, a schema reads JSON objects into one struct column. A
                record without a key has a null there.

        Returns:
            a ``pyarrow.RecordBatch`` with the columns ``_key``, ``_offset`` (int64), ``_timestamp``
            (milliseconds, UTC), and one per field of the schema (or ``_value``, binary). polars,
            DuckDB and pandas read numbers, times and offsets in place.

        Raises:
            ColumnDecodeError: names the first record that does not decode. Reaction: let it out of
                the agent, whose ``on_error`` decides; nothing of the batch took effect.
            ConfigError: the schema has a type that is not read from JSON, or a reserved name.
        """
        if schema is None:
            schema = self.schema() if callable(self.schema) else self.schema
        columns: dict[str, ArrowArray] = {
            KEY_COLUMN: self._key_column(keys),
            OFFSET_COLUMN: pa.array(self.offsets, pa.int64()),
            TIMESTAMP_COLUMN: pa.array(self.timestamps, pa.timestamp("ms", tz="UTC")),
        }
        if schema is None:
            columns[VALUE_COLUMN] = pa.array(self.values, pa.binary())
            return pa.RecordBatch.from_pydict(columns)
        for name in schema.names:
            if name in columns:
                raise ConfigError(f"the schema names {name!r}, a column that to_arrow() adds")
        fields = {field.name: field.type for field in schema}
        rows = JsonRows({field.name: python_type(field) for field in schema})
        documents = rows.decode(self)
        metadata = [pa.field(name, column.type) for name, column in columns.items()]
        for name, arrow_type in fields.items():
            entries = rows.column(documents, name)
            columns[name] = self._column(f"field {name!r}", entries, arrow_type)
        return pa.RecordBatch.from_arrays(
            list(columns.values()), schema=pa.schema([*metadata, *schema], schema.metadata)
        )

    def blame(self, index: int, what: str, reason: str) -> ColumnDecodeError:
        """Give the error that names one record of the batch.

        Args:
            index: which record, from 0.
            what: what of it, such as ``value``.
            reason: what is wrong, in a clause.
        """
        offset = self.offsets[index]
        return ColumnDecodeError(
            f"{self.topic}[{self.partition}] offset {offset}: {what} not decoded: {reason}; no "
            "effect of its batch is kept, and the agent's on_error decides what becomes of it",
            index=index,
            offset=offset,
        )

    def _key_column(self, keys: ArrowType | ArrowSchema | None) -> ArrowArray:
        """Decode the keys."""
        if keys is None:
            return pa.array(self.keys, pa.binary())
        if isinstance(keys, pa.Schema):
            keys = pa.struct(list(keys))
        if pa.types.is_string(keys) or pa.types.is_large_string(keys):
            decode = bytes.decode
        else:
            decode = json_decoder(python_type(pa.field("key", keys, nullable=False)))
        entries = decoded(self, "key", self.keys, lambda key: None if key is None else decode(key))
        return self._column("key", entries, keys)

    def _column(self, what: str, entries: Sequence[Any], arrow_type: ArrowType) -> ArrowArray:
        """Make one column of decoded entries; find the record to blame if one does not fit."""
        try:
            return pa.array(entries, arrow_type)
        except (ArrowError, OverflowError, ValueError, TypeError):
            for index, entry in enumerate(entries):
                try:
                    pa.array([entry], arrow_type)
                except (ArrowError, OverflowError, ValueError, TypeError) as reason:
                    raise self.blame(index, what, str(reason)) from reason
            raise
