"""Random lives of workers on a model broker: nothing is lost, doubled or stuck.

Broken variants of the protocol must each be caught by the same checks, else these mean nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from harness.epoch_worker import PARTITIONS, Begun, Fault, ViolationError, Worker
from harness.epoch_world import World, run
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions import takeover as td
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_states import EpochState
from onceflow.errors import InvariantViolation, TransactionAborted

SLOTS = st.sampled_from([0, 1])
SOME = st.sampled_from(
    [frozenset(PARTITIONS), frozenset(PARTITIONS[:1]), frozenset(PARTITIONS[1:])]
)


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("block", range(4))
def test_random_lives_keep_every_promise_and_can_always_finish(slots: int, block: int):
    for seed in range(block * 60, block * 60 + 60):
        run(seed, steps=150, slots=slots)


class Lives(RuleBasedStateMachine):
    """The same world, steered by hypothesis, which shrinks what it finds."""

    def __init__(self):
        super().__init__()
        self.world = World()

    def worker(self, slot: int) -> Worker | None:
        if self.world.workers[slot] is None:
            self.world.start(slot)
        return self.world.workers[slot]

    @rule(slot=SLOTS, partitions=SOME)
    def assign(self, slot, partitions):
        self.worker(slot)
        self.world.assign(slot, partitions)

    @rule(slot=SLOTS, fault=st.sampled_from(Fault))
    def step_job(self, slot, fault):
        if (worker := self.worker(slot)) is not None:
            worker.step_job(fault)

    @rule(slot=SLOTS, steps=st.integers(1, 6))
    def step_takeover(self, slot, steps):
        for _ in range(steps):
            if (worker := self.world.workers[slot]) is not None:
                worker.step_takeover()

    @rule(slot=SLOTS, partition=st.sampled_from(PARTITIONS))
    def begin_record(self, slot, partition):
        if (worker := self.worker(slot)) is not None:
            worker.begin_record(partition)

    @rule(slot=SLOTS, index=st.integers(0, 3))
    def finish_record(self, slot, index):
        if (worker := self.worker(slot)) is not None:
            worker.finish_record(index)

    @rule(slot=SLOTS, index=st.integers(0, 3))
    def fail_record(self, slot, index):
        if (worker := self.worker(slot)) is not None:
            worker.fail_record(index)

    @rule(slot=SLOTS)
    def commit_due(self, slot):
        if (worker := self.worker(slot)) is not None:
            worker.handle(ev.CommitDue(ev.CommitReason.INTERVAL))

    @rule(slot=SLOTS)
    def timer_send(self, slot):
        if (worker := self.worker(slot)) is not None:
            worker.timer_send()

    @rule(slot=SLOTS, partitions=SOME)
    def revoke(self, slot, partitions):
        self.world.revoke(slot, partitions)

    @rule(slot=SLOTS)
    def revoke_times_out(self, slot):
        if (worker := self.worker(slot)) is not None:
            worker.handle(ev.RevokeTimedOut())

    @rule(slot=SLOTS)
    def stop(self, slot):
        if (worker := self.worker(slot)) is not None:
            worker.handle(ev.StopRequested())

    @rule(slot=SLOTS)
    def lose(self, slot):
        self.world.lose(slot)

    @rule(slot=SLOTS)
    def tell_lost(self, slot):
        self.world.tell_lost(slot)

    @rule(slot=SLOTS, end_on_its_way=st.booleans())
    def crash(self, slot, end_on_its_way):
        self.world.crash(slot, end_on_its_way=end_on_its_way)

    @rule(index=st.integers(0, 3))
    def late_end_arrives(self, index):
        self.world.arrive(index)

    @rule(index=st.integers(0, 3))
    def transaction_expires(self, index):
        self.world.expire(index)

    @invariant()
    def promises_hold(self):
        self.world.check()

    def teardown(self):
        self.world.settle()


def test_lives_steered_by_hypothesis_keep_every_promise():
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=60,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Broken variants of the protocol.


class FreshMetadata(Worker):
    """Takes the group metadata when it commits, not when it is assigned."""

    def membership(self, number: int):
        return self.broker.membership(self.own)


class ClaimsBeforeFence(Worker):
    """Fences nobody when it takes over."""

    def take_FenceIncarnations(self, effect: td.FenceIncarnations) -> None:
        self.advance_takeover(td.IncarnationsFenced())


class ReadsUnstable(Worker):
    """Starts at offsets that an open transaction of somebody unnamed is about to replace."""

    def take_ReadStableMarkers(self, effect: td.ReadStableMarkers) -> None:
        self.advance_takeover(td.StableMarkersRead(self.markers(effect.partitions)))


def variant_machine(
    name: str, states: tuple[EpochState, ...], event: type, handler: Any
) -> type[CommitEpochs]:
    table = {**CommitEpochs.TRANSITIONS, **{(state, event): handler for state in states}}
    return type(name, (CommitEpochs,), {"TRANSITIONS": table})


ENDING = (EpochState.CLAIMING, EpochState.DECIDING)


def _as(outcome: ev.Outcome):
    def ended(self: CommitEpochs, event: ev.TransactionEnded):
        guess = replace(event, outcome=outcome) if event.outcome is ev.Outcome.UNKNOWN else event
        return self._transaction_ended(guess)

    return ended


class UnknownIsAborted(Worker):
    """Begins the next transaction after an unknown outcome without reading the marker."""

    machine_class = variant_machine(
        "UnknownIsAborted", ENDING, ev.TransactionEnded, _as(ev.Outcome.NOT_COMMITTED)
    )


class UnknownIsCommitted(Worker):
    """Takes an unknown outcome for a commit."""

    machine_class = variant_machine(
        "UnknownIsCommitted", ENDING, ev.TransactionEnded, _as(ev.Outcome.COMMITTED)
    )


def _never_spent(self: CommitEpochs, event: ev.TransactionEnded):
    return self._transaction_ended(replace(event, spent=False))


class SpentIsReused(Worker):
    """Goes on with a producer whose duplicate EndTxn may still be on its way."""

    machine_class = variant_machine("SpentIsReused", ENDING, ev.TransactionEnded, _never_spent)

    def do_BeginTransaction(self, effect: fx.BeginTransaction) -> None:
        """With one producer: with two in turn the duplicate has an epoch longer to arrive late."""
        self.turn = 1
        super().do_BeginTransaction(effect)


class ReadsBeforeFence(Worker):
    """Reads the markers before it fences itself: a late EndTxn still changes them."""

    def do_ReplaceProducer(self, effect: fx.ReplaceProducer) -> None:
        self.early = self.markers(frozenset(PARTITIONS))
        super().do_ReplaceProducer(effect)

    def job_read(self, partitions: Any, fault: Fault) -> None:
        self.handle(ev.MarkersRead({each: self.early[each] for each in partitions}))


class CommitsBelowAGap(Worker):
    """Commits while records that it yielded are unfinished."""

    def is_drained(self) -> bool:
        return True

    def job_drain(self, argument: None, fault: Fault) -> None:
        self.unfinished.clear()
        super().job_drain(argument, fault)


class EmptyOffsets(Worker):
    """Sends an empty list of offsets."""

    def do_SendOffsets(self, effect: fx.SendOffsets) -> None:
        super().do_SendOffsets(replace(effect, offsets={}))


class OnlyMovedOffsets(Worker):
    """Leaves out partitions whose offset did not move."""

    def do_SendOffsets(self, effect: fx.SendOffsets) -> None:
        committed = self.machine.committed_offsets
        moved = {
            partition: position
            for partition, position in effect.offsets.items()
            if committed.get(partition) != position.offset
        }
        super().do_SendOffsets(replace(effect, offsets=moved))


class NoRewind(Worker):
    """Does not go back after an abort."""

    def do_Rewind(self, effect: fx.Rewind) -> None:
        for partition, offset in effect.offsets.items():
            self.positions.setdefault(partition, offset)


class GhostsWrite(Worker):
    """Lets actors of a dropped attempt write into the next one."""

    ghosts: tuple[Begun, ...] = ()

    def do_DropAttempt(self, effect: fx.DropAttempt) -> None:
        self.ghosts = (*self.ghosts, *self.unfinished)
        super().do_DropAttempt(effect)

    def finish_record(self, index: int) -> bool:
        if self.ghosts and self.in_transaction and self.gate_open:
            ghost, *rest = self.ghosts
            self.ghosts = tuple(rest)
            self.produce(("out", ghost.partition, ghost.offset))
        return super().finish_record(index)


class AppliesBeforeCommit(Worker):
    """Writes the store at the seal."""

    def job_seal(self, commit_epoch: Any, fault: Fault) -> None:
        for partition, offsets in self.overlay.items():
            self.disk.setdefault(partition, set()).update(offsets)
        super().job_seal(commit_epoch, fault)


class CommitsRefused(Worker):
    """Commits although the group refused its offsets."""

    def job_offsets(self, commit_epoch: Any, fault: Fault) -> None:
        assert self.to_send is not None
        membership = self.membership(self.to_send.membership)
        try:
            self.broker.send_offsets(self.producer, membership, self.to_send.offsets)
        except TransactionAborted:
            self.start_job("end", commit_epoch)
        else:
            super().job_offsets(commit_epoch, fault)


BROKEN = [
    FreshMetadata,
    ClaimsBeforeFence,
    ReadsUnstable,
    UnknownIsAborted,
    UnknownIsCommitted,
    SpentIsReused,
    ReadsBeforeFence,
    CommitsBelowAGap,
    EmptyOffsets,
    OnlyMovedOffsets,
    NoRewind,
    GhostsWrite,
    AppliesBeforeCommit,
    CommitsRefused,
]
SEEDS_MAX = 1_500


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_variant_is_caught(broken: type[Worker]):
    for seed in range(SEEDS_MAX):
        try:
            run(seed, steps=150, worker_class=broken, slots=2 + seed % 2)
        except (ViolationError, InvariantViolation):
            return
    pytest.fail(f"{broken.__name__} went unnoticed through {SEEDS_MAX} lives")
