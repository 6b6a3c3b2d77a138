"""Parquet: rows fit the schema exactly or are refused, and files hold what was yielded."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pytest

from harness.files_sink import SCOPE, branch, visible_files
from onceflow.columns.parquetrows import ParquetRows, schema_of, write_parquet
from onceflow.errors import ConfigError, DataAtRisk, SerializationError
from onceflow.sinks.files import Files
from onceflow.sinks.participant import FinishOutcome

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TYPES = {"day": str, "n": int, "x": float | None, "at": datetime}


def row(**values):
    return {"day": "mon", "n": 1, "x": 0.5, "at": AT} | values


def written(tmp_path, *epochs, **options) -> dict[str, pl.DataFrame]:
    """What is in the files after these epochs of yields, by directory."""
    options = {"schema": TYPES, "partition_by": "day", "roll_interval_s": 3600} | options
    sink = Files(tmp_path / "out", format="parquet", **options)
    sink.open(SCOPE)
    for number, values in enumerate(epochs, 1):
        sink.prepare(branch("w", number), [sink.encode(value) for value in values])
        assert sink.commit(branch("w", number)) is FinishOutcome.DONE
    sink.close()
    return {
        path.parent.name: pl.read_parquet(path, hive_partitioning=False)
        for path in visible_files(tmp_path / "out")
    }


def test_rows_of_several_epochs_become_one_file_per_value_with_their_types(tmp_path):
    big = 2**63 - 1
    found = written(tmp_path, [row(), row(day="tue", x=None)], [[row(n=2), row(n=big)]])
    assert set(found) == {"day=mon", "day=tue"}
    assert found["day=mon"].to_dict(as_series=False) == {
        "n": [1, 2, big],
        "x": [0.5] * 3,
        "at": [AT] * 3,
    }
    assert found["day=tue"].to_dict(as_series=False) == {"n": [1], "x": [None], "at": [AT]}
    assert found["day=mon"].schema["at"] == pl.Datetime("us", "UTC")


def test_columns_are_split_by_value_and_mixed_with_rows_in_order(tmp_path):
    table = pa.table(
        {
            "n": pa.array([7, 8, 9], pa.int32()),
            "day": ["mon", "tue", "mon"],
            "x": pa.array([None, 1.0, 2.0]),
            "at": pa.array([AT] * 3),
        }
    )
    found = written(tmp_path, [row(n=1), table, table.to_batches()[0].slice(1), row(n=2)])
    assert found["day=mon"]["n"].to_list() == [1, 7, 9, 9, 2]
    assert found["day=tue"]["n"].to_list() == [8, 8]


def test_without_partition_all_rows_are_in_one_file(tmp_path):
    schema = pa.schema([("n", pa.int64()), ("tags", pa.list_(pa.string()))])
    found = written(
        tmp_path,
        [{"n": 1, "tags": ["a"]}, [{"n": 2}, {"n": 3, "tags": []}]],
        [pa.table({"n": [4], "tags": pa.array([["b"]])})],
        schema=schema,
        partition_by=None,
    )
    assert found["out"].rows() == [(1, ["a"]), (2, None), (3, []), (4, ["b"])]


def test_rows_of_another_schema_get_a_file_of_their_own(tmp_path):
    for number, types in enumerate([{"n": int}, {"n": str}], 1):
        sink = Files(
            tmp_path / "out", format="parquet", schema=types, roll_interval_s=3600, name="same"
        )
        sink.open(SCOPE)
        sink.prepare(branch("w", number), [sink.encode({"n": types["n"](number)})])
        sink.commit(branch("w", number))
        sink._opened.roller.roll_own = lambda: None  # as if the process had been killed
        sink.close()
    heir = Files(tmp_path / "out", format="json", name="same")
    heir.open(SCOPE)
    heir.raise_marker("w")
    heir.close()
    frames = [pl.read_parquet(path) for path in visible_files(tmp_path / "out")]
    assert sorted(str(frame["n"][0]) for frame in frames) == ["1", "2"]
    assert {frame.schema["n"] for frame in frames} == {pl.Int64, pl.String}


def test_values_of_all_types_arrive_as_they_were_yielded(tmp_path):
    schema = pa.schema(
        [
            ("u", pa.uint8()),
            ("f", pa.float32()),
            ("b", pa.binary()),
            ("flag", pa.bool_()),
            ("day", pa.date32()),
            ("ms", pa.timestamp("ms")),
            ("plain", pa.timestamp("us")),
            ("money", pa.decimal128(10, 2)),
            ("tags", pa.list_(pa.string())),
            ("inner", pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ]
    )
    naive = AT.replace(tzinfo=None)
    full = {
        "u": 255,
        "f": 0.5,
        "b": bytes(range(256)),
        "flag": True,
        "day": date(2026, 1, 2),
        "ms": naive.replace(microsecond=678000),
        "plain": naive,
        "money": Decimal("12.34"),
        "tags": ["ü", None],
        "inner": {"a": 1, "b": "x"},
    }
    found = written(tmp_path, [full, {}], schema=schema, partition_by=None)
    first, second = found["out"].to_dicts()
    assert first == full
    assert second == dict.fromkeys(full)


def test_a_row_that_is_changed_after_it_was_yielded_is_written_as_it_was(tmp_path):
    sink = Files(tmp_path / "out", format="parquet", schema={"n": int, "tags": list[str]})
    sink.open(SCOPE)
    one = {"n": 1, "tags": ["a"]}
    encoded = sink.encode(one)
    one["n"] = 2
    one["tags"].append("b")
    sink.prepare(branch("w", 1), [encoded])
    sink.commit(branch("w", 1))
    sink.close()
    (path,) = visible_files(tmp_path / "out")
    assert pl.read_parquet(path).rows() == [(1, ["a"])]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (row(other=1), "'other', which the Parquet schema has not"),
        (row(n=None), "'n' has no value"),
        ({"day": "mon"}, "'n' has no value"),
        (row(n="1"), "does not fit"),
        (row(n=1.5), "does not fit"),
        (row(x=2**53 + 1), "does not fit"),
        (row(n=2**63), "does not fit"),
        (row(at="yesterday"), "does not fit"),
        (row(at=date(2026, 1, 2)), "does not fit"),
        (row(day="\ud800"), "does not fit"),
        (row(n=True), "does not fit"),
        (row(day=None), "'day' has no value"),
        ([row(), row(n=None)], "'n' has no value"),
        (pa.table({"n": [1]}), "the columns are n, and"),
        (pa.table({"day": ["a"], "n": ["b"], "x": [1.0], "at": [AT]}), "do not fit"),
        (pa.table({"day": ["a"], "n": [2**62], "x": [1.0], "at": pa.nulls(1)}), "'at' with null"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_at_once(tmp_path, value, says):
    sink = Files(tmp_path, format="parquet", schema=TYPES, partition_by="day")
    with pytest.raises(SerializationError, match=says):
        sink.encode(value)


class Total(NamedTuple):
    user: str
    total: int | None


def test_a_schema_is_given_as_classes_mappings_or_arrow(tmp_path):
    expected = pa.schema(
        [pa.field("user", pa.string(), nullable=False), pa.field("total", pa.int64())]
    )
    assert schema_of(Total) == expected == schema_of({"user": str, "total": int | None})
    assert schema_of(expected) is expected
    with pytest.raises(ConfigError, match="describes no columns"):
        schema_of("user")
    with pytest.raises(ConfigError, match="no column of the schema"):
        ParquetRows(expected, "day")
    found = written(tmp_path, [Total("a", 1)], schema=Total, partition_by=None)
    assert found["out"].rows() == [("a", 1)]


def test_equal_schemas_have_equal_checksums():
    one, two = (ParquetRows(schema_of({"n": int, "p": str}), "p") for _ in range(2))
    assert one.checksum == two.checksum != ParquetRows(schema_of({"n": str}), None).checksum


def test_packed_rows_that_cannot_be_read_are_data_at_risk(tmp_path):
    with (tmp_path / "out").open("wb") as file, pytest.raises(DataAtRisk, match="cannot be read"):
        write_parquet([b"no stream"], file)
