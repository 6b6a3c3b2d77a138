"""When a target's progress fits the log of an outbox, and how refused runs are cut."""

from __future__ import annotations

import pytest

from onceflow.decisions.outbox import OutboxLog, Progress, mismatch, parts_of

LOG = OutboxLog("t1", 10, 50)


@pytest.mark.parametrize(
    "progress", [Progress("t1", 10), Progress("t1", 30), Progress("t1", 50)], ids=str
)
def test_progress_within_the_log_goes_on(progress):
    assert mismatch(progress, LOG) is None


def test_a_target_without_progress_begins_with_a_log_of_which_nothing_was_deleted():
    assert mismatch(None, OutboxLog("t1", 0, 50)) is None


@pytest.mark.parametrize(
    ("progress", "what"),
    [
        (None, "begins at offset 10"),
        (Progress("t0", 30), "made again"),
        (Progress("t1", 9), "restored to a time before"),
        (Progress("t1", 51), "Kafka lost records"),
    ],
)
def test_progress_that_cannot_be_is_told(progress, what):
    assert what in mismatch(progress, LOG)


@pytest.mark.parametrize(
    ("count", "culprit", "parts"),
    [
        (5, None, [(0, 2), (2, 5)]),
        (2, None, [(0, 1), (1, 2)]),
        (5, 0, [(0, 1), (1, 5)]),
        (5, 2, [(0, 2), (2, 3), (3, 5)]),
        (5, 4, [(0, 4), (4, 5)]),
    ],
)
def test_a_refused_run_is_cut_around_its_culprit_or_halved(count, culprit, parts):
    assert [(p.start, p.stop) for p in parts_of(count, culprit)] == parts
