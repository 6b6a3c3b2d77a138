"""The PostgreSQL sink when others hold what it needs, and when the server stops or goes away."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import psycopg
import pytest

from harness.postgres_server import PostgresServer
from onceflow.errors import ConfigError, ParticipantUnavailable, Unreachable
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks import PostgreSQL
from onceflow.sinks.gid import Scope, gid_of
from onceflow.sinks.participant import FinishOutcome, MarkerRow, Standing

SINK = "onceflow.sinks.postgresql"
FIRST = BranchId(Incarnation("first"), CommitEpoch(1))


class Halting(PostgreSQL):
    """Stands still between its marker row and PREPARE, as a stopped process does."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.halted = threading.Event()
        self.go_on = threading.Event()

    def _mark(self, branch):
        super()._mark(branch)
        self.halted.set()
        assert self.go_on.wait(60)


@pytest.fixture
def opened(postgres_place):
    """Makes opened sinks of the table ``t``, all of one name."""
    postgres_place.sql("CREATE TABLE t (id int PRIMARY KEY)")
    made = []

    def make(kind=PostgreSQL, scope=postgres_place.scope, dsn=None):
        sink = kind(dsn or postgres_place.dsn(), table="t", name="sink")
        made.append(sink)
        sink.open(scope)
        return sink

    yield make
    for sink in made:
        sink.close()


def until_available(call):
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except ParticipantUnavailable:
            assert time.monotonic() < deadline


def prepare(sink, branch=FIRST):
    sink.prepare(branch, [sink.encode({"id": branch.commit_epoch})])


@pytest.fixture
def halted(opened):
    """A sink that stands still in ``prepare``, and what becomes of that."""
    sink = opened(Halting)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(prepare, sink)
        assert sink.halted.wait(30)
        yield running, sink
        sink.go_on.set()


def test_a_raise_ends_the_live_transaction_that_holds_the_row(halted, opened):
    running, sink = halted
    heir = opened()
    heir.raise_marker(FIRST.incarnation)
    assert heir.marker_row(FIRST.incarnation) == MarkerRow(CommitEpoch(0), Standing.RAISED)
    sink.go_on.set()
    assert isinstance(running.exception(30), ParticipantUnavailable)
    assert heir.branches() == []


def test_a_roll_back_ends_a_prepare_that_is_still_on_its_way(halted, opened):
    running, sink = halted
    heir = opened()
    heir.roll_back(FIRST)
    sink.go_on.set()
    assert isinstance(running.exception(30), ParticipantUnavailable)
    assert heir.branches() == []
    prepare(heir, FIRST._replace(commit_epoch=CommitEpoch(2)))


def test_a_branch_held_by_a_stuck_session_is_freed(opened, postgres_place, monkeypatch):
    monkeypatch.setattr(f"{SINK}.FINISH_S_MAX", 3.0)
    sink = opened()
    prepare(sink)
    server = postgres_place.server
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.sql("SELECT pg_reload_conf()")
    gid = gid_of(postgres_place.scope, FIRST, "sink")
    stuck = psycopg.connect(postgres_place.dsn(), autocommit=True)

    def commit_and_wait_for_the_standby():
        with contextlib.suppress(psycopg.OperationalError):
            stuck.execute(f"COMMIT PREPARED '{gid}'")

    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(commit_and_wait_for_the_standby)
            while not server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
                time.sleep(0.02)
            assert until_available(lambda: sink.commit(FIRST)) is FinishOutcome.DONE
            waiting.result(30)
        assert stuck.broken
    finally:
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")
        stuck.close()
    assert postgres_place.sql("SELECT id FROM t") == [(1,)]


def test_a_lock_of_others_is_waited_for_within_a_bound(opened, postgres_place, monkeypatch):
    monkeypatch.setattr(f"{SINK}.PARTICIPANT_LOCK_S_MAX", 0.2)
    sink = opened()
    with psycopg.connect(postgres_place.dsn()) as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ParticipantUnavailable, match="pg_locks"):
            prepare(sink)
    prepare(sink)
    # An earlier branch of its own holds the marker row just so.
    with pytest.raises(ParticipantUnavailable, match="pg_prepared_xacts"):
        prepare(sink, FIRST._replace(commit_epoch=CommitEpoch(2)))


def test_a_raise_waits_for_the_end_of_a_prepared_branch(opened):
    sink, heir = opened(), opened()
    prepare(sink)
    with pytest.raises(ParticipantUnavailable):
        heir.raise_marker(FIRST.incarnation)
    assert heir.branches() == [FIRST]
    assert heir.marker_row(FIRST.incarnation) is None


def test_each_call_to_a_server_that_stands_still_ends(opened, postgres_place, monkeypatch):
    sink = opened()
    prepare(sink)
    later = FIRST._replace(commit_epoch=CommitEpoch(2))
    monkeypatch.setattr(f"{SINK}.FINISH_S_MAX", 0.3)
    monkeypatch.setattr(f"{SINK}.PREPARE_S_MAX", 0.3)
    with postgres_place.server.process.stopped():
        for call in (
            lambda: sink.commit(FIRST),
            lambda: prepare(sink, later),
        ):
            began = time.monotonic()
            with pytest.raises(ParticipantUnavailable):
                call()
            assert time.monotonic() - began < 20
    monkeypatch.undo()
    assert sink.commit(FIRST) is FinishOutcome.DONE
    sink.roll_back(later)
    assert sink.branches() == []


def test_a_commit_waits_for_a_server_that_starts_again(opened, postgres_place, monkeypatch):
    monkeypatch.setattr(f"{SINK}.FINISH_S_MAX", 60.0)
    sink = opened()
    prepare(sink)
    process = postgres_place.server.process
    process.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sink.commit, FIRST)
        assert wait([waiting], 0.3).not_done
        postgres_place.server.start()
        assert waiting.result(30) is FinishOutcome.DONE
    assert postgres_place.sql("SELECT id FROM t") == [(1,)]


def test_what_cannot_be_prepared_at_all_is_told(opened, postgres_place):
    postgres_place.sql(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NOTIFY told; RETURN NEW; END'"
    )
    postgres_place.sql("CREATE TRIGGER tell BEFORE INSERT ON t EXECUTE FUNCTION tell()")
    with pytest.raises(ParticipantUnavailable, match="cannot PREPARE a transaction"):
        prepare(opened())


def test_a_table_that_is_dropped_meanwhile_stops_its_partitions_only(opened, postgres_place):
    sink = opened()
    rows = [sink.encode({"id": 1})]
    postgres_place.sql("ALTER TABLE t RENAME TO elsewhere")
    with pytest.raises(ParticipantUnavailable, match="does not exist"):
        sink.prepare(FIRST, rows)
    postgres_place.sql("ALTER TABLE elsewhere RENAME TO t")
    sink.prepare(FIRST, rows)


def test_a_prepare_that_rolls_back_without_an_error_is_not_taken_for_one(opened):
    class FailsUnseen(PostgreSQL):
        def _mark(self, branch):
            super()._mark(branch)
            with contextlib.suppress(psycopg.Error):
                self._session.execute("SELECT 1 / 0")

    sink = opened(FailsUnseen)
    with pytest.raises(ParticipantUnavailable, match="answered 'ROLLBACK'"):
        prepare(sink)
    assert sink.branches() == []


def test_a_standby_is_no_place_to_write(postgres_place):
    dsn = f"{postgres_place.dsn()} target_session_attrs=read-only"
    with pytest.raises(Unreachable):
        PostgreSQL(dsn, table="t").open(postgres_place.scope)


class Pair:
    """A primary and its standby, and a sink that knows both."""

    def __init__(self, unique):
        self.primary = PostgresServer().start()
        self.primary.sql("CREATE TABLE t (id int PRIMARY KEY)")
        self.standby = PostgresServer(primary=self.primary).start()
        ports = f"{self.primary.process.port},{self.standby.process.port}"
        dsn = f"host=127.0.0.1,127.0.0.1 port={ports} dbname=postgres user=onceflow"
        self.sink = PostgreSQL(dsn, table="t", name="sink")
        self.scope = Scope.of("cluster", unique("app"))

    def fail_over(self):
        self.primary.process.kill()
        self.standby.sql("SELECT pg_promote()")

    def remove(self):
        self.sink.close()
        self.standby.process.remove()
        self.primary.process.remove()


@pytest.fixture
def pair(unique):
    made = Pair(unique)
    yield made
    made.remove()


def test_a_branch_survives_the_fail_over_to_a_synchronous_standby(pair):
    pair.sink.open(pair.scope)
    pair.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    pair.primary.sql("SELECT pg_reload_conf()")
    synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    while not pair.primary.sql(synchronous):
        time.sleep(0.02)
    prepare(pair.sink)
    pair.fail_over()
    assert until_available(pair.sink.branches) == [FIRST]
    assert until_available(lambda: pair.sink.commit(FIRST)) is FinishOutcome.DONE
    assert pair.standby.sql("SELECT id FROM t") == [(1,)]
    prepare(pair.sink, FIRST._replace(commit_epoch=CommitEpoch(2)))


def test_a_branch_lost_by_a_standby_that_lagged_is_missing_and_not_taken_for_done(pair):
    pair.sink.open(pair.scope)
    while not pair.standby.sql("SELECT to_regclass('onceflow_markers') IS NOT NULL")[0][0]:
        time.sleep(0.02)
    pair.standby.process.kill()
    prepare(pair.sink)
    pair.primary.process.kill()
    pair.standby.start()
    pair.standby.sql("SELECT pg_promote()")
    assert until_available(lambda: pair.sink.commit(FIRST)) is FinishOutcome.MISSING


def test_slots_for_prepared_transactions_are_needed_and_counted(unique):
    server = PostgresServer(max_prepared_transactions=1)
    try:
        server.start()
        server.sql("CREATE TABLE t (id int)")
        scope = Scope.of("cluster", unique("app"))
        sink = PostgreSQL(server.dsn(), table="t", name="sink")
        with psycopg.connect(server.dsn(), autocommit=True) as other:
            other.execute("BEGIN; LOCK t; PREPARE TRANSACTION 'by hand'")
            with pytest.raises(ConfigError, match="used by others"):
                sink.open(scope)
            other.execute("ROLLBACK PREPARED 'by hand'")
        sink.open(scope)
        prepare(sink)
        sink.open(scope)
        second = BranchId(Incarnation("second"), CommitEpoch(1))
        with pytest.raises(ParticipantUnavailable, match="maximum number of prepared"):
            prepare(sink, second)
        assert sink.commit(FIRST) is FinishOutcome.DONE
        sink.close()
        # Replaying a PREPARE needs a slot, though it has long been finished.
        server.sql("CHECKPOINT")
        server.process.kill()
        server.settings["max_prepared_transactions"] = 0
        server.start()
        with pytest.raises(ConfigError, match="max_prepared_transactions = 64"):
            sink.open(scope)
    finally:
        server.process.remove()
