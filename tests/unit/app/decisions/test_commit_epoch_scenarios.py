"""Stories of single epochs, told as events and the effects they must have."""

from __future__ import annotations

import pytest

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_positions import (
    Claimed,
    EpochKind,
    PendingTransaction,
    Proof,
    Verdict,
    drained_positions,
    judge,
    release,
    to_send,
)
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.epoch_wishes import Goodbye, Wishes
from onceflow.decisions.marker import CommittedOffset, Handover, Marker, parse
from onceflow.errors import InvariantViolation
from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition, Stamp
from onceflow.limits import REFUSED_BACKOFF_S

P = Partition("in", 0)
Q = Partition("in", 1)
OWN = Incarnation("own")
E = CommitEpoch


def opened(*partitions: Partition, offset: int = 3) -> CommitEpochs:
    """A machine whose first claim of these partitions is committed."""
    machine = CommitEpochs(OWN)
    (begin,) = machine.handle(ev.Assigned(frozenset(partitions), 1))
    starts = {partition: ev.Start(Offset(offset)) for partition in partitions}
    machine.handle(ev.TakenOver(begin.assignment, starts))
    machine.handle(ev.TransactionEnded(E(1), ev.Outcome.COMMITTED))
    assert machine.state is EpochState.OPEN
    return machine


def deciding(machine: CommitEpochs, **offsets: int) -> list:
    """Drain and seal; returns the effects of the seal."""
    names = {"p": P, "q": Q}
    drained = {names[name]: Offset(offset) for name, offset in offsets.items()}
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    machine.handle(ev.Drained(machine.commit_epoch, drained, has_effects=False))
    return machine.handle(ev.Sealed(machine.commit_epoch))


def sent(effects: list) -> dict[Partition, tuple[int, Marker | None]]:
    (offsets,) = [effect for effect in effects if isinstance(effect, fx.SendOffsets)]
    return {partition: (at.offset, parse(at.metadata)) for partition, at in offsets.offsets.items()}


def kinds(effects: list) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def marker(number: int, owner: Incarnation = OWN, **fields) -> Marker:
    return Marker(owner, E(number), **fields)


def test_an_epoch_commits_every_claimed_partition_with_its_marker():
    machine = opened(P, Q)
    effects = deciding(machine, p=5, q=3)
    assert kinds(effects) == ["SendOffsets", "Flush", "CommitTransaction"]
    assert sent(effects) == {P: (5, marker(2)), Q: (3, marker(2))}
    assert machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED)) == [
        fx.Apply(E(2), frozenset([P, Q]))
    ]
    assert kinds(machine.handle(ev.Applied(E(2)))) == ["BeginTransaction", "OpenGate"]
    assert machine.committed_offsets == {P: 5, Q: 3}


def test_an_epoch_in_which_nothing_happened_uses_its_transaction_on():
    machine = opened(P)
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    effects = machine.handle(ev.Drained(E(2), {P: Offset(3)}, has_effects=False))
    assert effects == [fx.OpenGate(machine.stamp)]
    assert machine.commit_epoch == 2


def test_sends_without_a_record_are_committed_with_unmoved_offsets():
    machine = opened(P)
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    machine.handle(ev.Drained(E(2), {P: Offset(3)}, has_effects=True))
    assert sent(machine.handle(ev.Sealed(E(2)))) == {P: (3, marker(2))}


def test_an_offset_that_goes_back_breaks_inv_epoch_2():
    machine = opened(P)
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    with pytest.raises(InvariantViolation, match="INV-EPOCH-2"):
        machine.handle(ev.Drained(E(2), {P: Offset(2)}, has_effects=False))


def test_a_missing_partition_breaks_inv_epoch_5():
    machine = opened(P, Q)
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    with pytest.raises(InvariantViolation, match="INV-EPOCH-5"):
        machine.handle(ev.Drained(E(2), {P: Offset(4)}, has_effects=False))


def test_an_empty_or_negative_list_of_offsets_breaks_inv_epoch_5():
    for positions in ({}, {P: Claimed(Offset(-1))}):
        with pytest.raises(InvariantViolation, match="INV-EPOCH-5"):
            to_send(PendingTransaction(EpochKind.RECORDS, E(2), positions), OWN)


def test_a_revoke_drains_releases_and_gives_back_only_what_was_asked():
    machine = opened(P, Q)
    assert machine.handle(ev.RevokeRequested(frozenset([P]))) == [fx.CloseGate()]
    machine.handle(ev.Drained(E(2), {P: Offset(5), Q: Offset(4)}, has_effects=False))
    effects = machine.handle(ev.Sealed(E(2)))
    assert sent(effects) == {
        P: (5, marker(2, released=Handover.RELEASED)),
        Q: (4, marker(2)),
    }
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    before = machine.stamp
    effects = machine.handle(ev.Applied(E(2)))
    assert kinds(effects) == [
        "ForgetPartitions", "FinishRevoke", "BeginTransaction", "OpenGate"
    ]  # fmt: skip
    assert machine.stamp.assignment > before.assignment
    assert machine.committed_offsets == {Q: 4}


def test_a_revoke_after_the_offsets_were_sent_gets_a_release_of_its_own():
    machine = opened(P)
    deciding(machine, p=5)
    assert machine.handle(ev.RevokeRequested(frozenset([P]))) == []
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    effects = machine.handle(ev.Applied(E(2)))
    assert sent(effects) == {P: (5, marker(3, released=Handover.RELEASED))}
    effects = machine.handle(ev.TransactionEnded(E(3), ev.Outcome.COMMITTED))
    assert kinds(effects) == ["ForgetPartitions", "FinishRevoke"]
    assert machine.state is EpochState.UNASSIGNED


def test_a_drain_longer_than_the_revoke_bound_is_aborted_and_handed_over_unreleased():
    machine = opened(P)
    machine.handle(ev.RevokeRequested(frozenset([P])))
    effects = machine.handle(ev.RevokeTimedOut())
    assert kinds(effects) == ["DropAttempt", "AbortTransaction"]
    effects = machine.handle(ev.Aborted(E(2)))
    assert kinds(effects) == ["ForgetPartitions", "FinishRevoke"]


def test_a_commit_on_its_way_is_not_waited_for_beyond_the_bound_and_not_applied():
    machine = opened(P, Q)
    deciding(machine, p=5, q=5)
    machine.handle(ev.RevokeRequested(frozenset([P])))
    assert machine.handle(ev.RevokeTimedOut()) == [fx.FinishRevoke()]
    assert machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED)) == [
        fx.Apply(E(2), frozenset([Q]))
    ]
    assert kinds(machine.handle(ev.Applied(E(2))))[0] == "ForgetPartitions"


def test_lost_partitions_are_aborted_and_never_committed():
    machine = opened(P, Q)
    effects = machine.handle(ev.Lost(frozenset([P])))
    assert kinds(effects) == ["CloseGate", "DropAttempt", "AbortTransaction"]
    effects = machine.handle(ev.Aborted(E(2)))
    assert kinds(effects) == ["ForgetPartitions", "Rewind", "BeginTransaction", "OpenGate"]
    assert effects[1] == fx.Rewind({Q: Offset(3)})


def test_an_assignment_ends_the_epoch_under_its_own_metadata_before_it_is_adopted():
    machine = opened(P)
    assert machine.handle(ev.Assigned(frozenset([Q]), 2)) == [fx.CloseGate()]
    machine.handle(ev.Drained(E(2), {P: Offset(5)}, has_effects=False))
    effects = machine.handle(ev.Sealed(E(2)))
    assert [each.membership for each in effects if isinstance(each, fx.SendOffsets)] == [1]
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    (begin,) = machine.handle(ev.Applied(E(2)))
    assert begin == fx.BeginTakeover(machine.stamp.assignment, frozenset([Q]))
    effects = machine.handle(ev.TakenOver(begin.assignment, {Q: ev.Start(Offset(0), 2)}))
    assert [each.membership for each in effects if isinstance(each, fx.SendOffsets)] == [2]
    assert sent(effects) == {P: (5, marker(3)), Q: (0, marker(3, attempts=2))}
    effects = machine.handle(ev.TransactionEnded(E(3), ev.Outcome.COMMITTED))
    assert effects[0] == fx.Rewind({Q: Offset(0)})


def test_a_rebalance_during_a_takeover_cancels_it_and_what_it_reports_late():
    machine = CommitEpochs(OWN)
    (first,) = machine.handle(ev.Assigned(frozenset([P]), 1))
    effects = machine.handle(ev.Assigned(frozenset([Q]), 2))
    assert kinds(effects) == ["CancelTakeover", "BeginTakeover"]
    assert machine.handle(ev.TakenOver(first.assignment, {P: ev.Start(Offset(0))})) == []
    assert machine.handle(ev.Lost(frozenset([P, Q]))) == [fx.CancelTakeover()]
    assert machine.state is EpochState.UNASSIGNED


def test_an_empty_assignment_adopts_its_metadata_without_a_takeover():
    machine = opened(P)
    machine.handle(ev.Assigned(frozenset(), 7))
    machine.handle(ev.Drained(E(2), {P: Offset(3)}, has_effects=False))
    effects = deciding(machine, p=4)
    assert [each.membership for each in effects if isinstance(each, fx.SendOffsets)] == [7]


def test_refused_offsets_are_aborted_and_wait_for_news_of_the_group():
    machine = opened(P)
    deciding(machine, p=5)
    effects = machine.handle(ev.OffsetsRefused(E(2)))
    assert kinds(effects) == ["DropAttempt", "AbortTransaction"]
    effects = machine.handle(ev.Aborted(E(2)))
    assert effects[0] == fx.Rewind({P: Offset(3)})
    assert effects[-1] == fx.OpenGate(machine.stamp, REFUSED_BACKOFF_S)


def test_a_refused_claim_takes_over_again_because_its_offsets_may_be_old():
    machine = CommitEpochs(OWN)
    (begin,) = machine.handle(ev.Assigned(frozenset([P]), 1))
    machine.handle(ev.TakenOver(begin.assignment, {P: ev.Start(Offset(3))}))
    machine.handle(ev.OffsetsRefused(E(1)))
    (again,) = machine.handle(ev.Aborted(E(1)))
    assert again == fx.BeginTakeover(machine.stamp.assignment, frozenset([P]), REFUSED_BACKOFF_S)
    assert machine.committed_offsets == {}


def unknown(machine: CommitEpochs) -> CommitEpochs:
    deciding(machine, p=5, q=3)
    effects = machine.handle(ev.TransactionEnded(E(2), ev.Outcome.UNKNOWN))
    assert effects == [fx.ReplaceProducer()]
    assert machine.handle(ev.ProducerReady()) == [fx.ReadMarkers(frozenset([P, Q]))]
    return machine


def read(p: CommittedOffset, q: CommittedOffset) -> ev.MarkersRead:
    return ev.MarkersRead({P: p, Q: q})


def found(offset: int, of: Marker | None) -> CommittedOffset:
    return CommittedOffset(Offset(offset), of)


def test_an_unknown_outcome_is_committed_if_the_markers_name_it():
    machine = unknown(opened(P, Q))
    effects = machine.handle(read(found(5, marker(2)), found(3, marker(2))))
    assert effects == [fx.Apply(E(2), frozenset([P, Q]))]


def test_an_unknown_outcome_is_dropped_if_the_markers_name_the_epoch_before():
    machine = unknown(opened(P, Q))
    effects = machine.handle(read(found(3, marker(1)), found(3, marker(1))))
    assert kinds(effects) == ["DropAttempt", "Rewind", "BeginTransaction", "OpenGate"]
    assert machine.commit_epoch == 3


def test_another_incarnation_on_our_partition_is_the_proof_that_ends_the_process():
    machine = unknown(opened(P, Q))
    other = marker(9, Incarnation("other"))
    (fail,) = machine.handle(read(found(3, marker(1)), found(3, other)))
    assert isinstance(fail, fx.Fail)
    assert fail.exit_code == 4
    assert "another worker" in fail.message


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (found(5, marker(2)), found(3, marker(1))),
        (found(3, marker(1)), found(0, None)),
        (found(4, marker(1)), found(3, marker(1))),
        (CommittedOffset(None, None), CommittedOffset(None, None)),
    ],
    ids=["half", "reset", "moved", "deleted"],
)
def test_offsets_that_nobody_of_us_committed_end_the_process(p, q):
    (fail,) = unknown(opened(P, Q)).handle(read(p, q))
    assert isinstance(fail, fx.Fail)
    assert fail.exit_code == 4
    assert "Somebody changed the group's offsets" in fail.message


def test_a_spent_producer_is_replaced_and_the_marker_read_before_the_next_begin():
    machine = opened(P)
    deciding(machine, p=5)
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED, spent=True))
    assert machine.handle(ev.Applied(E(2))) == [fx.ReplaceProducer()]
    machine.handle(ev.ProducerReady())
    effects = machine.handle(ev.MarkersRead({P: found(5, marker(2))}))
    assert kinds(effects) == ["BeginTransaction", "OpenGate"]


def test_a_commit_that_kafka_lost_again_is_noticed_at_the_next_reading():
    machine = opened(P)
    deciding(machine, p=5)
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED, spent=True))
    machine.handle(ev.Applied(E(2)))
    machine.handle(ev.ProducerReady())
    (fail,) = machine.handle(ev.MarkersRead({P: found(3, marker(1))}))
    assert isinstance(fail, fx.Fail)
    assert fail.exit_code == 4


def test_an_abort_of_unknown_outcome_spends_the_producer():
    machine = opened(P)
    machine.handle(ev.RecordFailed(machine.stamp, reopen_after_s=0.5))
    assert machine.handle(ev.Aborted(E(2), spent=True)) == [fx.ReplaceProducer()]
    machine.handle(ev.ProducerReady())
    effects = machine.handle(ev.MarkersRead({P: found(3, marker(1))}))
    assert kinds(effects) == ["Rewind", "BeginTransaction", "OpenGate"]
    assert effects[-1] == fx.OpenGate(machine.stamp, 0.5)


def test_markers_read_without_a_fence_break_inv_epoch_7():
    machine = opened(P)
    deciding(machine, p=5)
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.UNKNOWN))
    with pytest.raises(InvariantViolation, match="INV-EPOCH-7"):
        machine.handle(ev.MarkersRead({P: found(5, marker(2))}))


def test_sends_whose_fate_nobody_can_tell_are_not_repeated():
    machine = opened(P)
    deciding(machine, p=5)
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.UNKNOWN))
    machine.handle(ev.Lost(frozenset([P])))
    effects = machine.handle(ev.ProducerReady())
    assert kinds(effects) == ["DropAttempt", "ForgetPartitions"]
    assert effects[0].sends is fx.SendsFate.UNKNOWN


def test_a_fatal_producer_is_replaced_without_an_abort():
    machine = opened(P)
    effects = machine.handle(ev.SendFailed(E(2), ev.SendFailure.FATAL))
    assert kinds(effects) == ["CloseGate", "DropAttempt", "ReplaceProducer"]


def test_a_second_abort_in_a_row_waits_before_the_replay():
    machine = opened(P)
    waits = []
    for number in (2, 3):
        machine.handle(ev.SendFailed(E(number), ev.SendFailure.ABORTABLE))
        waits.append(machine.handle(ev.Aborted(E(number)))[-1].after_s)
    assert waits == [0.0, REFUSED_BACKOFF_S]


def test_a_failed_record_is_replayed_under_another_stamp():
    machine = opened(P)
    stamp = machine.stamp
    effects = machine.handle(ev.RecordFailed(stamp))
    assert effects[1] == fx.DropAttempt(Stamp(stamp.assignment, stamp.attempt + 1))
    assert machine.handle(ev.RecordFailed(stamp)) == []


def test_on_error_stop_leaves_after_the_abort():
    machine = opened(P)
    machine.handle(ev.RecordFailed(machine.stamp, stop_message="record 3 cannot be processed"))
    assert machine.handle(ev.Aborted(E(2))) == [fx.Fail("record 3 cannot be processed", 1)]


def test_a_noted_attempt_is_committed_before_its_record_and_cleared_by_progress():
    machine = opened(P, Q)
    machine.handle(ev.NoteAttempt(P))
    machine.handle(ev.Drained(E(2), {P: Offset(3), Q: Offset(3)}, has_effects=False))
    assert sent(machine.handle(ev.Sealed(E(2)))) == {
        P: (3, marker(2, attempts=3)), Q: (3, marker(2))
    }  # fmt: skip
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    machine.handle(ev.Applied(E(2)))
    assert machine.committed_attempts == {P: 3, Q: 0}
    assert sent(deciding(machine, p=4, q=3))[P] == (4, marker(3))


def test_a_stop_releases_everything_and_then_stops():
    machine = opened(P, Q)
    assert machine.handle(ev.StopRequested()) == [fx.CloseGate()]
    effects = machine.handle(ev.Drained(E(2), {P: Offset(3), Q: Offset(3)}, has_effects=False))
    released = {"released": Handover.RELEASED}
    assert sent(effects) == {P: (3, marker(2, **released)), Q: (3, marker(2, **released))}
    effects = machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    assert kinds(effects) == ["ForgetPartitions", "Stop"]
    assert machine.handle(ev.RevokeRequested(frozenset([P]))) == [fx.FinishRevoke()]


def test_a_stop_during_a_revoke_finishes_both():
    machine = opened(P, Q)
    machine.handle(ev.RevokeRequested(frozenset([P])))
    machine.handle(ev.StopRequested())
    machine.handle(ev.Drained(E(2), {P: Offset(3), Q: Offset(3)}, has_effects=False))
    effects = machine.handle(ev.TransactionEnded(E(2), ev.Outcome.COMMITTED))
    assert kinds(effects) == ["ForgetPartitions", "FinishRevoke", "ForgetPartitions", "Stop"]


def test_a_partition_that_is_ours_cannot_be_assigned_again():
    machine = opened(P)
    with pytest.raises(InvariantViolation, match="INV-EPOCH-4"):
        machine.handle(ev.Assigned(frozenset([P]), 2))


def test_a_partition_lost_and_given_back_is_taken_over_again():
    machine = opened(P)
    machine.handle(ev.Lost(frozenset([P])))
    machine.handle(ev.Assigned(frozenset([P]), 2))
    effects = machine.handle(ev.Aborted(E(2)))
    assert kinds(effects) == ["ForgetPartitions", "BeginTakeover"]


def test_only_a_pending_transaction_is_sealed_so_inv_epoch_1_holds():
    machine = opened(P)
    with pytest.raises(InvariantViolation, match="INV-EPOCH-1"):
        machine._committed()


def test_positions_and_wishes_are_pure_values():
    committed = {P: Claimed(Offset(3)), Q: Claimed(Offset(4), 1)}
    after = drained_positions(committed, {P: Offset(3), Q: Offset(9)}, set())
    assert release(after, {P}) == {
        P: Claimed(Offset(3), released=Handover.RELEASED), Q: Claimed(Offset(9))
    }  # fmt: skip
    proof = judge({P: found(3, marker(1))}, None, {P: committed[P]}, (OWN, E(1)))
    assert proof == Proof(Verdict.NOT_COMMITTED)
    wishes = Wishes()
    wishes.assigned(frozenset([P]), 1, set())
    wishes.revoked(frozenset([P]), set())
    assert (wishes.joining, wishes.leaving) == (set(), frozenset([P]))
    wishes.goodbye = Goodbye.GIVEN_UP
    assert wishes.unreleased({P: Claimed(Offset(3))}) == set()
