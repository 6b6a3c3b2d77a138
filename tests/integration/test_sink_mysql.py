"""The MySQL sink on a real MariaDB: what it checks, what it writes, and how it dies and is held."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from onceflow.errors import (
    ConfigError,
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Superseded,
    Unreachable,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks import Delete, MySQL
from onceflow.sinks.mysql_session import Session
from onceflow.sinks.mysql_table import MARKERS
from onceflow.sinks.participant import FinishOutcome, MarkerRow, Standing

W, V = Incarnation("w1"), Incarnation("v2")


def branch(commit_epoch: int, incarnation: Incarnation = W) -> BranchId:
    return BranchId(incarnation, CommitEpoch(commit_epoch))


@pytest.fixture
def opened(mariadb_place):
    """Opens sinks on this test's database, and closes them at the end."""
    sinks: list[MySQL] = []

    def open_sink(table="t", *, user="root", **options) -> MySQL:
        sink = MySQL(mariadb_place.dsn_of(user), table=table, **{"name": "sink", **options})
        sinks.append(sink)
        sink.open(mariadb_place.scope)
        return sink

    yield open_sink
    for sink in sinks:
        sink.close()


def put(sink: MySQL, commit_epoch: int, *values, incarnation: Incarnation = W) -> FinishOutcome:
    sink.prepare(branch(commit_epoch, incarnation), [sink.encode(value) for value in values])
    return sink.commit(branch(commit_epoch, incarnation))


def test_values_arrive_as_they_were_yielded(opened, mariadb_place):
    sink = opened(
        create_table={
            "i": "bigint unsigned",
            "f": "double",
            "d": "decimal(20, 3)",
            "t": "varchar(50) character set utf8mb4",
            "b": "blob",
            "j": "json",
            "at": "datetime(6)",
            "day": "date",
            "spent": "time(6)",
            "flag": "boolean",
        }
    )
    text = 'it\'s \\ "q" \0 \x1a % ü 🙂\n'
    row = {
        "i": 2**64 - 1,
        "f": 0.1 + 0.2,
        "d": Decimal("-12345678901234567.125"),
        "t": text,
        "b": bytes(range(256)),
        "j": {"text": text, "n": [1, None]},
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "day": date(2026, 1, 2),
        "spent": -timedelta(hours=30, microseconds=1),
        "flag": True,
    }
    put(sink, 1, row, dict.fromkeys(row))
    [first, second] = mariadb_place.sql("SELECT * FROM t ORDER BY i DESC")
    expected = {**row, "at": row["at"].replace(tzinfo=None), "flag": 1}
    found = dict(zip(row, first, strict=True))
    assert found.pop("j").startswith('{"text":')
    del expected["j"]
    assert found == expected
    assert second == (None,) * len(row)


def test_the_last_write_of_a_key_wins_and_absent_columns_stay(opened, mariadb_place):
    sink = opened(key=["k"], create_table={"k": "int", "a": "int", "b": "int default 7"})
    put(sink, 1, {"k": 1, "a": 1}, {"k": 1, "a": 2}, {"k": 2, "a": 1}, Delete(2), {"k": 3, "b": 1})
    assert mariadb_place.sql("SELECT * FROM t ORDER BY k") == [(1, 2, 7), (3, None, 1)]
    put(sink, 2, {"k": 1, "b": 9}, Delete(3), {"k": 3}, [{"k": 2, "a": 5}, {"k": 2, "a": 6}])
    assert mariadb_place.sql("SELECT * FROM t ORDER BY k") == [(1, 2, 9), (2, 6, 7), (3, None, 7)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"id": 300}, "Out of range"),
        ({"id": 1, "t": "too long"}, "too long"),
        ({"id": 2}, "Duplicate"),
        ({"id": 1, "t": "🙂"}, "Incorrect string"),
        ({"id": 1, "n": -1}, "CONSTRAINT"),
        ({"id": 1, "other": 9}, "foreign key"),
        ({"id": 1, "kind": "c"}, "truncated"),
    ],
)
def test_a_row_that_the_table_refuses_is_found(opened, mariadb_place, value, says):
    mariadb_place.sql("CREATE TABLE other (id int PRIMARY KEY) ENGINE=InnoDB")
    mariadb_place.sql(
        "CREATE TABLE t (id tinyint unsigned PRIMARY KEY, t varchar(5) CHARACTER SET latin1,"
        " n int CHECK (n >= 0), kind enum('a', 'b'), other int REFERENCES other (id))"
        " ENGINE=InnoDB"
    )
    sink = opened()
    rows = [sink.encode(each) for each in ({"id": 2}, {"id": 3}, value, {"id": 4}, {"id": 5})]
    with pytest.raises(RowsRefused, match=says) as refused:
        sink.prepare(branch(1), rows)
    assert refused.value.culprit == 2
    assert mariadb_place.prepared() == []
    assert put(sink, 2, {"id": 2}) is FinishOutcome.DONE
    assert mariadb_place.sql("SELECT id FROM t") == [(2,)]


def test_what_would_fail_later_is_said_at_the_start(opened, mariadb_place):
    place = mariadb_place
    place.sql("CREATE TABLE other_engine (id int) ENGINE=Aria")
    place.sql("CREATE VIEW a_view AS SELECT 1 AS id")
    place.sql("CREATE TABLE no_key (id int, a int) ENGINE=InnoDB")
    place.sql("CREATE TABLE two_keys (id int PRIMARY KEY, a int UNIQUE) ENGINE=InnoDB")
    place.sql("CREATE TABLE prefix (id varchar(9), UNIQUE (id(3))) ENGINE=InnoDB")
    place.sql("CREATE TABLE shaped (id int, at point NOT NULL) ENGINE=InnoDB")
    for table, options, says in (
        ("absent", {}, "does not exist"),
        ("other_engine", {}, "engine Aria"),
        ("a_view", {}, "is a VIEW"),
        ("no_key", {"key": "id"}, "no primary key or unique index"),
        ("no_key", {"key": "b"}, "lacks b, which"),
        ("two_keys", {"key": ["id"]}, "another unique index, a"),
        ("prefix", {"key": ["id"]}, "no primary key or unique index"),
        ("shaped", {}, "do not write"),
        ("no_key", {"create_table": {"id": "int", "z": "int"}}, "without the column 'z'"),
        ("no_key", {"create_table": {"id": "VARCHAR(9)"}}, "is int"),
        ("made", {"create_table": {"id": "no_type"}}, "refuses to make a table"),
    ):
        with pytest.raises(ConfigError, match=says):
            opened(table, **options)
    for good, options in (("no_key", {}), ("two_keys", {}), ("prefix", {})):
        opened(good, **options)


def test_a_number_that_the_server_gives_does_not_hide_the_key(opened, mariadb_place):
    mariadb_place.sql(
        "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, k int NOT NULL UNIQUE, a int,"
        " twice int AS (a * 2)) ENGINE=InnoDB"
    )
    sink = opened(key=["k"])
    put(sink, 1, {"k": 5, "a": 1}, {"k": 5, "a": 2})
    assert mariadb_place.sql("SELECT k, a, twice FROM t") == [(5, 2, 4)]
    for name in ("id", "twice"):
        with pytest.raises(SerializationError, match="takes no column"):
            sink.encode({"k": 1, name: 1})


def test_missing_rights_are_said_with_the_grant_that_helps(opened, mariadb_place):
    place = mariadb_place
    user = place.database[:20]
    place.sql("CREATE TABLE t (k int PRIMARY KEY) ENGINE=InnoDB")
    place.sql(f"CREATE USER {user}")
    try:
        with pytest.raises(ConfigError, match="refuses the connection"):
            opened(user=user)
        place.sql(f"GRANT SELECT ON {place.database}.t TO {user}")
        with pytest.raises(ConfigError, match="GRANT DELETE, INSERT, UPDATE ON"):
            opened(user=user, key=["k"])
        place.sql(f"GRANT INSERT ON {place.database}.t TO {user}")
        with pytest.raises(ConfigError, match=r"Let somebody .* CREATE TABLE"):
            opened(user=user)
        opened()
        place.sql(f"GRANT SELECT ON {place.database}.{MARKERS} TO {user}")
        with pytest.raises(ConfigError, match=f"GRANT SELECT, INSERT, UPDATE ON `{MARKERS}`"):
            opened(user=user)
        place.sql(f"GRANT SELECT, INSERT, UPDATE ON {place.database}.{MARKERS} TO {user}")
        sink = opened(user=user)
        assert put(sink, 1, {"k": 1}) is FinishOutcome.DONE
    finally:
        place.sql(f"DROP USER {user}")


@pytest.mark.parametrize(
    ("setting", "wrong", "right", "error"),
    [
        ("innodb_flush_log_at_trx_commit", "2", "1", ConfigError),
        ("read_only", "ON", "OFF", Unreachable),
    ],
)
def test_a_server_on_which_rows_could_be_lost_is_refused(
    opened, mariadb_place, setting, wrong, right, error
):
    mariadb_place.sql("CREATE TABLE t (k int) ENGINE=InnoDB")
    mariadb_place.sql(f"SET GLOBAL {setting} = {wrong}")
    try:
        with pytest.raises(error, match=r"innodb_flush|read-only"):
            opened()
    finally:
        mariadb_place.sql(f"SET GLOBAL {setting} = {right}")
    opened()


def test_a_server_that_is_away_is_unreachable(mariadb_place, unique):
    dsn = mariadb_place.dsn.replace(f":{mariadb_place.server.port}/", ":1/")
    with pytest.raises(Unreachable, match="does not answer"):
        MySQL(dsn, table="t").open(mariadb_place.scope)


def test_a_lock_that_another_holds_makes_the_epoch_wait_for_another_try(opened, mariadb_place):
    sink = opened(key=["k"], create_table={"k": "int", "a": "int"})
    put(sink, 1, {"k": 1, "a": 1})
    with mariadb_place.connect(mariadb_place.database) as other:
        other.begin()
        other.query("UPDATE t SET a = 9 WHERE k = 1")
        with pytest.raises(ParticipantUnavailable, match="Lock wait timeout"):
            put(sink, 2, {"k": 1, "a": 2})
        other.rollback()
    assert mariadb_place.prepared() == []
    assert put(sink, 3, {"k": 1, "a": 3}) is FinishOutcome.DONE
    assert mariadb_place.sql("SELECT a FROM t") == [(3,)]


def test_branches_of_others_are_never_touched(opened, mariadb_place):
    sink = opened(create_table={"k": "int"})
    foreign = [
        ("'somebody'", "1"),
        (f"'{mariadb_place.scope.gid_prefix}w1.7.sink'", "1"),
        (f"'{mariadb_place.scope.gid_prefix}w1.7.other'", "28518"),
        (f"'{mariadb_place.scope.gid_prefix}w1.7','x'", "28518"),
    ]
    connections = []
    for number, (xid, form) in enumerate(foreign):
        connection = mariadb_place.connect(mariadb_place.database)
        connections.append(connection)
        whole = f"{xid},{form}" if "," in xid else f"{xid},'',{form}"
        for statement in (
            f"XA START {whole}",
            f"INSERT INTO t VALUES ({number})",
            f"XA END {whole}",
            f"XA PREPARE {whole}",
        ):
            connection.query(statement)
    assert sink.branches() == []
    sink.roll_back(branch(7))
    assert len(mariadb_place.root_sql("XA RECOVER")) == len(foreign)
    for connection in connections:
        connection.close()


def test_a_worker_that_is_stopped_in_the_middle_can_be_raised_and_leaves_no_lock(
    opened, mariadb_place, monkeypatch
):
    """It stands still with its rows written and its marker row locked, before its PREPARE."""
    late, heir = opened(key=["k"], create_table={"k": "int", "a": "int"}), opened(key=["k"])
    reached, go_on = threading.Event(), threading.Event()
    execute = Session.execute

    def stopping(session, statement):
        if statement.startswith("XA PREPARE") and session is late._work:
            reached.set()
            assert go_on.wait(30)
        return execute(session, statement)

    monkeypatch.setattr(Session, "execute", stopping)
    failures: list[BaseException] = []

    def prepare() -> None:
        try:
            late.prepare(branch(1), [late.encode({"k": 1, "a": 1})])
        except ParticipantUnavailable as error:
            failures.append(error)

    worker = threading.Thread(target=prepare)
    worker.start()
    assert reached.wait(30)
    heir.raise_marker(W)
    assert heir.marker_row(W) == MarkerRow(CommitEpoch(0), Standing.RAISED)
    assert put(heir, 1, {"k": 1, "a": 2}, incarnation=V) is FinishOutcome.DONE
    go_on.set()
    worker.join(30)
    assert len(failures) == 1
    assert heir.branches() == []
    with pytest.raises(Superseded):
        late.prepare(branch(2), [late.encode({"k": 1, "a": 3})])
    assert mariadb_place.sql("SELECT a FROM t") == [(2,)]


def _killed_at(place, call: int) -> tuple[list[str], bool]:
    """Run a worker of three epochs in a process that kills itself at its n-th statement."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            sink = MySQL(place.dsn, table="t", key=["k"], name="sink")
            sink.open(place.scope)
            left = [call]
            for name in ("execute", "change"):
                original = getattr(Session, name)

                def counted(session, statement, original=original):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(session, statement)

                setattr(Session, name, counted)
            for number in (1, 2, 3):
                rows = [sink.encode({"k": number, "a": 10 * call + number}), sink.encode({"k": 9})]
                sink.prepare(branch(number), rows)
                if number == 2:
                    sink.roll_back(branch(number))
                    continue
                os.write(writing, f"{number}\n".encode())
                sink.commit(branch(number))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as said:
        decided = said.read().split()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return decided, os.WIFSIGNALED(status)


def test_death_at_any_statement_loses_and_doubles_nothing(opened, mariadb_place):
    heir = opened(key=["k"], create_table={"k": "int", "a": "int"})
    call, was_killed = 0, True
    while was_killed:
        call += 1
        mariadb_place.sql("DELETE FROM t")
        mariadb_place.sql(f"DELETE FROM {MARKERS}")
        decided, was_killed = _killed_at(mariadb_place, call)
        for each in heir.branches():
            if str(each.commit_epoch) in decided:
                assert heir.commit(each) is FinishOutcome.DONE
            else:
                heir.roll_back(each)
        heir.raise_marker(W)
        assert heir.branches() == []
        last = int(decided[-1]) if decided else 0
        assert heir.marker_row(W) == MarkerRow(CommitEpoch(last), Standing.RAISED)
        found = mariadb_place.sql("SELECT k, a FROM t WHERE k < 9 ORDER BY k")
        assert found == [(int(n), 10 * call + int(n)) for n in decided]
    assert call > 15


def test_a_worker_that_stands_still_does_not_keep_its_branch(opened, mariadb_place):
    """Its connection lives, so that the server calls the branch unknown to all others."""
    owner, heir = opened(create_table={"k": "int"}), opened()
    for number in (1, 2):
        owner.prepare(branch(number), [owner.encode({"k": number})])
        began_s = time.monotonic()
        if number == 1:
            assert heir.commit(branch(number)) is FinishOutcome.DONE
        else:
            heir.roll_back(branch(number))
        assert time.monotonic() - began_s < 5
    assert heir.branches() == []
    assert mariadb_place.sql("SELECT k FROM t") == [(1,)]
    assert put(owner, 3, {"k": 3}) is FinishOutcome.DONE
