"""RecordBatch: columns of a run of records, and how they become Arrow."""

from datetime import UTC, datetime

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from onceflow.columns.batch import RecordBatch
from onceflow.columns.schema import schema_from_annotations
from onceflow.errors import ColumnDecodeError, ConfigError, DeserializationError

ORDER = schema_from_annotations({"id": int, "price": float, "note": str | None})


def batch_of(values, keys=None, first_offset=100, **more):
    count = len(values)
    return RecordBatch(
        "orders",
        3,
        keys if keys is not None else [b"k"] * count,
        values,
        list(range(first_offset, first_offset + count)),
        [1_700_000_000_000 + index for index in range(count)],
        **more,
    )


ORDERS = [b'{"id":1,"price":2.5,"note":"a"}', b'{"id":2,"price":4}', b'{"id":3,"price":0.1,"x":[]}']


def test_slice_takes_the_same_records_of_every_column():
    batch = batch_of(ORDERS, [b"a", None, b"c"], headers=[[("h", b"1")], None, []], schema=ORDER)
    part = batch[1:]
    assert len(batch) == 3
    assert len(part) == 2
    assert part.keys == [None, b"c"]
    assert part.values == ORDERS[1:]
    assert part.offsets == [101, 102]
    assert part.timestamps == [1_700_000_000_001, 1_700_000_000_002]
    assert part.headers == [None, []]
    assert (part.topic, part.partition, part.schema) == ("orders", 3, ORDER)
    assert batch_of(ORDERS)[:1].headers is None


def test_single_index_is_refused_with_the_way_to_do_it():
    with pytest.raises(TypeError, match=r"batch\.values\[i\]"):
        batch_of(ORDERS)[0]


def test_without_a_schema_keys_and_values_stay_bytes():
    arrow = batch_of([b"x", None], [None, b"k"]).to_arrow()
    assert arrow.column_names == ["_key", "_offset", "_timestamp", "_value"]
    assert arrow.column("_value").to_pylist() == [b"x", None]
    assert arrow.column("_key").to_pylist() == [None, b"k"]
    assert arrow.column("_offset").to_pylist() == [100, 101]
    assert arrow.column("_timestamp").type == pa.timestamp("ms", tz="UTC")


def test_schema_of_the_batch_decodes_unless_another_is_given():
    batch = batch_of(ORDERS, schema=ORDER)
    assert batch.to_arrow().select(["id", "price", "note"]).to_pylist() == [
        {"id": 1, "price": 2.5, "note": "a"},
        {"id": 2, "price": 4.0, "note": None},
        {"id": 3, "price": 0.1, "note": None},
    ]
    narrow = batch.to_arrow(pa.schema([pa.field("id", pa.int8(), nullable=False)]))
    assert narrow.column_names == ["_key", "_offset", "_timestamp", "id"]
    assert narrow.schema.field("id").type == pa.int8()


def test_empty_batch_has_the_columns_of_its_schema():
    arrow = batch_of([], schema=ORDER).to_arrow()
    assert arrow.num_rows == 0
    assert arrow.schema.field("id") == pa.field("id", pa.int64(), nullable=False)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"id":"2","price":1.0}', "int"),
        (b'{"id":2.5,"price":1.0}', "int"),
        (b'{"id":true,"price":1.0}', "int"),
        (b'{"id":null,"price":1.0}', "int"),
        (b'{"price":1.0}', "missing required field"),
        (b'{"id":9223372036854775808,"price":1.0}', "id"),
        (b'{"id":1,"price":1.0', "truncated"),
        (b'{"id":1,"price":1.0},{"id":1,"price":1.0}', "malformed"),
        (b"[1]", "array"),
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (None, "tombstone"),
    ],
)
def test_value_that_does_not_decode_names_its_record(value, reason):
    batch = batch_of([ORDERS[0], value, ORDERS[1], value], schema=ORDER)
    with pytest.raises(ColumnDecodeError, match=r"orders\[3\] offset 101.*") as caught:
        batch.to_arrow()
    assert reason in str(caught.value)
    assert (caught.value.index, caught.value.offset) == (1, 101)
    assert isinstance(caught.value, DeserializationError)


def test_two_broken_values_cannot_complete_each_other():
    halves = [b'{"id":1,"price":1.0,"x":[{}', b"{}]}", b'{"id":1,"price":1.0},{"id":1,"price":1.0}']
    with pytest.raises(ColumnDecodeError) as caught:
        batch_of(halves, schema=ORDER).to_arrow()
    assert caught.value.index == 0


def test_keys_decode_as_text_numbers_or_objects():
    assert batch_of([b"", b""], [b"\xc3\xa4", None]).to_arrow(keys=pa.string()).column(
        "_key"
    ).to_pylist() == ["ä", None]
    assert batch_of([b""], [b"17"]).to_arrow(keys=pa.int64()).column("_key").to_pylist() == [17]
    by_object = pa.schema([pa.field("u", pa.int64(), nullable=False)])
    assert batch_of([b""], [b'{"u":5}']).to_arrow(keys=by_object).column("_key").to_pylist() == [
        {"u": 5}
    ]


@pytest.mark.parametrize("keys", [pa.string(), pa.int64()])
def test_key_that_does_not_decode_names_its_record(keys):
    with pytest.raises(ColumnDecodeError, match="key not decoded") as caught:
        batch_of([b"", b""], [b"1", b"\xff"]).to_arrow(keys=keys)
    assert caught.value.offset == 101


def test_reserved_names_and_unreadable_types_are_refused():
    with pytest.raises(ConfigError, match="_key"):
        batch_of(ORDERS).to_arrow(pa.schema([("_key", pa.string())]))
    with pytest.raises(ConfigError, match="duration"):
        batch_of(ORDERS).to_arrow(pa.schema([("id", pa.duration("s"))]))


def test_polars_and_pandas_read_numbers_in_place():
    arrow = batch_of(ORDERS, schema=ORDER).to_arrow()
    frame = pl.from_arrow(arrow)
    assert frame["price"].to_list() == [2.5, 4.0, 0.1]
    for name in ("id", "price", "_offset"):
        address = arrow.column(name).buffers()[1].address
        assert frame[name].to_arrow().buffers()[1].address == address
        assert arrow.column(name).to_numpy().__array_interface__["data"][0] == address
    assert arrow.to_pandas()["id"].tolist() == [1, 2, 3]


def test_duckdb_queries_a_batch():
    orders = batch_of(ORDERS, schema=ORDER).to_arrow()
    connection = duckdb.connect()
    connection.register("orders", pa.Table.from_batches([orders]))
    assert connection.execute("select sum(id), max(_offset) from orders").fetchone() == (6, 102)


def test_schema_from_annotations_covers_the_types_of_records():
    schema = schema_from_annotations(
        {
            "text": str,
            "whole": int,
            "real": float,
            "flag": bool,
            "raw": bytes,
            "at": datetime,
            "maybe": int | None,
            "many": list[str],
            "some": list[float | None] | None,
        }
    )
    assert schema.names == [
        "text", "whole", "real", "flag", "raw", "at", "maybe", "many", "some",
    ]  # fmt: skip
    assert [field.name for field in schema if field.nullable] == ["maybe", "some"]
    value = (
        b'{"text":"t","whole":1,"real":1.5,"flag":true,"raw":"b","at":"2013-01-01T05:00:00+00:00",'
        b'"maybe":null,"many":["a"],"some":[1.0,null]}'
    )
    (row,) = batch_of([value], schema=schema).to_arrow().select(schema.names).to_pylist()
    assert row == {
        "text": "t",
        "whole": 1,
        "real": 1.5,
        "flag": True,
        "raw": b"b",
        "at": datetime(2013, 1, 1, 5, tzinfo=UTC),
        "maybe": None,
        "many": ["a"],
        "some": [1.0, None],
    }


@pytest.mark.parametrize("annotation", [dict, complex, int | str, list, object])
def test_annotation_without_a_column_is_refused(annotation):
    with pytest.raises(ConfigError, match="'odd'"):
        schema_from_annotations({"odd": annotation})
