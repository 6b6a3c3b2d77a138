"""Outbox sinks under kill -9 around their applying, and beside a stopped worker that goes on.

Into SQLite files, and into a real PostgreSQL.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.outbox_store import PostgresOutbox, SqliteOutbox
from harness.postgres_server import PostgresPlace, PostgresServer
from harness.sink_run import SinkRun
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

AROUND_APPLYING = [
    CrashPoint.AFTER_COMMIT,
    CrashPoint.BEFORE_OUTBOX_APPLY,
    CrashPoint.DURING_OUTBOX_APPLY,
    CrashPoint.AFTER_OUTBOX_APPLY,
]


@pytest.fixture(scope="session")
def outbox_postgres():
    """A real server for all tests of this file."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.process.remove()


@pytest.fixture
def outbox_run(fault_kafka, tmp_path):
    """Makes runs over SQLite."""
    return lambda **options: SinkRun(fault_kafka, tmp_path, SqliteOutbox(tmp_path), **options)


@pytest.fixture
def postgres_run(fault_kafka, tmp_path, outbox_postgres):
    """Makes runs over PostgreSQL."""
    place = PostgresPlace(outbox_postgres, f"place_{abs(hash(str(tmp_path)))}")
    yield lambda **options: SinkRun(fault_kafka, tmp_path, PostgresOutbox(place), **options)
    place.drop()


@pytest.mark.ci
def test_a_worker_killed_in_the_middle_of_applying_loses_and_doubles_nothing(outbox_run):
    with outbox_run() as run:
        run.feed()
        point = CrashPoint.DURING_OUTBOX_APPLY
        run.worker(ONCEFLOW_CRASH_POINT=f"{point}:3").wait_killed(60)
        run.worker()
        run.finish()


def killed_several_times(run, point):
    run.feed(900)
    for passing in (4, 1, 2):
        run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
    run.worker()
    run.finish()


@pytest.mark.parametrize("point", AROUND_APPLYING)
def test_a_worker_killed_several_times_around_applying_loses_and_doubles_nothing(outbox_run, point):
    with outbox_run() as run:
        killed_several_times(run, point)


@pytest.mark.parametrize("point", AROUND_APPLYING)
def test_the_same_holds_for_postgresql(postgres_run, point):
    with postgres_run() as run:
        killed_several_times(run, point)


def overtaken(run, moment):
    """A worker stops itself while it applies; another one takes over, and then it goes on."""
    run.feed(900)
    stopped = run.worker("a", SINK_STOP=f"{moment}:4")
    wait_until_stopped(stopped)
    run.worker("b")
    return stopped


def goes_on(stopped):
    """Let a stopped worker find out how late it is; its Kafka client may do so first."""
    stopped.thaw()
    stopped.wait_log('"(outbox_moved|participant_unavailable|partitions_lost|worker_failed)"', 60)
    stopped.kill()


def test_a_stopped_applier_that_goes_on_after_its_successor_applies_nothing(outbox_run):
    with outbox_run(allowed=("worker_failed",)) as run:
        stopped = overtaken(run, "before")
        run.wait_rows()
        goes_on(stopped)
        run.finish()


def test_a_stopped_applier_that_holds_a_sqlite_file_keeps_its_successor_waiting(outbox_run):
    # SQLite has one writer, and nobody can take the file from a process that stands still.
    with outbox_run(allowed=("worker_failed",)) as run:
        stopped = overtaken(run, "after")
        run.workers["b"].wait_log('"participant_unavailable"', 60)
        goes_on(stopped)
        run.finish()


def test_a_stopped_applier_that_holds_rows_of_postgresql_loses_them(postgres_run):
    with postgres_run(allowed=("worker_failed",)) as run:
        stopped = overtaken(run, "after")
        run.wait_rows()
        goes_on(stopped)
        run.finish()


def wait_until_stopped(worker):
    stat, deadline_s = Path(f"/proc/{worker.pid}/stat"), time.monotonic() + 60
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline_s, worker.tail()
        time.sleep(0.05)
