"""The PostgreSQL sink on a real server: what goes in, what is refused, what is said at first."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pyarrow as pa
import pytest

from harness.wide_rows import NOON, ROW, WIDE
from onceflow.errors import ConfigError, RowsRefused, SerializationError, Unreachable
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks import Delete, PostgreSQL
from onceflow.sinks.gid import Scope
from onceflow.sinks.participant import FinishOutcome

NONE = {**dict.fromkeys(WIDE), "id": 8}


def branch(commit_epoch, incarnation="w1"):
    return BranchId(Incarnation(incarnation), CommitEpoch(commit_epoch))


@pytest.fixture
def sink_of(postgres_place):
    """Makes opened sinks in the test's place; closes them."""
    made = []

    def make(table="t", *, user="onceflow", **options):
        sink = PostgreSQL(postgres_place.dsn(user), table=table, **options)
        made.append(sink)
        sink.open(postgres_place.scope)
        return sink

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def sql(postgres_place):
    return postgres_place.sql


def write(sink, commit_epoch, *values):
    sink.prepare(branch(commit_epoch), [sink.encode(value) for value in values])
    assert sink.commit(branch(commit_epoch)) is FinishOutcome.DONE


def test_rows_become_visible_with_the_commit_and_not_before(sink_of, sql):
    sink = sink_of(create_table={"id": "int", "word": "text"})
    sink.prepare(branch(1), [sink.encode({"id": 1, "word": "a"}), sink.encode({"id": 2})])
    assert sql("SELECT * FROM t") == []
    assert sink.branches() == [branch(1)]
    assert sink.commit(branch(1)) is FinishOutcome.DONE
    assert sql("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, None)]


@pytest.mark.parametrize("key", [None, ["id"]])
def test_values_of_all_kinds_arrive_as_they_were(sink_of, sql, key):
    sink = sink_of(create_table=WIDE, key=key)
    write(sink, 1, ROW, NONE, [{**ROW, "id": 9}])
    found = sql("SELECT * FROM t ORDER BY id")
    expected = tuple(ROW.values())
    assert found[0] == expected
    assert found[1] == tuple(NONE.values())
    assert found[2][1:] == expected[1:]


@pytest.mark.parametrize("key", [None, ["id"]])
def test_arrow_columns_arrive_as_they_were(sink_of, sql, key):
    sink = sink_of(create_table=WIDE, key=key)
    names = [name for name in WIDE if name != "ident"]
    rows = [ROW, NONE, {**ROW, "id": 9, "word": "", "tags": []}]
    table = pa.table(
        {name: pa.array([row[name] for row in rows]) for name in names if name != "span"}
        | {"span": pa.array([row["span"] for row in rows], pa.duration("us"))}
    )
    write(sink, 1, table, table.slice(0, 1).to_batches()[0] if key else {"id": 10})
    listed = ", ".join(names)
    found = sql(f"SELECT {listed} FROM t WHERE id < 10 ORDER BY id")
    assert found == [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("key", [None, ["id"]])
def test_long_lists_arrive_as_they_were(sink_of, sql, key):
    columns = {"id": "int", "word": "text", "ratio": "float8", "flag": "bool", "at": "date"}
    sink = sink_of(create_table=columns, key=key)
    rows = [
        {
            "id": number,
            "word": None if number % 3 else f"a\n\\.\n{number}",
            "ratio": number / 7,
            "flag": number % 2 == 0,
        }
        for number in range(300)
    ]
    dated = [{"id": number, "at": dt.date(2024, 1, 1)} for number in range(300, 400)]
    write(sink, 1, rows[:150], rows[150:], dated)
    found = sql("SELECT id, word, ratio, flag, at FROM t ORDER BY id")
    assert found[:300] == [(*row.values(), None) for row in rows]
    assert {row[4] for row in found[300:]} == {dt.date(2024, 1, 1)}
    with pytest.raises(RowsRefused) as refused:
        sink.prepare(branch(2), [sink.encode(each) for each in (rows, [{"id": 2**40}] * 99, rows)])
    assert refused.value.culprit == 1


def test_columns_that_a_batch_adds_are_left_out(sink_of, sql):
    sink = sink_of(create_table={"id": "int", "_offset": "bigint"})
    names = ["_key", "_offset", "_timestamp", "id"]
    write(sink, 1, pa.record_batch([[b"k"], [5], [1], [7]], names=names))
    assert sql("SELECT id, _offset FROM t") == [(7, 5)]


@pytest.mark.parametrize("key", [None, ["id"]])
def test_arrow_types_of_other_widths_and_zones_keep_their_values(sink_of, sql, key):
    types = ["int", "timestamptz", "timestamp", "time", "date", "float4", "text", "smallint"]
    names = ["id", "seen", "local", "at", "day", "ratio", "word", "small"]
    sink = sink_of(key=key, create_table=dict(zip(names, types, strict=True)))
    values = [
        pa.array([1]),
        pa.array([NOON], pa.timestamp("us", "Europe/Berlin")),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array([dt.time(1, 2, 3)], pa.time32("s")),
        pa.array([dt.date(2024, 1, 1)], pa.date64()),
        pa.array([0.1], pa.float32()),
        pa.array(["x"]).dictionary_encode(),
        pa.array([5], pa.uint8()),
    ]
    write(sink, 1, pa.table(dict(zip(names, values, strict=True))))
    day = dt.date(2024, 1, 1)
    expected = (1, NOON, NOON.replace(tzinfo=None), dt.time(1, 2, 3), day, 0.1, "x", 5)
    assert sql("SELECT * FROM t") == [expected]


def test_a_line_that_ends_csv_in_older_servers_is_written_as_it_is(sink_of, sql):
    sink = sink_of(create_table={"word": "text"})
    write(sink, 1, pa.table({"word": ["\\.", "a\n\\.\nb", "c"]}))
    assert sql("SELECT word FROM t") == [("\\.",), ("a\n\\.\nb",), ("c",)]


def test_the_last_write_of_a_key_wins_and_absent_columns_keep_their_values(sink_of, sql):
    sink = sink_of(key=["k"], create_table={"k": "text", "n": "int", "note": "text"})
    write(sink, 1, {"k": "a", "n": 1, "note": "x"}, {"k": "b", "n": 1}, {"k": "a", "n": 2})
    assert sql("SELECT * FROM t ORDER BY k") == [("a", 2, "x"), ("b", 1, None)]
    write(sink, 2, [{"k": "a", "n": 3}, {"k": "a", "n": 4}], {"n": 9, "k": "c"})
    assert sql("SELECT * FROM t ORDER BY k") == [
        ("a", 4, "x"),
        ("b", 1, None),
        ("c", 9, None),
    ]


def test_deletions_act_in_their_place_among_the_rows(sink_of, sql):
    sink = sink_of(key=["k", "g"], create_table={"g": "int", "k": "text", "n": "int", "x": "int"})
    for k in "abcd":
        write(sink, ord(k), {"k": k, "g": 1, "n": 0, "x": 5})
    write(
        sink,
        200,
        [{"k": "a", "g": 1, "n": 1}, Delete(("a", 1)), Delete({"g": 1, "k": "b"})],
        [{"k": "b", "g": 1, "n": 2}, Delete(("nobody", 1)), {"k": "c", "g": 1, "n": 3}],
        {"k": "e", "g": 1, "n": 4},
        Delete(("e", 1)),
    )
    assert sql("SELECT k, n, x FROM t ORDER BY k") == [("b", 2, None), ("c", 3, 5), ("d", 0, 5)]
    write(sink, 201, Delete(("c", 1)), Delete(("d", 1)))
    assert sql("SELECT k FROM t") == [("b",)]


def test_a_table_of_keys_alone_keeps_one_row_each(sink_of, sql):
    sink = sink_of(key="k", create_table={"k": "text"})
    write(sink, 1, {"k": "a"}, {"k": "a"})
    write(sink, 2, {"k": "a"})
    assert sql("SELECT * FROM t") == [("a",)]


def test_names_that_need_quotes_work(sink_of, sql):
    sql('CREATE SCHEMA "S 1"')
    columns = {'odd "%s" name': "int", "select": "varchar(5)"}
    sink = sink_of("S 1.T%", key=['odd "%s" name'], create_table=columns)
    write(sink, 1, {'odd "%s" name': 1, "select": "x"}, Delete(1), {'odd "%s" name': 2})
    assert sql('SELECT * FROM "S 1"."T%"') == [(2, None)]


def test_records_and_dataclasses_are_rows(sink_of, sql):
    class Record:  # as faust.Record tells its fields
        def asdict(self):
            return {"id": 1, "word": "record"}

    @dataclass
    class Plain:
        id: int
        word: str

    sink = sink_of(create_table={"id": "int", "word": "text"})
    write(sink, 1, Record(), [Plain(2, "plain")])
    assert sql("SELECT * FROM t ORDER BY id") == [(1, "record"), (2, "plain")]


def test_columns_with_defaults_and_generated_ones_need_no_value(sink_of, sql):
    sql(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, n int NOT NULL DEFAULT 5,"
        " twice int GENERATED ALWAYS AS (n * 2) STORED, word text)"
    )
    sink = sink_of()
    write(sink, 1, {"word": "a"}, {"word": "b", "n": 6})
    assert sql("SELECT id, n, twice, word FROM t ORDER BY id") == [(1, 5, 10, "a"), (2, 6, 12, "b")]
    with pytest.raises(SerializationError, match="no column 'twice'"):
        sink.encode({"word": "a", "twice": 1})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"id": 1, "other": 2}, "no column 'other'"),
        ({}, "no row without columns"),
        ({"word": "x"}, "no value in column 'id'"),
        ({"id": None}, "no value in column 'id'"),
        ({"id": "1"}, "takes no str"),
        ({"id": True}, "takes no bool"),
        ({"id": 1, "word": 5}, "takes no int"),
        ({"id": 1, "info": object()}, "cannot be written"),
        ([{"id": 1}, 5], "cannot become a row"),
        ("text", "cannot become a row"),
        (Delete((1, 2)), "key"),
        (Delete(None), "key"),
        (Delete({"word": 1}), "key"),
        (pa.table({"id": [1, None]}), "no value in column 'id'"),
        (pa.table({"id": ["1"]}), "takes no str"),
        (pa.table([[1], [2]], names=["id", "id"]), "two columns of one name"),
    ],
)
def test_values_that_cannot_be_rows_are_refused_when_yielded(sink_of, value, says):
    sink = sink_of(key=["id"], create_table={"id": "int", "word": "text", "info": "json"})
    with pytest.raises(SerializationError, match=says):
        sink.encode(value)


def test_delete_needs_a_key(sink_of):
    sink = sink_of(create_table={"id": "int"})
    with pytest.raises(SerializationError, match="only appends"):
        sink.encode(Delete(1))


@pytest.mark.parametrize("key", [None, ["id"]])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"id": 3, "small": 100_000}, "out of range"),
        ({"id": 3, "word": "much too long"}, "too long"),
        ({"id": 3, "small": -1}, "check constraint"),
        ({"id": 3, "word": "nul\0"}, "0x00"),
        ({"id": 3, "word": "\ud800"}, "surrogates"),
        ({"id": 3, "other": 5}, "foreign key"),
    ],
)
def test_a_row_refused_for_its_data_names_the_yield(sink_of, sql, key, bad, says):
    sql("CREATE TABLE parent (id int PRIMARY KEY)")
    sql(
        "CREATE TABLE t (id int PRIMARY KEY, small smallint CHECK (small >= 0), word varchar(5),"
        " other int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    sink = sink_of(key=key)
    rows = [{"id": 1}, [{"id": 2, "word": "a\nb"}, {"id": 22}], bad, {"id": 4}, {"id": 5}]
    with pytest.raises(RowsRefused, match=says) as refused:
        sink.prepare(branch(1), [sink.encode(row) for row in rows])
    assert refused.value.culprit == 2
    assert sink.branches() == []
    write(sink, 2, *(row for row in rows if row is not bad))
    assert [number for (number,) in sql("SELECT id FROM t ORDER BY id")] == [1, 2, 4, 5, 22]


def test_a_duplicate_of_a_committed_row_names_the_yield(sink_of, sql):
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    sink = sink_of()
    write(sink, 1, {"id": 2})
    with pytest.raises(RowsRefused, match="duplicate key") as refused:
        sink.prepare(branch(2), [sink.encode({"id": number}) for number in (1, 2, 3)])
    assert refused.value.culprit == 1
    with pytest.raises(RowsRefused) as refused:
        sink.prepare(branch(3), [sink.encode(pa.table({"id": [n, n]})) for n in (5, 6)])
    assert refused.value.culprit == 0


@pytest.mark.parametrize(
    ("ddl", "options", "says"),
    [
        ("", {}, "does not exist"),
        ("CREATE VIEW t AS SELECT 1 AS id", {}, "no ordinary or partitioned table"),
        ("CREATE UNLOGGED TABLE t (id int)", {}, "unlogged"),
        ("CREATE TABLE t (id int)", {"key": ["nope"]}, "no column 'nope'"),
        ("CREATE TABLE t (id int)", {"key": ["id"]}, "ADD PRIMARY KEY"),
        ("CREATE TABLE t (id int, n int, UNIQUE (id, n))", {"key": ["id"]}, "ADD PRIMARY KEY"),
        ("CREATE TABLE t (id int UNIQUE DEFERRABLE)", {"key": ["id"]}, "ADD PRIMARY KEY"),
        ("CREATE TABLE t (id text)", {"create_table": {"id": "int"}}, "is text and not int"),
        ("CREATE TABLE t (n int)", {"create_table": {"id": "int"}}, "without the columns"),
        ("", {"create_table": {"id": "nonsense"}}, "refuses to make a table"),
    ],
)
def test_a_table_that_does_not_fit_is_told_at_the_start(sink_of, sql, ddl, options, says):
    if ddl:
        sql(ddl)
    with pytest.raises(ConfigError, match=says):
        sink_of(**options)


def test_a_table_that_fits_create_table_is_taken_as_it_is(sink_of, sql):
    sql("CREATE TABLE t (id int8 PRIMARY KEY, word varchar(9) NOT NULL, more int)")
    types = {"id": "bigint", "word": "varchar(9) NOT NULL"}
    write(sink_of(key=["id"], create_table=types), 1, {"id": 1, "word": "a"})
    assert sql("SELECT id, word FROM t") == [(1, "a")]


def test_a_key_that_create_table_lacks_is_refused():
    with pytest.raises(ConfigError, match="not among the columns"):
        PostgreSQL("host=x", table="t", key=["id"], create_table={"n": "int"})


def test_missing_rights_are_told_with_the_grant_that_gives_them(sink_of, sql, unique):
    user = unique("u").replace("-", "_")
    sql(f"CREATE ROLE {user} LOGIN")
    sql("CREATE TABLE t (id int PRIMARY KEY)")
    try:
        with pytest.raises(ConfigError, match="GRANT INSERT ON"):
            sink_of(user=user)
        with pytest.raises(ConfigError, match="GRANT DELETE, INSERT, SELECT, UPDATE ON"):
            sink_of(user=user, key=["id"])
        sql(f"GRANT ALL ON t TO {user}")
        with pytest.raises(ConfigError, match="CREATE TABLE IF NOT EXISTS"):
            sink_of(user=user)
        sink_of()
        with pytest.raises(ConfigError, match="GRANT SELECT, INSERT, UPDATE ON"):
            sink_of(user=user)
        sql(f"GRANT ALL ON onceflow_markers TO {user}")
        write(sink_of(user=user, create_table={"id": "int"}), 1, {"id": 1})
        sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        with pytest.raises(ConfigError, match="row-level security"):
            sink_of(user=user)
    finally:
        sql(f"DROP OWNED BY {user}")
        sql(f"DROP ROLE {user}")


def test_a_refused_login_is_a_setting_and_a_server_that_is_away_is_not(postgres):
    scope = Scope.of("cluster", "app")
    with pytest.raises(ConfigError, match="does not exist"):
        PostgreSQL(postgres.dsn("nope"), table="t").open(scope)
    with pytest.raises(ConfigError, match="does not exist"):
        PostgreSQL(postgres.dsn(user="nobody"), table="t").open(scope)
    with pytest.raises(Unreachable, match="does not answer"):
        PostgreSQL("host=127.0.0.1 port=1 dbname=x password=secret", table="t").open(scope)
    with pytest.raises(ConfigError, match="cannot be read"):
        PostgreSQL("nonsense", table="t")


def test_a_message_never_shows_the_password():
    scope = Scope.of("cluster", "app")
    sink = PostgreSQL("host=127.0.0.1 port=1 dbname=x password=secret", table="t")
    with pytest.raises(Unreachable) as away:
        sink.open(scope)
    assert "secret" not in str(away.value)


def test_a_sink_that_is_not_open_says_so():
    sink = PostgreSQL("host=x", table="t")
    for call in (lambda: sink.encode({}), sink.branches, lambda: sink.prepare(1, [])):
        with pytest.raises(ConfigError, match="before it was opened"):
            call()


def test_two_tables_get_two_names_and_a_name_may_be_given():
    names = [PostgreSQL("host=x", table=table).name for table in ("a", "b")]
    assert names[0] != names[1]
    assert PostgreSQL("host=x", table="a", name="totals").name == "totals"
