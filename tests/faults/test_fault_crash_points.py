"""SIGKILL at every named crash point, once and several times in a row."""

from __future__ import annotations

import pytest

from harness.fault_plan import OF_OUTBOX, OF_SINKS
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

TAKING_OVER = {
    CrashPoint.BEFORE_CLAIM,
    CrashPoint.AFTER_CLAIM,
    CrashPoint.DURING_RESTORE,
    CrashPoint.AFTER_FENCE,
}
HANDING_OVER = {CrashPoint.BEFORE_RELEASE, CrashPoint.AFTER_RELEASE}
OF_EACH_EPOCH = [
    point for point in CrashPoint if point not in TAKING_OVER | HANDING_OVER | OF_SINKS | OF_OUTBOX
]


def cases(points, in_ci=()):
    """Parameters; those in ``in_ci`` are the ones of ``make test``."""
    return [
        pytest.param(point, marks=pytest.mark.ci if point in in_ci else (), id=point.value)
        for point in sorted(points)
    ]


@pytest.mark.parametrize(
    "point", cases(OF_EACH_EPOCH, {CrashPoint.AFTER_SEND_OFFSETS, CrashPoint.AFTER_COMMIT})
)
def test_a_worker_killed_at_a_point_of_its_epoch_loses_and_doubles_nothing(run_app, point):
    with run_app(static=True) as run:
        run.feed(records=700)
        worker = run.worker(ONCEFLOW_CRASH_POINT=f"{point}:6")
        worker.wait_killed(40)
        run.worker()
        run.finish()


@pytest.mark.parametrize("point", cases(OF_EACH_EPOCH, {CrashPoint.AFTER_PRODUCE}))
def test_a_worker_killed_at_a_point_several_times_in_a_row_loses_and_doubles_nothing(
    run_app, point
):
    with run_app(static=True) as run:
        run.feed(records=900)
        for passing in (5, 1, 3):
            worker = run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}")
            worker.wait_killed(40)
        run.worker()
        run.finish()


@pytest.mark.parametrize("point", cases(TAKING_OVER, {CrashPoint.AFTER_CLAIM}))
def test_a_worker_killed_while_taking_over_loses_and_doubles_nothing(run_app, point, tmp_path):
    with run_app(static=True) as run:
        run.feed(records=900)
        run.worker()
        run.wait_echoed(200, 40)
        run.workers["a"].kill()
        for attempt in range(2):
            # An empty data directory each time, so that there is something to restore.
            worker = run.worker(
                datadir=tmp_path / f"cold-{attempt}", ONCEFLOW_CRASH_POINT=f"{point}:1"
            )
            worker.wait_killed(40)
            # Who claimed nothing leaves no marker by which to fence it: work on in between.
            run.worker()
            run.wait_more(100, 60)
            run.workers["a"].kill()
        run.worker()
        run.finish()


@pytest.mark.parametrize("point", cases(HANDING_OVER, {CrashPoint.BEFORE_RELEASE}))
def test_a_worker_killed_while_handing_over_loses_and_doubles_nothing(run_app, point):
    with run_app(static=True) as run:
        run.feed(records=1_300, rate=60)
        worker = run.worker("a", ONCEFLOW_CRASH_POINT=f"{point}:1")
        run.wait_echoed(200, 40)
        run.worker("b")
        worker.wait_killed(40)
        run.worker("a")
        # All input may be reflected already. Who is stopped before it claims releases nothing.
        for each in run.workers.values():
            each.wait_ready()
        run.finish()


@pytest.mark.parametrize("point", cases(HANDING_OVER))
def test_a_worker_killed_while_stopping_loses_and_doubles_nothing(run_app, point):
    with run_app(static=True) as run:
        run.feed(records=700)
        worker = run.worker(ONCEFLOW_CRASH_POINT=f"{point}:1")
        run.wait_echoed(200, 40)
        worker.terminate()
        worker.wait_killed(40)
        run.worker().wait_ready()
        run.finish()


def test_every_crash_point_has_a_case():
    of_sinks = OF_SINKS | OF_OUTBOX
    assert set(CrashPoint) == set(OF_EACH_EPOCH) | TAKING_OVER | HANDING_OVER | of_sinks
