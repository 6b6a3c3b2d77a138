"""Stories of epochs with rows for two-phase participants."""

from __future__ import annotations

import pytest

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_branches import BranchPhase, OwnBranch
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.epoch_waits import Waits
from onceflow.decisions.marker import CommittedOffset, Handover, Marker, parse
from onceflow.errors import InvariantViolation
from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition
from onceflow.limits import PARTICIPANT_RETRY_S, PARTICIPANT_RETRY_S_MAX

P = Partition("in", 0)
Q = Partition("in", 1)
OWN = Incarnation("own")
E = CommitEpoch
COMMITTED = ev.Outcome.COMMITTED


def opened(*partitions: Partition) -> CommitEpochs:
    """A machine whose first claim of these partitions, at offset 3, is committed."""
    machine = CommitEpochs(OWN, ("db", "files"))
    (begin,) = machine.handle(ev.Assigned(frozenset(partitions), 1))
    starts = {partition: ev.Start(Offset(3)) for partition in partitions}
    machine.handle(ev.TakenOver(begin.assignment, starts))
    machine.handle(ev.TransactionEnded(E(1), COMMITTED))
    return machine


def seal(machine: CommitEpochs, rows: ev.SinkRows = ev.SinkRows.SOME, step: int = 1) -> list:
    """Process `step` records of each partition and seal; returns the effects of the seal."""
    offsets = {each: Offset(at + step) for each, at in machine.committed_offsets.items()}
    machine.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    machine.handle(ev.Drained(machine.commit_epoch, offsets, has_effects=True))
    return machine.handle(ev.Sealed(machine.commit_epoch, rows))


def commit(machine: CommitEpochs, rows: ev.SinkRows = ev.SinkRows.SOME) -> list:
    """A whole epoch; returns the effects of its commit."""
    seal(machine, rows)
    if rows is ev.SinkRows.SOME:
        machine.handle(ev.Prepared(machine.commit_epoch))
    number = machine.commit_epoch
    effects = machine.handle(ev.TransactionEnded(number, COMMITTED))
    machine.handle(ev.Applied(number))
    return effects


def markers_of(effects: list) -> set[tuple[int, int]]:
    """(epoch, k) of all markers in a transaction."""
    (offsets,) = [effect for effect in effects if isinstance(effect, fx.SendOffsets)]
    parsed = [parse(at.metadata) for at in offsets.offsets.values()]
    return {(each.commit_epoch, each.with_participants) for each in parsed if each is not None}


def kinds(effects: list) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_an_epoch_is_decided_only_after_every_participant_prepared():
    machine = opened(P, Q)
    assert seal(machine) == [fx.Prepare(E(2))]
    assert machine.state is EpochState.PREPARING
    effects = machine.handle(ev.Prepared(E(2)))
    assert kinds(effects) == ["SendOffsets", "Flush", "CommitTransaction"]
    assert markers_of(effects) == {(2, 2)}
    effects = machine.handle(ev.TransactionEnded(E(2), COMMITTED))
    assert kinds(effects) == ["Apply", "FinishBranch"]


def test_an_epoch_without_rows_neither_prepares_nor_waits_for_a_branch():
    machine = opened(P)
    commit(machine)
    assert machine.branch.is_left
    effects = seal(machine, ev.SinkRows.NONE)
    assert kinds(effects) == ["SendOffsets", "Flush", "CommitTransaction"]
    assert markers_of(effects) == {(3, 2)}


def test_the_markers_of_claims_and_releases_carry_the_last_epoch_with_participants():
    machine = opened(P)
    commit(machine)
    commit(machine, ev.SinkRows.NONE)
    machine.handle(ev.Assigned(frozenset([Q]), 2))
    machine.handle(ev.Drained(E(4), {P: Offset(5)}, has_effects=False))
    effects = machine.handle(ev.TakenOver(machine.stamp.assignment, {Q: ev.Start(Offset(0))}))
    assert markers_of(effects) == {(4, 2)}
    machine.handle(ev.TransactionEnded(E(4), COMMITTED))
    machine.handle(ev.RevokeRequested(frozenset([P])))
    effects = machine.handle(ev.Drained(E(5), {P: Offset(5), Q: Offset(0)}, has_effects=False))
    assert markers_of(effects) == {(5, 2)}


def test_markers_name_the_participants_of_that_epoch_and_none_before_the_first():
    machine = opened(P)
    first = seal(machine, ev.SinkRows.NONE)
    machine.handle(ev.TransactionEnded(E(2), COMMITTED))
    machine.handle(ev.Applied(E(2)))
    seal(machine)
    second = machine.handle(ev.Prepared(E(3)))
    told = [parse(effects[0].offsets[P].metadata) for effects in (first, second)]
    assert [each.participants for each in told if each is not None] == [(), ("db", "files")]


def test_a_partition_is_handed_over_while_its_branch_is_being_finished():
    machine = opened(P)
    seal(machine)
    machine.handle(ev.RevokeRequested(frozenset([P])))
    effects = machine.handle(ev.Prepared(E(2)))
    assert markers_of(effects) == {(2, 2)}
    machine.handle(ev.TransactionEnded(E(2), COMMITTED))
    assert kinds(machine.handle(ev.Applied(E(2)))) == ["ForgetPartitions", "FinishRevoke"]
    assert machine.handle(ev.BranchFinished(E(2))) == []
    assert not machine.branch.is_refused


def test_an_epoch_waits_until_the_branch_of_an_earlier_one_is_finished():
    machine = opened(P)
    commit(machine)
    assert seal(machine) == [fx.AwaitBranches(E(3), frozenset([E(2)]))]
    assert machine.state is EpochState.AWAITING_BRANCH
    assert machine.handle(ev.BranchFinished(E(2))) == [fx.Prepare(E(3))]
    assert machine.handle(ev.BranchesTimedOut(E(3))) == []


def test_an_epoch_that_waited_too_long_is_aborted_without_a_branch_to_roll_back():
    machine = opened(P)
    commit(machine)
    seal(machine)
    assert kinds(machine.handle(ev.BranchesTimedOut(E(3)))) == ["DropAttempt", "AbortTransaction"]
    effects = machine.handle(ev.Aborted(E(3)))
    assert kinds(effects) == ["Rewind", "BeginTransaction", "OpenGate"]
    assert effects[-1].after_s == PARTICIPANT_RETRY_S
    assert machine.branch.phase is BranchPhase.FINISHING


def test_inv_2pc_5_a_branch_is_not_begun_over_another():
    branch = OwnBranch()
    branch.prepare(E(2))
    with pytest.raises(InvariantViolation, match="INV-2PC-5"):
        branch.prepare(E(3))


def test_inv_2pc_1_only_the_branch_of_the_committed_epoch_is_finished():
    branch = OwnBranch()
    branch.prepare(E(2))
    with pytest.raises(InvariantViolation, match="INV-2PC-1"):
        branch.committed(E(3))


def test_inv_2pc_2_no_branch_of_a_committed_epoch_is_rolled_back():
    branch = OwnBranch()
    branch.prepare(E(2))
    branch.drop()
    branch.last_committed = E(2)
    with pytest.raises(InvariantViolation, match="INV-2PC-2"):
        branch.settle()


@pytest.mark.parametrize("kind", [ev.PrepareFailure.UNAVAILABLE, ev.PrepareFailure.ROWS])
def test_a_failed_prepare_is_rolled_back_after_the_transaction_was_aborted(kind):
    machine = opened(P)
    seal(machine)
    effects = machine.handle(ev.PrepareFailed(E(2), kind))
    assert kinds(effects) == ["DropAttempt", "AbortTransaction"]
    effects = machine.handle(ev.Aborted(E(2)))
    assert kinds(effects) == ["RollBackBranch", "Rewind", "BeginTransaction", "OpenGate"]
    assert machine.branch.dropped == {E(2)}
    assert kinds(seal(machine)) == ["AwaitBranches"]
    assert machine.handle(ev.BranchRolledBack(E(2))) == [fx.Prepare(E(3))]
    assert machine.branch.dropped == {E(2)}, "its PREPARE may still arrive"
    machine.handle(ev.Prepared(E(3)))
    machine.handle(ev.TransactionEnded(E(3), ev.Outcome.COMMITTED))
    machine.handle(ev.BranchFinished(E(3)))
    assert machine.branch.dropped == frozenset(), "no participant takes it any more"


def test_a_branch_is_rolled_back_only_after_the_fence_when_the_abort_is_uncertain():
    machine = opened(P)
    seal(machine)
    machine.handle(ev.PrepareFailed(E(2), ev.PrepareFailure.UNAVAILABLE))
    assert kinds(machine.handle(ev.Aborted(E(2), spent=True))) == ["ReplaceProducer"]
    assert kinds(machine.handle(ev.ProducerReady())) == ["ReadMarkers"]
    effects = machine.handle(ev.MarkersRead({P: CommittedOffset(Offset(3), Marker(OWN, E(1)))}))
    assert kinds(effects)[0] == "RollBackBranch"


@pytest.mark.parametrize(
    ("found", "first"),
    [
        (CommittedOffset(Offset(4), Marker(OWN, E(2), E(2))), ["Apply", "FinishBranch"]),
        (CommittedOffset(Offset(3), Marker(OWN, E(1))), ["DropAttempt", "RollBackBranch"]),
    ],
    ids=["committed", "not committed"],
)
def test_an_unknown_outcome_is_decided_by_the_marker_behind_the_fence(found, first):
    machine = opened(P)
    seal(machine)
    machine.handle(ev.Prepared(E(2)))
    effects = machine.handle(ev.TransactionEnded(E(2), ev.Outcome.UNKNOWN))
    assert kinds(effects) == ["ReplaceProducer"]
    machine.handle(ev.ProducerReady())
    assert machine.branch.dropped == frozenset()
    assert kinds(machine.handle(ev.MarkersRead({P: found})))[:2] == first


def test_a_worker_that_lost_the_markers_of_an_unknown_outcome_leaves_its_branch_to_others():
    machine = opened(P)
    seal(machine)
    machine.handle(ev.Prepared(E(2)))
    machine.handle(ev.TransactionEnded(E(2), ev.Outcome.UNKNOWN))
    machine.handle(ev.Lost(frozenset([P])))
    (fail,) = machine.handle(ev.ProducerReady())
    assert isinstance(fail, fx.Fail)
    assert fail.exit_code == 1


def test_a_claim_of_unknown_outcome_that_is_lost_counts_as_handed_over_unreleased():
    machine = CommitEpochs(OWN, participants=("db",))
    machine.handle(ev.Assigned(frozenset([P]), 1))
    machine.handle(ev.TakenOver(machine.stamp.assignment, {P: ev.Start(Offset(3))}))
    machine.handle(ev.TransactionEnded(E(1), ev.Outcome.UNKNOWN))
    machine.handle(ev.Lost(frozenset([P])))
    machine.handle(ev.ProducerReady())
    assert machine.branch.left_unreleased, "the claim may have been committed and names us"


def test_an_epoch_lost_while_it_is_prepared_is_rolled_back_and_the_worker_begins_anew():
    machine = opened(P)
    seal(machine)
    assert kinds(machine.handle(ev.Lost(frozenset([P])))) == ["DropAttempt", "AbortTransaction"]
    assert machine.handle(ev.Prepared(E(2))) == []
    effects = machine.handle(ev.Aborted(E(2)))
    assert kinds(effects) == ["RollBackBranch", "ForgetPartitions", "Fail"]
    assert effects[-1].exit_code == 1


def test_a_worker_that_never_wrote_into_a_sink_survives_the_loss_of_its_partitions():
    machine = opened(P)
    machine.handle(ev.Lost(frozenset([P])))
    machine.handle(ev.Aborted(E(2)))
    assert machine.state is EpochState.UNASSIGNED


def test_a_raised_marker_row_ends_the_worker_so_that_it_starts_as_another():
    machine = opened(P)
    seal(machine)
    (fail,) = machine.handle(ev.PrepareFailed(E(2), ev.PrepareFailure.SUPERSEDED, "row raised"))
    assert fail.exit_code == 1
    assert "row raised" in fail.message


def test_a_missing_branch_of_a_committed_epoch_is_heuristic():
    machine = opened(P)
    commit(machine)
    assert machine.handle(ev.BranchMissing(E(2), "it is gone")) == [fx.Fail("it is gone", 4)]


def stopping(machine: CommitEpochs) -> list:
    """Stop with nothing to commit; returns the effects after the release is committed."""
    machine.handle(ev.StopRequested())
    number, offsets = machine.commit_epoch, machine.committed_offsets
    machine.handle(ev.Drained(number, offsets, has_effects=False))
    return machine.handle(ev.TransactionEnded(number, COMMITTED))


def test_a_stop_waits_until_the_last_branch_is_finished():
    machine = opened(P)
    commit(machine)
    assert kinds(stopping(machine)) == ["ForgetPartitions"]
    assert machine.state is EpochState.FINISHING
    assert machine.handle(ev.BranchFinished(E(2))) == [fx.Stop()]


def test_a_stop_does_not_wait_longer_for_a_branch_than_its_bound():
    machine = opened(P)
    commit(machine)
    stopping(machine)
    assert machine.handle(ev.RevokeTimedOut()) == [fx.Stop()]


def test_a_stop_whose_bound_passed_before_waits_for_no_branch():
    machine = opened(P)
    commit(machine)
    machine.handle(ev.StopRequested())
    machine.handle(ev.RevokeTimedOut())
    assert kinds(machine.handle(ev.Aborted(E(3))))[-1] == "Stop"


def test_a_branch_is_reported_gone_once():
    machine = opened(P)
    commit(machine)
    machine.handle(ev.BranchFinished(E(2)))
    with pytest.raises(InvariantViolation, match="INV-EPOCH-6"):
        machine.handle(ev.BranchFinished(E(2)))


def test_waits_for_participants_grow_up_to_a_bound_and_begin_again_after_a_commit():
    waits, seen = Waits(), []
    for _ in range(20):
        waits.participant_refused()
        waits.given_up()
        seen.append(waits.take())
    assert seen[:3] == [PARTICIPANT_RETRY_S, 2 * PARTICIPANT_RETRY_S, 4 * PARTICIPANT_RETRY_S]
    assert seen[-1] == PARTICIPANT_RETRY_S_MAX
    waits.committed()
    waits.participant_refused()
    assert waits.take() == PARTICIPANT_RETRY_S
    assert waits.take() == 0


def test_a_worker_that_left_a_partition_unreleased_never_begins_to_write_into_sinks():
    machine = opened(P, Q)
    machine.handle(ev.RevokeRequested(frozenset([P])))
    machine.handle(ev.RevokeTimedOut())
    machine.handle(ev.Aborted(machine.commit_epoch))
    (fail,) = seal(machine)
    assert isinstance(fail, fx.Fail)
    assert fail.exit_code == 1


def test_a_released_partition_does_not_make_participants_refuse():
    branch = OwnBranch()
    branch.handed_over(Handover.RELEASED)
    branch.prepare(E(2))
    branch.handed_over(Handover.RELEASED)
    assert not branch.is_refused
    branch.handed_over(Handover.HELD)
    assert branch.is_refused
