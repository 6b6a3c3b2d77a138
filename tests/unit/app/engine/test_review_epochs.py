"""Ends of epochs in unlucky moments: sends between two, refused claims, full queues."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace

import pytest

from harness.table_driver import TableDriver, make_app
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs, EpochState
from onceflow.decisions.failures import FailureOptions, FailurePolicy
from onceflow.engine.epochs import Epochs
from onceflow.engine.runtime import runtime_of
from onceflow.engine.sealing import seal
from onceflow.engine.table_partition import SealedRows
from onceflow.errors import OutsideRecord, TransactionAborted
from onceflow.ids import Incarnation, Offset, Partition
from onceflow.kafka.errors import ProducerFull

P0, P1 = Partition("in", 0), Partition("in", 1)


class Transaction:
    """A transactional producer that notes, or refuses with an error for some calls."""

    def __init__(self, *refusals):
        self.produced = []
        self.refusals = list(refusals)

    def produce(self, topic, value, *_args, on_delivery=None, **_options):
        error = self.refusals.pop(0) if self.refusals else None
        if error is not None:
            raise error
        self.produced.append((topic, value))
        if on_delivery is not None:
            on_delivery(None, SimpleNamespace(offset=lambda: 41))

    def produce_many(self, topic, _number, _keys, values):
        self.produced += [(topic, value) for value in values]
        return len(values)

    def poll(self):
        return 0


def worker():
    runtime = runtime_of(make_app())
    runtime._epochs = Epochs(runtime, Incarnation("own"))
    runtime.sender.in_worker = True
    runtime.sender.existing.add("out")
    return runtime


async def test_a_send_from_outside_does_not_join_a_transaction_that_may_become_a_claim():
    """An epoch without effects hands its transaction on; the claim resolves and repeats nothing."""
    runtime = worker()
    transaction = Transaction()
    runtime.sender.begin(transaction)
    runtime.epochs._report_drained()
    sent = runtime.sender.send("out", None, b"tick")
    assert transaction.produced == []
    runtime.sender.begin(transaction)
    assert transaction.produced == [("out", b"tick")]
    runtime.sender.committed()
    await sent


async def test_a_transaction_that_takes_no_more_ends_and_the_send_is_repeated_in_the_next():
    runtime = worker()
    broken = Transaction(TransactionAborted("it must be aborted"))
    runtime.sender.begin(broken)
    sent = runtime.sender.send("out", None, b"tick")
    assert runtime.sender.has_effects(), "the epoch has to end, although nothing is in it"
    runtime.sender.aborted()
    transaction = Transaction()
    runtime.sender.begin(transaction)
    runtime.sender.committed()
    await sent
    assert transaction.produced == [("out", b"tick")]


async def test_a_queue_that_is_full_at_the_last_changelog_record_is_waited_for():
    rows = SealedRows()
    rows.store_keys = rows.changelog_keys = [b"a", b"b"]
    rows.values = [b"1", b"2"]
    source = SimpleNamespace(name="t", changelog_topic_name="log", seal=lambda: {0: rows})
    transaction = Transaction(ProducerFull("full"), ProducerFull("full"))
    sealed = await seal([source], transaction)
    assert transaction.produced == [("log", b"1"), ("log", b"2")]
    assert sealed.positions == {("t", 0): 42}


async def test_group_metadata_lives_as_long_as_a_transaction_may_carry_it():
    """With KIP-848 several assignments may come while one epoch drains."""
    epochs = worker().epochs
    epochs.machine._membership = 1
    for number in (1, 2, 3, 4):
        assignment = SimpleNamespace(number=number, group_metadata=f"metadata {number}")
        epochs.assigned(assignment, frozenset())
    assert epochs.transactions.memberships[epochs.machine.membership] == "metadata 1"
    epochs.machine._membership = 4
    epochs.assigned(SimpleNamespace(number=5, group_metadata="metadata 5"), frozenset())
    assert sorted(epochs.transactions.memberships) == [4, 5]


def opened(machine):
    """Claim a partition and open the gate."""
    machine.handle(ev.Assigned(frozenset({P0}), 1))
    machine.handle(ev.TakenOver(machine.stamp.assignment, {P0: ev.Start(Offset(0))}))
    machine.handle(ev.TransactionEnded(machine.commit_epoch, ev.Outcome.COMMITTED, spent=False))
    assert machine.state is EpochState.OPEN


def test_a_begun_transaction_ends_when_all_partitions_are_lost_during_a_takeover():
    """Sends without a record begin one of their own while no partition is here."""
    machine = CommitEpochs(Incarnation("own"))
    opened(machine)
    machine.handle(ev.Assigned(frozenset({P1}), 2))
    machine.handle(ev.Drained(machine.commit_epoch, {P0: Offset(0)}, has_effects=False))
    assert machine.state is EpochState.TAKING_OVER
    effects = machine.handle(ev.Lost(frozenset({P0, P1})))
    assert fx.AbortTransaction(machine.commit_epoch) in effects
    effects = machine.handle(ev.Aborted(machine.commit_epoch, spent=False))
    assert machine.state is EpochState.UNASSIGNED
    assert any(isinstance(effect, fx.ForgetPartitions) for effect in effects)


def test_partitions_whose_claim_came_to_nothing_hold_up_no_commit_of_others():
    policy = FailurePolicy({}, FailureOptions())
    start = ev.Start(Offset(5), attempts=3)
    policy.claimed({P0: start, P1: start})
    policy.committed({P0: Offset(9)}, {P0: 0})
    policy.claimed({P1: start})
    policy.plan({P0: Offset(9)}, {P0: Offset(9)})
    policy.committed({P0: Offset(4_000)}, {P0: 0})


def test_partitions_given_up_before_their_revoke_was_obeyed_may_join_again():
    """The poll thread does not wait for ever for a busy loop; the group then gives them anew."""
    machine = CommitEpochs(Incarnation("own"))
    opened(machine)
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    machine.handle(ev.Drained(machine.commit_epoch, {P0: Offset(3)}, has_effects=True))
    machine.handle(ev.Sealed(machine.commit_epoch))
    machine.handle(ev.RevokeRequested(frozenset({P0})))
    machine.handle(ev.Lost(frozenset({P0})))
    machine.handle(ev.Assigned(frozenset({P0}), 2))
    machine.handle(ev.RevokeRequested(frozenset()))
    machine.handle(ev.TransactionEnded(machine.commit_epoch, ev.Outcome.COMMITTED, spent=False))
    effects = machine.handle(ev.Applied(machine.commit_epoch))
    begun = [effect for effect in effects if isinstance(effect, fx.BeginTakeover)]
    assert [effect.partitions for effect in begun] == [frozenset({P0})]


async def test_a_rewind_does_not_wait_for_a_poll_thread_that_waits_for_a_revoke():
    runtime = worker()
    answer = asyncio.get_running_loop().create_future()
    asked = []

    async def answered():
        return await answer

    def start_at(offsets):
        asked.append(offsets)
        return answered()

    runtime.inflow.poll = SimpleNamespace(start_at=start_at)
    machine = runtime.epochs.machine
    machine.handle = lambda _event: [fx.Rewind({P0: Offset(7)})]
    await asyncio.wait_for(runtime.epochs._take(ev.StopRequested()), 1)
    assert asked == [{P0: Offset(7)}]
    answer.set_result(1)
    await asyncio.sleep(0)


async def test_a_task_that_outlives_its_record_sends_nothing():
    """Whether the record's object is still in memory must not decide what becomes of the send."""
    runtime = worker()
    runtime.sender.begin(Transaction())
    finished = asyncio.Event()

    async def late():
        await finished.wait()
        return runtime.sender.send("out", None, b"late")

    with TableDriver(runtime.app, None).record():
        task = asyncio.ensure_future(late())
        await asyncio.sleep(0)
    gc.collect()
    finished.set()
    with pytest.raises(OutsideRecord, match="finished already"):
        await task
    assert not runtime.sender.has_effects()
