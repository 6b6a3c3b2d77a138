"""Every pair of state and event is defined, ignored on purpose, or refused."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_branches import BranchPhase
from onceflow.decisions.epoch_states import IGNORED, EpochState
from onceflow.decisions.marker import CommittedOffset, Marker
from onceflow.errors import InvariantViolation
from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition, Stamp

P = Partition("in", 0)
Q = Partition("in", 1)
OWN = Incarnation("own")
PAIRS = sorted(
    product(EpochState, get_args(ev.EpochEvent)), key=lambda pair: (pair[0].value, str(pair[1]))
)
REPORTS_OF_ONE_STATE = {
    ev.TakenOver: {EpochState.TAKING_OVER},
    ev.Drained: {EpochState.DRAINING},
    ev.Sealed: {EpochState.SEALING},
    ev.Prepared: {EpochState.PREPARING},
    ev.PrepareFailed: {EpochState.PREPARING},
    ev.BranchesTimedOut: {EpochState.AWAITING_BRANCH},
    ev.OffsetsRefused: {EpochState.CLAIMING, EpochState.DECIDING},
    ev.TransactionEnded: {EpochState.CLAIMING, EpochState.DECIDING},
    ev.Applied: {EpochState.APPLYING},
    ev.Aborted: {EpochState.ABORTING},
    ev.ProducerReady: {EpochState.RESOLVING},
    ev.MarkersRead: {EpochState.RESOLVING},
}


def machine_in(state: EpochState) -> CommitEpochs:
    """A machine led into a state by events alone."""
    machine = CommitEpochs(OWN)
    path = {
        EpochState.UNASSIGNED: 0,
        EpochState.TAKING_OVER: 1,
        EpochState.CLAIMING: 2,
        EpochState.OPEN: 3,
        EpochState.DRAINING: 4,
        EpochState.SEALING: 5,
        EpochState.DECIDING: 6,
        EpochState.APPLYING: 7,
    }
    events = [
        lambda: ev.Assigned(frozenset([P]), 1),
        lambda: ev.TakenOver(machine.stamp.assignment, {P: ev.Start(Offset(3))}),
        lambda: ev.TransactionEnded(CommitEpoch(1), ev.Outcome.COMMITTED),
        lambda: ev.CommitDue(ev.CommitReason.INTERVAL),
        lambda: ev.Drained(CommitEpoch(2), {P: Offset(5)}, has_effects=True),
        lambda: ev.Sealed(CommitEpoch(2)),
        lambda: ev.TransactionEnded(CommitEpoch(2), ev.Outcome.COMMITTED),
    ]
    rows = ev.SinkRows.SOME
    prepared = [
        *events[3:5],
        lambda: ev.Sealed(CommitEpoch(2), rows),
        lambda: ev.Prepared(CommitEpoch(2)),
        lambda: ev.TransactionEnded(CommitEpoch(2), ev.Outcome.COMMITTED),
        lambda: ev.Applied(CommitEpoch(2)),
    ]
    tails = {
        EpochState.PREPARING: prepared[:3],
        EpochState.AWAITING_BRANCH: [
            *prepared,
            lambda: ev.CommitDue(ev.CommitReason.INTERVAL),
            lambda: ev.Drained(CommitEpoch(3), {P: Offset(6)}, has_effects=True),
            lambda: ev.Sealed(CommitEpoch(3), rows),
        ],
        EpochState.FINISHING: [
            *prepared,
            ev.StopRequested,
            lambda: ev.Drained(CommitEpoch(3), {P: Offset(5)}, has_effects=False),
            lambda: ev.TransactionEnded(CommitEpoch(3), ev.Outcome.COMMITTED),
        ],
        EpochState.ABORTING: [lambda: ev.RecordFailed(machine.stamp)],
        EpochState.RESOLVING: [
            lambda: ev.SendFailed(machine.commit_epoch, ev.SendFailure.FATAL),
            ev.ProducerReady,
        ],
        EpochState.STOPPED: [
            ev.StopRequested,
            lambda: ev.Drained(CommitEpoch(2), {P: Offset(3)}, has_effects=False),
            lambda: ev.TransactionEnded(CommitEpoch(2), ev.Outcome.COMMITTED),
        ],
        EpochState.FAILED: [lambda: ev.Failed("the disk is full", 1)],
    }
    steps = events[: path[state]] if state in path else [*events[:3], *tails[state]]
    for step in steps:
        machine.handle(step())
    assert machine.state is state
    return machine


def event_of(kind: type, machine: CommitEpochs):
    number = machine.commit_epoch
    samples = {
        ev.Assigned: lambda: ev.Assigned(frozenset([Q]), 2),
        ev.RevokeRequested: lambda: ev.RevokeRequested(frozenset([P])),
        ev.Lost: lambda: ev.Lost(frozenset([P])),
        ev.Failed: lambda: ev.Failed("the disk is full", 1),
        ev.TakenOver: lambda: ev.TakenOver(machine.stamp.assignment, {P: ev.Start(Offset(3))}),
        ev.CommitDue: lambda: ev.CommitDue(ev.CommitReason.BYTES),
        ev.NoteAttempt: lambda: ev.NoteAttempt(P),
        ev.Drained: lambda: ev.Drained(number, {P: Offset(5)}, has_effects=False),
        ev.DrainTimedOut: lambda: ev.DrainTimedOut(number),
        ev.RecordFailed: lambda: ev.RecordFailed(machine.stamp),
        ev.Sealed: lambda: ev.Sealed(number),
        ev.Prepared: lambda: ev.Prepared(number),
        ev.PrepareFailed: lambda: ev.PrepareFailed(number, ev.PrepareFailure.UNAVAILABLE),
        ev.BranchesTimedOut: lambda: ev.BranchesTimedOut(number),
        ev.BranchFinished: lambda: ev.BranchFinished(machine.branch.number),
        ev.BranchRolledBack: lambda: ev.BranchRolledBack(machine.branch.number),
        ev.BranchMissing: lambda: ev.BranchMissing(number, "the branch is gone"),
        ev.SendFailed: lambda: ev.SendFailed(number, ev.SendFailure.ABORTABLE),
        ev.OffsetsRefused: lambda: ev.OffsetsRefused(number),
        ev.TransactionEnded: lambda: ev.TransactionEnded(number, ev.Outcome.COMMITTED),
        ev.Applied: lambda: ev.Applied(number),
        ev.Aborted: lambda: ev.Aborted(number),
        ev.MarkersRead: lambda: ev.MarkersRead({P: CommittedOffset(Offset(3), None)}),
    }
    return samples[kind]() if kind in samples else kind()


def is_expected_branch(machine: CommitEpochs, event: object) -> bool:
    phases = {
        ev.BranchFinished: BranchPhase.FINISHING,
        ev.BranchRolledBack: BranchPhase.ROLLING_BACK,
    }
    return type(event) not in phases or machine.branch.phase is phases[type(event)]


def name_of(value: object) -> str:
    return value.name if isinstance(value, EpochState) else value.__name__


@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=name_of)
def test_every_event_in_every_state_is_handled_ignored_or_refused(state, kind):
    machine = machine_in(state)
    before = machine.state
    event = event_of(kind, machine)
    handled = (state, kind) in CommitEpochs.TRANSITIONS
    ignored = (state, kind) in IGNORED
    assert not (handled and ignored)
    if handled and not is_expected_branch(machine, event):
        # Whatever the state: a branch that was not given to be finished is not reported.
        with pytest.raises(InvariantViolation, match="INV-EPOCH-6"):
            machine.handle(event)
    elif handled:
        effects = machine.handle(event)
        assert all(type(effect) in get_args(fx.EpochEffect) for effect in effects)
    elif ignored:
        assert machine.handle(event) == []
        assert machine.state is before
    else:
        with pytest.raises(InvariantViolation, match="INV-EPOCH-6"):
            machine.handle(event)


@pytest.mark.parametrize("kind", REPORTS_OF_ONE_STATE, ids=name_of)
def test_a_report_is_acted_upon_only_where_its_effect_is_under_way(kind):
    states = {state for state, event in CommitEpochs.TRANSITIONS if event is kind}
    assert states == REPORTS_OF_ONE_STATE[kind]


def test_wishes_of_the_group_are_heard_in_every_state():
    for kind in (ev.Assigned, ev.RevokeRequested, ev.Lost, ev.StopRequested):
        for state in EpochState:
            heard = (state, kind) in CommitEpochs.TRANSITIONS
            over = state in (EpochState.STOPPED, EpochState.FAILED)
            assert heard or (over and (state, kind) in IGNORED)


@pytest.mark.parametrize("state", [*EpochState], ids=name_of)
def test_a_revoke_is_finished_whatever_the_state_once_what_runs_has_ended(state):
    machine = machine_in(state)
    effects = list(machine.handle(ev.RevokeRequested(frozenset([P]))))
    for _ in range(12):
        if any(isinstance(effect, fx.FinishRevoke) for effect in effects):
            break
        effects += machine.handle(next_report(machine))
    else:
        pytest.fail("the revoke callback would wait for ever")
    assert machine.committed_offsets == {} or state in (EpochState.STOPPED, EpochState.FAILED)


@pytest.mark.parametrize("state", [*EpochState], ids=name_of)
def test_a_revoke_that_times_out_never_waits_for_kafka_s_answer_to_a_commit(state):
    machine = machine_in(state)
    effects = list(machine.handle(ev.RevokeRequested(frozenset([P]))))
    effects += machine.handle(ev.RevokeTimedOut())
    if machine.state == EpochState.ABORTING and not effects_finish(effects):
        effects += machine.handle(ev.Aborted(machine.commit_epoch))
    assert effects_finish(effects)


def effects_finish(effects: list) -> bool:
    return any(isinstance(effect, fx.FinishRevoke) for effect in effects)


def next_report(machine: CommitEpochs):
    """What the engine would report next when nothing goes wrong."""
    number = machine.commit_epoch
    committed = machine.committed_offsets
    return {
        EpochState.TAKING_OVER: ev.RevokeTimedOut,
        EpochState.CLAIMING: lambda: ev.TransactionEnded(number, ev.Outcome.COMMITTED),
        EpochState.OPEN: lambda: ev.CommitDue(ev.CommitReason.INTERVAL),
        EpochState.DRAINING: lambda: ev.Drained(number, committed, has_effects=False),
        EpochState.SEALING: lambda: ev.Sealed(number),
        EpochState.AWAITING_BRANCH: lambda: ev.BranchFinished(machine.branch.number),
        EpochState.PREPARING: lambda: ev.Prepared(number),
        EpochState.DECIDING: lambda: ev.TransactionEnded(number, ev.Outcome.COMMITTED),
        EpochState.APPLYING: lambda: ev.Applied(number),
        EpochState.ABORTING: lambda: ev.Aborted(number),
        EpochState.RESOLVING: lambda: ev.MarkersRead({P: CommittedOffset(Offset(3), marker(1))}),
    }[machine.state]()


def marker(number: int):
    return Marker(OWN, CommitEpoch(number))


def test_a_report_of_an_earlier_epoch_changes_nothing():
    machine = machine_in(EpochState.DRAINING)
    late = [
        ev.Drained(CommitEpoch(1), {P: Offset(9)}, has_effects=True),
        ev.TransactionEnded(CommitEpoch(1), ev.Outcome.COMMITTED),
        ev.Aborted(CommitEpoch(1)),
        ev.Applied(CommitEpoch(1)),
        ev.RecordFailed(Stamp(0, 0)),
    ]
    assert [machine.handle(event) for event in late] == [[]] * len(late)
    assert machine.state is EpochState.DRAINING


def test_a_report_of_an_epoch_that_was_not_begun_is_a_bug():
    machine = machine_in(EpochState.OPEN)
    with pytest.raises(InvariantViolation, match="INV-EPOCH-6"):
        machine.handle(ev.Sealed(CommitEpoch(99)))
