"""What waits to be told: bounded, in order, the least important given up first."""

from __future__ import annotations

from onceflow.coordinator.backlog import IMPORTANCE, Backlog
from onceflow.coordinator.transactions import STEPS
from onceflow.coordinator.vocabulary import (
    Aborted,
    Committed,
    Ended,
    Finding,
    Heuristic,
    OffsetsMoved,
    Prepared,
)
from onceflow.ids import Partition
from onceflow.limits import COORDINATOR_TOLD_MAX

FOUND = Heuristic("w", 1, "pg", Finding.OTHER, "", "w")


def prepared(commit_epoch):
    return Prepared("w", commit_epoch, [], [], "")


def test_every_step_and_a_heuristic_outcome_has_an_importance():
    assert set(IMPORTANCE) == {*STEPS, Heuristic}


def test_changes_are_taken_in_order_and_again_until_they_are_done():
    backlog = Backlog()
    numbers = [backlog.add(prepared(each))[0] for each in range(COORDINATOR_TOLD_MAX + 2)]
    taken = backlog.take()
    assert [*taken] == numbers[:COORDINATOR_TOLD_MAX]
    assert backlog.take() == taken
    for number in taken:
        backlog.done(number)
        backlog.done(number)
    assert [*backlog.take()] == numbers[COORDINATOR_TOLD_MAX:]
    assert len(backlog) == 2


def test_the_oldest_of_the_least_important_is_given_up():
    backlog = Backlog(room=4)
    for change in (FOUND, Committed("w", 1, "", "w"), prepared(2), prepared(3)):
        assert backlog.add(change)[1] is None
    assert [backlog.add(Ended("w", 1))[1], backlog.add(Aborted("w", 3, "w"))[1]] == [3, 4]
    assert [backlog.add(prepared(4))[1]] == [7]
    assert [*backlog.take().values()] == [
        FOUND,
        Committed("w", 1, "", "w"),
        Ended("w", 1),
        Aborted("w", 3, "w"),
    ]
    assert backlog.dropped == 3


def test_of_the_offsets_the_last_are_told_once_and_again_after_a_failure():
    backlog = Backlog()
    a, b, c = (Partition("t", number) for number in range(3))
    backlog.move("w", 1, "m1", {a: 1, b: 1})
    backlog.move("w", 2, "m2", {b: 2, c: 2})
    told = [
        OffsetsMoved("w", 1, "m1", [("t", 0, 1)]),
        OffsetsMoved("w", 2, "m2", [("t", 1, 2), ("t", 2, 2)]),
    ]
    assert backlog.take_offsets() == told
    assert backlog.has_offsets
    backlog.move("w", 3, "m3", {a: 3})
    assert backlog.take_offsets() == [
        OffsetsMoved("w", 3, "m3", [("t", 0, 3)]),
        OffsetsMoved("w", 2, "m2", [("t", 1, 2), ("t", 2, 2)]),
    ]
    backlog.offsets_told()
    assert not backlog.has_offsets
    assert backlog.take_offsets() == []
