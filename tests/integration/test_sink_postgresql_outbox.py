"""The PostgreSQL sink without prepared transactions, on a real server."""

from __future__ import annotations

import pyarrow as pa
import pytest

from harness.wide_rows import ROW, WIDE
from onceflow.errors import ConfigError, ParticipantUnavailable, RowsRefused, SerializationError
from onceflow.sinks import Delete, OutboxSink, Participant, PostgreSQL
from onceflow.sinks import postgresql_outbox as module
from onceflow.sinks.outbox import OnRefused, OutboxRun


@pytest.fixture
def sink_of(postgres_place):
    """Makes opened sinks in the test's place; closes them."""
    made = []

    def make(**options):
        sink = PostgreSQL(postgres_place.dsn(), table="t", delivery="outbox", **options)
        made.append(sink)
        sink.open(postgres_place.scope)
        return sink

    yield make
    for sink in made:
        sink.close()


def run_of(sink, *values):
    at = sink.progress().get(0)
    first = at.offset if at else 0
    messages = [m for value in values for m in sink.encode(value).payload]
    offsets = list(range(first, first + len(messages)))
    return OutboxRun(0, "topic", first or None, offsets[-1] + 1, offsets, messages)


def apply(sink, *values):
    sink.write([run_of(sink, *values)])
    sink.commit()


@pytest.mark.parametrize("key", [None, ["id"]])
def test_values_of_all_kinds_arrive_as_they_were(sink_of, postgres_place, key):
    sink = sink_of(create_table=WIDE, key=key)
    long_list = [{"id": number, "word": "x"} for number in range(100, 300)]
    apply(sink, ROW, {**dict.fromkeys(WIDE), "id": 8}, long_list)
    found = postgres_place.sql("SELECT * FROM t WHERE id < 100 ORDER BY id")
    assert found == [tuple(ROW.values()), (8, *[None] * (len(WIDE) - 1))]
    assert postgres_place.sql("SELECT count(*) FROM t WHERE word = 'x'") == [(200,)]


def test_rows_deletions_and_arrow_columns_take_effect_in_their_order(sink_of, postgres_place):
    sink = sink_of(create_table={"id": "int", "word": "text"}, key=["id"])
    table = pa.table({"id": [1, 2, 3], "word": ["a", None, "c"]})
    apply(sink, table, Delete(1), {"id": 2, "word": "b"}, [Delete(3), {"id": 3}])
    assert postgres_place.sql("SELECT * FROM t ORDER BY id") == [(2, "b"), (3, None)]


def test_refused_rows_are_named_and_deferred_constraints_are_found_before_the_commit(
    sink_of, postgres_place
):
    postgres_place.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    postgres_place.sql(
        "CREATE TABLE t (id smallint, parent int REFERENCES parent INITIALLY DEFERRED)"
    )
    sink = sink_of()
    with pytest.raises(RowsRefused, match="out of range") as refused:
        apply(sink, {"id": 1}, {"id": 70_000})
    assert refused.value.culprit == 1
    with pytest.raises(RowsRefused, match="foreign key"):
        sink.write([run_of(sink, {"id": 1, "parent": 5})])
    with pytest.raises(SerializationError):
        sink.encode({"id": "\ud800"})
    apply(sink, {"id": 1})
    assert postgres_place.sql("SELECT id FROM t") == [(1,)]


def test_a_lock_that_others_keep_is_waited_for_later(sink_of, postgres_place, monkeypatch):
    monkeypatch.setattr(module, "_BEGIN", "BEGIN; SET LOCAL lock_timeout = 100")
    first, second = sink_of(create_table={"id": "int"}), sink_of()
    apply(first, {"id": 1})
    run = run_of(first, {"id": 2})
    first.write([run])
    with pytest.raises(ParticipantUnavailable, match="lock timeout"):
        second.write([run])
    first.commit()
    with pytest.raises(ParticipantUnavailable, match="another worker applies it"):
        second.write([run])
    assert postgres_place.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_a_session_that_stands_still_between_write_and_commit_is_ended(sink_of, monkeypatch):
    quick = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 100"
    monkeypatch.setattr(module, "_BEGIN", quick)
    first, second = sink_of(create_table={"id": "int"}), sink_of()
    run = run_of(first, {"id": 1})
    first.write([run])
    second.write([run])
    second.commit()
    with pytest.raises(ParticipantUnavailable):
        first.commit()
    assert first.progress()[0].offset == 1


def test_the_kind_of_delivery_is_chosen_by_name(postgres_place):
    dsn = postgres_place.dsn()
    assert isinstance(PostgreSQL(dsn, table="t"), Participant)
    sink = PostgreSQL(dsn, table="t", delivery="outbox", on_error="stop")
    assert isinstance(sink, OutboxSink)
    assert sink.on_error is OnRefused.STOP
    assert sink.name == PostgreSQL(dsn, table="t").name
    with pytest.raises(ConfigError, match="'outbox'"):
        PostgreSQL(dsn, table="t", delivery="later")
    with pytest.raises(ConfigError, match="needs delivery"):
        PostgreSQL(dsn, table="t", on_error="stop")
    with pytest.raises(ConfigError, match="not among the columns"):
        PostgreSQL(dsn, table="t", key=["k"], create_table={"a": "int"}, delivery="outbox")
    with pytest.raises(ConfigError, match="does not exist"):
        PostgreSQL(dsn, table="none", delivery="outbox").open(postgres_place.scope)
    with pytest.raises(ConfigError, match="before it was opened"):
        sink.encode({"id": 1})
