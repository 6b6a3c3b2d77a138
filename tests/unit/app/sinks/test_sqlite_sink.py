"""SQLite as a sink: what its tables take, keys, and what is refused at the start."""

from __future__ import annotations

import enum
import sqlite3
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest

from onceflow.errors import (
    ConfigError,
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Unreachable,
)
from onceflow.sinks import Delete, SQLite
from onceflow.sinks.gid import Scope
from onceflow.sinks.outbox import OutboxRun

SCOPE = Scope("0123456789abcdef")


class Colour(enum.Enum):
    RED = "red"


class Applied:
    """A sink on a file, and what it has applied."""

    def __init__(self, path, **options):
        self.path = path
        self.sink = SQLite(path, **options)
        self.sink.open(SCOPE)
        self.at = 0

    def apply(self, *values):
        messages = [m for value in values for m in self.sink.encode(value).payload]
        offsets = range(self.at, self.at + len(messages))
        self.sink.write([OutboxRun(0, "t", self.at or None, offsets.stop, list(offsets), messages)])
        self.sink.commit()
        self.at = offsets.stop

    def rows(self, query="SELECT * FROM t ORDER BY 1"):
        connection = sqlite3.connect(self.path)
        found = connection.execute(query).fetchall()
        connection.close()
        return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.db"


@pytest.fixture
def keyed(path):
    table = {"k": "TEXT", "a": "INTEGER", "b": "TEXT"}
    applied = Applied(path, table="t", key=["k"], create_table=table)
    yield applied
    applied.sink.close()


def test_rows_with_a_key_replace_and_keep_what_they_do_not_have(keyed):
    keyed.apply({"k": "x", "a": 1, "b": "one"}, {"k": "y", "a": 2}, {"k": "x", "a": 3})
    assert keyed.rows() == [("x", 3, "one"), ("y", 2, None)]
    keyed.apply([Delete("x"), {"k": "z"}], Delete({"k": "none"}), {"k": "z", "a": 9}, {"k": "z"})
    assert keyed.rows() == [("y", 2, None), ("z", 9, None)]


def test_deletions_and_rows_of_one_key_take_effect_in_their_order(keyed):
    keyed.apply([{"k": "x", "a": 1}, Delete("x"), {"k": "x", "b": "later"}, Delete("y")])
    assert keyed.rows() == [("x", None, "later")]


def test_arrow_tables_become_rows(keyed):
    keyed.apply(pa.table({"k": ["x", "y"], "a": [1, None]}))
    keyed.apply(pa.RecordBatch.from_pydict({"k": ["y"], "b": ["b"]}))
    assert keyed.rows() == [("x", 1, None), ("y", None, "b")]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, 1),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        ("é\x00", "é\x00"),
        (b"\xff", b"\xff"),
        (bytearray(b"x"), b"x"),
        (Decimal("1.10"), "1.10"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(minutes=1), 60.0),
        (UUID(int=1), str(UUID(int=1))),
        ([1, "a"], '[1,"a"]'),
        ({"a": {"b": None}}, '{"a":{"b":null}}'),
        (Colour.RED, "red"),
    ],
    ids=repr,
)
def test_values_are_stored_as_documented(path, value, stored):
    applied = Applied(path, table="t", create_table={"v": ""})
    applied.apply({"v": value})
    assert applied.rows() == [(stored,)]
    applied.sink.close()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"k": "x", "a": 2**63}, "'a'.*64 bits"),
        ({"k": "x", "a": float("nan")}, "NaN"),
        ({"k": "x", "a": object()}, "takes no object"),
        ({"k": "x", "b": [object()]}, "JSON"),
        ({"k": "x", "c": 1}, "no column 'c'"),
        ({}, "without columns"),
        ({"a": 1}, "no value in column 'k'"),
        ({"k": None}, "no value in column 'k'"),
        (Delete(None), "no None"),
        ({"k": "\ud800"}, "cannot travel"),
        (7, "cannot become a row"),
    ],
    ids=repr,
)
def test_what_cannot_be_a_row_is_refused_when_it_is_yielded(keyed, value, why):
    with pytest.raises(SerializationError, match=why):
        keyed.sink.encode(value)


def test_a_sink_without_a_key_appends_and_deletes_nothing(path):
    applied = Applied(path, table="t", create_table={"id": "INTEGER PRIMARY KEY", "v": "TEXT"})
    applied.apply({"v": "a"}, {"v": "a"})
    assert applied.rows() == [(1, "a"), (2, "a")]
    with pytest.raises(SerializationError, match="only appends"):
        applied.sink.encode(Delete(1))
    applied.sink.close()


def test_constraints_foreign_keys_and_triggers_refuse_rows_and_name_them(path):
    connection = sqlite3.connect(path)
    connection.executescript("""
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE t (
            id INTEGER NOT NULL UNIQUE CHECK (id < 10), n INTEGER NOT NULL DEFAULT 0,
            parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER no_seven BEFORE INSERT ON t WHEN NEW.id = 7
            BEGIN SELECT RAISE(ABORT, 'not seven'); END""")
    connection.close()
    applied = Applied(path, table="t", key="id")
    for bad, why in (({"id": 11}, "CHECK"), ({"id": 7}, "not seven")):
        with pytest.raises(RowsRefused, match=why) as refused:
            applied.apply({"id": 1}, bad)
        assert refused.value.culprit == 1
    with pytest.raises(RowsRefused, match="FOREIGN KEY"):
        applied.apply({"id": 1, "parent": 5})
    assert applied.sink.progress() == {}
    applied.apply({"id": 1})
    assert applied.rows() == [(1, 0, None)]
    applied.sink.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"table": "none"}, "does not exist"),
        ({"key": ["a"]}, "no primary key or unique index on exactly"),
        ({"key": ["k"], "create_table": {"k": "BLOB"}}, "'k' is 'TEXT' and not 'BLOB'"),
        ({"create_table": {"new": "TEXT"}}, "'missing'"),
        ({"table": "view"}, "cannot be written"),
    ],
    ids=str,
)
def test_tables_that_do_not_fit_are_refused_at_the_start(keyed, options, why):
    connection = sqlite3.connect(keyed.path)
    connection.execute("CREATE VIEW view AS SELECT * FROM t")
    connection.close()
    with pytest.raises(ConfigError, match=why):
        SQLite(keyed.path, **{"table": "t", **options}).open(SCOPE)


def test_a_unique_index_serves_as_a_key(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a, b, c)")
    connection.execute("CREATE UNIQUE INDEX two ON t (b, a)")
    connection.close()
    applied = Applied(path, table="t", key=["a", "b"])
    applied.apply({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 4}, {"a": 2, "b": 2})
    applied.apply(Delete((2, 2)))
    assert applied.rows() == [(1, 2, 4)]
    applied.sink.close()


def test_a_sink_that_is_not_open_or_not_meant_is_refused(path):
    with pytest.raises(ConfigError, match="before it was opened"):
        SQLite(path, table="t").encode({"a": 1})
    with pytest.raises(ConfigError, match="not among the columns"):
        SQLite(path, table="t", key=["k"], create_table={"a": "TEXT"})
    with pytest.raises(Unreachable, match="cannot be used"):
        SQLite(path / "none" / "x.db", table="t").open(SCOPE)


def test_a_file_that_somebody_locks_or_loses_is_tried_again(keyed, monkeypatch):
    monkeypatch.setattr("onceflow.sinks.sqlite.PARTICIPANT_LOCK_S_MAX", 0.05)
    keyed.sink.close()
    other = sqlite3.connect(keyed.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ParticipantUnavailable, match="locked"):
        keyed.apply({"k": "x"})
    late = SQLite(keyed.path, table="t", key=["k"], create_table={"k": "TEXT"})
    late.open(SCOPE)
    late.close()
    other.execute("ROLLBACK")
    keyed.apply({"k": "x"})
    other.execute("DROP TABLE onceflow_progress")
    with pytest.raises(ParticipantUnavailable, match="no such table"):
        keyed.sink.progress()
    other.close()
