"""The failure matrix of two-phase commit: every point of an epoch, every point of its recovery.

A worker with two sinks runs one epoch and dies, or is stopped while others take over, before each
of its steps in turn; who recovers dies before each of *its* steps in turn. PREPAREs that were on
their way arrive at once, or when all is over; so does an EndTxn. Each call to each sink is a step,
so that "before" and "after it is durable" are two neighbours. ``MATRIX=all`` plays all double
failures, otherwise every seventh.
"""

from __future__ import annotations

import os
from enum import StrEnum
from itertools import count, product

import pytest

from harness.epoch_worker import PARTITIONS, Fault
from harness.sink_world import SinkWorker, SinkWorld
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.epoch_states import EpochState

EVERY = 1 if os.environ.get("MATRIX") == "all" else 7
STEPS_MAX = 200


class Failure(StrEnum):
    CRASH = "crash"
    CRASH_END_SENT = "crash, EndTxn on its way"
    STOPPED = "stopped while others take over"
    UNKNOWN = "answer lost, then crash"


class Arrival(StrEnum):
    AT_ONCE = "at once"
    LAST = "last"


def working(world: SinkWorld) -> SinkWorker:
    """A worker in the middle of an epoch with a row for each sink, about to commit it."""
    world.start(0)
    world.assign(0, frozenset(PARTITIONS))
    worker = world.workers[0]
    assert isinstance(worker, SinkWorker)
    while worker.step_takeover() or worker.step_job():
        world.check()
    for partition in PARTITIONS:
        worker.begin_record(partition)
    while worker.finish_record(0):
        world.check()
    worker.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    return worker


def step(worker: SinkWorker) -> bool:
    """One step of an epoch or a recovery; records that come after it are not begun."""
    return worker.step_job() or worker.step_takeover() or worker.step_branch()


def run_until(world: SinkWorld, slot: int, steps: int) -> bool:
    """Let a worker make so many steps; returns whether it would make another one."""
    worker = world.workers[slot]
    assert isinstance(worker, SinkWorker)
    for _ in range(steps):
        if not step(worker):
            return False
        world.check()
    return worker.job is not None or worker.takeover_job is not None or bool(worker.branch_job)


def fail(world: SinkWorld, slot: int, failure: Failure) -> None:
    worker = world.workers[slot]
    assert isinstance(worker, SinkWorker)
    if failure is Failure.STOPPED:
        # What it had sent stays sent; it goes on when it is told, long after others took over.
        world.lose(slot)
        return
    if failure is Failure.UNKNOWN and worker.job is not None:
        faults = worker.faults.get(worker.job[0], ())
        worker.step_job(Fault.ANSWER_LOST if Fault.ANSWER_LOST in faults else Fault.NONE)
    if world.workers[slot] is worker:
        world.crash(slot, end_on_its_way=failure is Failure.CRASH_END_SENT)


def arrive(world: SinkWorld) -> None:
    for sink in world.sinks.values():
        while sink.arrive(0):
            world.check()
    while world.arrive(0):
        world.check()


def recover(world: SinkWorld, second: int | None) -> bool:
    """Another worker takes over, and dies before its step ``second``; False if it has fewer."""
    world.start(1)
    world.assign(1, frozenset(PARTITIONS))
    goes_on = run_until(world, 1, STEPS_MAX if second is None else second)
    if second is not None:
        world.crash(1)
    return goes_on


def life(failure: Failure, arrival: Arrival, first: int, second: int | None) -> tuple[bool, bool]:
    """Returns whether the epoch has a step ``first``, and its recovery a step ``second``."""
    world = SinkWorld(SinkWorker, 2)
    working(world)
    has_first = run_until(world, 0, first)
    fail(world, 0, failure)
    if arrival is Arrival.AT_ONCE:
        arrive(world)
    has_second = recover(world, second)
    world.check()
    world.settle()
    assert not any(sink.prepared for sink in world.sinks.values())
    return has_first, has_second


@pytest.mark.parametrize(("failure", "arrival"), list(product(Failure, Arrival)))
def test_a_single_failure_at_any_step_is_recovered_from(failure, arrival):
    for first in count():
        has_first, _ = life(failure, arrival, first, None)
        if not has_first:
            break
    assert first > 8


@pytest.mark.parametrize(("failure", "arrival"), list(product(Failure, Arrival)))
def test_a_second_failure_at_any_step_of_the_recovery_is_recovered_from(failure, arrival):
    lives = 0
    for first in count():
        has_first, has_second = True, True
        for second in range(first % EVERY, STEPS_MAX, EVERY):
            has_first, has_second = life(failure, arrival, first, second)
            lives += 1
            if not has_second:
                break
        if not has_first:
            break
    assert lives > 10


def test_an_epoch_of_the_matrix_passes_all_states_of_two_phase_commit():
    world, seen = SinkWorld(SinkWorker, 2), set()
    worker = working(world)
    while step(worker):
        seen.add(worker.machine.state)
    assert {EpochState.PREPARING, EpochState.DECIDING, EpochState.APPLYING} <= seen
    assert all(sink.rows for sink in world.sinks.values())
