"""Outbox sinks under kill -9 around their applying, and beside a stopped worker that goes on."""

from __future__ import annotations

import pytest

from harness.outbox_store import SqliteOutbox
from harness.sink_run import SinkRun
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

AROUND_APPLYING = [
    CrashPoint.AFTER_COMMIT,
    CrashPoint.BEFORE_OUTBOX_APPLY,
    CrashPoint.DURING_OUTBOX_APPLY,
    CrashPoint.AFTER_OUTBOX_APPLY,
]


@pytest.fixture
def outbox_run(fault_kafka, tmp_path):
    """Makes runs over SQLite."""
    return lambda **options: SinkRun(fault_kafka, tmp_path, SqliteOutbox(tmp_path), **options)


@pytest.mark.ci
def test_a_worker_killed_in_the_middle_of_applying_loses_and_doubles_nothing(outbox_run):
    with outbox_run() as run:
        run.feed()
        for passing in (3, 1):
            point = CrashPoint.DURING_OUTBOX_APPLY
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
        run.worker()
        run.finish()


@pytest.mark.parametrize("point", AROUND_APPLYING)
def test_a_worker_killed_several_times_around_applying_loses_and_doubles_nothing(outbox_run, point):
    with outbox_run() as run:
        run.feed(900)
        for passing in (4, 1, 2):
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
        run.worker()
        run.finish()
