"""Two-phase sinks under kill -9 at every crash point, and workers that are stopped in between.

The sinks are participants over a SQLite file, and a real PostgreSQL.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.fault_plan import OF_SINKS
from harness.postgres_server import PostgresPlace
from harness.sink_run import PostgresStore, SinkRun, SqliteStore
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

OF_OTHERS = {CrashPoint.AFTER_LIST, CrashPoint.AFTER_RAISE}
"""Passed while another worker's branches are resolved."""
AROUND_THE_DECISION = {CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT}
OF_OWN = sorted((OF_SINKS - OF_OTHERS) | AROUND_THE_DECISION)
DECIDED = {
    CrashPoint.AFTER_COMMIT,
    CrashPoint.BEFORE_FINISH,
    CrashPoint.DURING_FINISH,
    CrashPoint.AFTER_FINISH,
}


@pytest.fixture(params=["sqlite", "postgres"])
def sink_run(request, fault_kafka, tmp_path):
    """Makes runs over either kind of sink."""
    return _runs(request, request.param, fault_kafka, tmp_path)


@pytest.fixture
def postgres_run(request, fault_kafka, tmp_path):
    """Makes runs over PostgreSQL."""
    return _runs(request, "postgres", fault_kafka, tmp_path)


@pytest.fixture
def sqlite_run(request, fault_kafka, tmp_path):
    """Makes runs over SQLite."""
    return _runs(request, "sqlite", fault_kafka, tmp_path)


def _runs(request, kind, kafka, directory):
    if kind == "sqlite":
        store = SqliteStore(directory)
    else:
        server = request.getfixturevalue("postgres")
        place = PostgresPlace(server, f"place_{abs(hash(str(directory)))}")
        request.addfinalizer(place.drop)
        store = PostgresStore(place)
    return lambda **options: SinkRun(kafka, directory, store, **options)


def killed_and_started_again(make, point, passing, records=600):
    with make() as run:
        run.feed(records)
        run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
        run.worker()
        run.finish()
        return run.resolved()


@pytest.mark.ci
def test_rows_in_postgresql_survive_a_kill_between_the_decision_and_their_commit(postgres_run):
    committed, _ = killed_and_started_again(postgres_run, CrashPoint.AFTER_COMMIT, 4, 400)
    assert committed == 2, "one branch in each of the two sinks"


@pytest.mark.ci
def test_rows_in_postgresql_that_were_prepared_and_not_decided_come_again(postgres_run):
    _, rolled_back = killed_and_started_again(postgres_run, CrashPoint.AFTER_PREPARE, 3, 400)
    assert rolled_back == 2, "one branch in each of the two sinks"


@pytest.mark.parametrize("point", OF_OWN)
def test_a_worker_killed_at_a_point_of_its_two_phase_epoch_loses_and_doubles_nothing(
    sink_run, point
):
    committed, rolled_back = killed_and_started_again(sink_run, point, 5)
    if point is not CrashPoint.AFTER_COMMIT and point in DECIDED:
        assert rolled_back == 0, "a decided epoch is never rolled back"
    if point not in DECIDED:
        assert committed == 0, "an undecided epoch is never committed"


@pytest.mark.parametrize("point", OF_OWN)
def test_a_worker_killed_several_times_in_a_row_loses_and_doubles_nothing(sink_run, point):
    with sink_run() as run:
        run.feed(900)
        for passing in (4, 1, 2):
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
        run.worker()
        run.finish()


@pytest.mark.parametrize("first", [CrashPoint.AFTER_PREPARE, CrashPoint.AFTER_COMMIT])
@pytest.mark.parametrize("point", sorted(OF_OTHERS))
def test_who_is_killed_while_resolving_leaves_it_to_the_next(sink_run, first, point):
    with sink_run() as run:
        run.feed()
        run.worker(ONCEFLOW_CRASH_POINT=f"{first}:6").wait_killed(60)
        for _ in range(2):
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:1")
            run.workers["a"].wait_killed(60)
            if point is CrashPoint.AFTER_LIST:
                assert run.store.prepared(), "nothing was finished before the kill"
        run.worker()
        run.finish()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_stopped_at_its_prepare_while_another_takes_over_writes_nothing(
    postgres_run, moment
):
    """Before: its PREPARE comes late and meets a raised row. After: it is rolled back under it."""
    # The stopped worker is fenced when it goes on, and leaves to be started again.
    allowed = ("worker_failed", "Traceback")
    with postgres_run(allowed=allowed) as run:
        run.feed(900)
        stopped = run.worker("a", SINK_STOP=f"{moment}:6")
        wait_until_stopped(stopped)
        run.worker("b")
        run.wait_rows()
        stopped.thaw()
        assert stopped.wait_ended(60) in (1, 3, 4)
        run.worker("a").wait_ready()
        run.finish()


def wait_until_stopped(worker):
    stat, deadline_s = Path(f"/proc/{worker.pid}/stat"), time.monotonic() + 60
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline_s, worker.tail()
        time.sleep(0.05)


def test_a_database_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    request, fault_kafka, tmp_path
):
    with _runs(request, "postgres", fault_kafka, tmp_path)() as run:
        server = request.getfixturevalue("postgres")
        run.feed(1_500)
        run.worker()
        for rows in (200, 600):
            run.wait_rows(rows)
            server.process.kill()
            server.start()
        run.finish(120)
