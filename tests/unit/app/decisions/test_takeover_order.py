from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from onceflow.decisions import branch_steps as bs
from onceflow.decisions import takeover as td
from onceflow.decisions.epoch_events import Start
from onceflow.decisions.marker import CommittedOffset, Handover, Marker
from onceflow.errors import InvariantViolation
from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition
from onceflow.limits import PENDING_RETRY_S

P = Partition("in", 0)
Q = Partition("in", 1)
OWN, OLD, OTHER = (Incarnation(name) for name in ("own", "old", "other"))
NOTHING = CommittedOffset(None, None)
OPTIONS = td.TakeoverOptions(OWN, td.ResetPolicy.EARLIEST, pending_reads_max=3)
BOUNDS = td.LogBounds(Offset(0), Offset(100))


def at(offset: int, owner: Incarnation, released=Handover.HELD, attempts=0) -> CommittedOffset:
    return CommittedOffset(
        Offset(offset), Marker(owner, CommitEpoch(5), released=released, attempts=attempts)
    )


def takeover(*partitions: Partition, options=OPTIONS) -> td.Takeover:
    machine = td.Takeover(frozenset(partitions or [P]), options)
    assert machine.handle(td.Begin()) == [td.ReadLastMarkers(frozenset(partitions or [P]))]
    return machine


def test_nothing_is_fenced_where_nothing_was_committed():
    machine = takeover()
    assert machine.handle(td.LastMarkersRead({P: NOTHING})) == [
        td.ReadStableMarkers(frozenset([P]))
    ]
    assert machine.handle(td.StableMarkersRead({P: NOTHING})) == [td.ReadLogBounds(frozenset([P]))]
    assert machine.handle(td.LogBoundsRead({P: BOUNDS})) == [td.RestoreTasks(frozenset([P]))]
    assert machine.handle(td.Restored()) == [td.ReadyToClaim({P: Start(Offset(0))})]
    assert machine.state is td.TakeoverState.DONE


def test_an_owner_that_did_not_release_is_fenced_before_the_offsets_are_read():
    machine = takeover()
    assert machine.handle(td.LastMarkersRead({P: at(7, OLD)})) == [
        td.FenceIncarnations(frozenset([OLD]))
    ]
    assert machine.handle(td.IncarnationsFenced()) == [td.ReadStableMarkers(frozenset([P]))]
    machine.handle(td.StableMarkersRead({P: at(9, OLD)}))
    machine.handle(td.LogBoundsRead({P: BOUNDS}))
    assert machine.handle(td.Restored()) == [td.ReadyToClaim({P: Start(Offset(9), 1)})]


@pytest.mark.parametrize(
    "committed", [at(7, OLD, Handover.RELEASED), at(7, OWN), CommittedOffset(Offset(7), None)]
)
def test_who_released_or_is_ourselves_or_is_stock_faust_is_not_fenced(committed):
    machine = takeover()
    effects = machine.handle(td.LastMarkersRead({P: committed}))
    assert effects == [td.ReadStableMarkers(frozenset([P]))]


def test_an_owner_that_only_the_stable_reading_names_is_fenced_too():
    machine = takeover()
    machine.handle(td.LastMarkersRead({P: at(7, OLD)}))
    machine.handle(td.IncarnationsFenced())
    assert machine.handle(td.StableMarkersRead({P: at(7, OTHER)})) == [
        td.FenceIncarnations(frozenset([OTHER]))
    ]
    assert machine.handle(td.IncarnationsFenced()) == [td.ReadStableMarkers(frozenset([P]))]
    assert machine.handle(td.StableMarkersRead({P: at(7, OTHER)})) == [
        td.ReadLogBounds(frozenset([P]))
    ]


def test_pending_offsets_are_waited_out_with_an_alarm_and_within_a_bound():
    machine = takeover()
    machine.handle(td.LastMarkersRead({P: NOTHING}))
    for reads in (1, 2):
        assert machine.handle(td.StillPending(frozenset([P]))) == [
            td.AlarmPending(frozenset([P]), reads),
            td.ReadStableMarkers(frozenset([P]), PENDING_RETRY_S),
        ]
    (failed,) = machine.handle(td.StillPending(frozenset([P])))
    assert isinstance(failed, td.TakeoverFailed)
    assert failed.exit_code == 3
    assert "in[0]" in failed.message


@pytest.mark.parametrize(("policy", "start"), [("earliest", 20), ("latest", 100)])
def test_without_a_committed_offset_the_reset_policy_decides_once(policy, start):
    machine = takeover(options=td.TakeoverOptions(OWN, td.ResetPolicy(policy)))
    machine.handle(td.LastMarkersRead({P: NOTHING}))
    machine.handle(td.StableMarkersRead({P: NOTHING}))
    machine.handle(td.LogBoundsRead({P: td.LogBounds(Offset(20), Offset(100))}))
    assert machine.handle(td.Restored()) == [td.ReadyToClaim({P: Start(Offset(start))})]


@pytest.mark.parametrize(("offset", "why"), [(19, "are gone"), (101, "truncated or recreated")])
def test_a_committed_offset_outside_the_log_is_data_at_risk(offset, why):
    machine = takeover()
    machine.handle(td.LastMarkersRead({P: at(offset, OWN)}))
    machine.handle(td.StableMarkersRead({P: at(offset, OWN)}))
    bounds = td.LogBounds(Offset(20), Offset(100))
    (failed,) = machine.handle(td.LogBoundsRead({P: bounds}))
    assert isinstance(failed, td.TakeoverFailed)
    assert failed.exit_code == 4
    assert why in failed.message


def test_lost_owners_count_only_where_a_record_was_waiting():
    machine = takeover(P, Q)
    markers = {P: at(100, OLD, attempts=1), Q: at(99, OLD, attempts=1)}
    machine.handle(td.LastMarkersRead(markers))
    machine.handle(td.IncarnationsFenced())
    machine.handle(td.StableMarkersRead(markers))
    machine.handle(td.LogBoundsRead({P: BOUNDS, Q: BOUNDS}))
    assert machine.handle(td.Restored()) == [
        td.ReadyToClaim({P: Start(Offset(100), 0), Q: Start(Offset(99), 2)})
    ]


STATES = [*td.TakeoverState]
EVENTS = {
    td.Begin: td.Begin(),
    td.Cancel: td.Cancel(),
    td.LastMarkersRead: td.LastMarkersRead({P: NOTHING}),
    td.IncarnationsFenced: td.IncarnationsFenced(),
    td.StableMarkersRead: td.StableMarkersRead({P: NOTHING}),
    td.StillPending: td.StillPending(frozenset([P])),
    td.LogBoundsRead: td.LogBoundsRead({P: BOUNDS}),
    td.Restored: td.Restored(),
    bs.BranchesListed: bs.BranchesListed(frozenset()),
    bs.AllMarkersRead: bs.AllMarkersRead({P: at(1, OLD)}),
    bs.BranchesFinished: bs.BranchesFinished(),
    bs.MarkersRaised: bs.MarkersRaised(),
    bs.RaiseRefused: bs.RaiseRefused(),
    bs.MarkerRowsRead: bs.MarkerRowsRead({}),
}


STABLE_OLD = td.StableMarkersRead({P: at(1, OLD)})


def machine_in(state: td.TakeoverState) -> td.Takeover:
    resolving = state is td.TakeoverState.RESOLVING
    participants = bs.Participants.CONFIGURED if resolving else bs.Participants.NONE
    options = td.TakeoverOptions(OWN, td.ResetPolicy.EARLIEST, 1, participants)
    machine = td.Takeover(frozenset([P]), options)
    fence = [td.Begin(), td.LastMarkersRead({P: at(1, OLD)})]
    plain = [EVENTS[td.Begin], EVENTS[td.LastMarkersRead], EVENTS[td.StableMarkersRead]]
    paths = {
        td.TakeoverState.IDLE: [],
        td.TakeoverState.READING_LAST: plain[:1],
        td.TakeoverState.FENCING: fence,
        td.TakeoverState.READING_STABLE: plain[:2],
        td.TakeoverState.RESOLVING: [*fence, td.IncarnationsFenced(), STABLE_OLD],
        td.TakeoverState.READING_BOUNDS: plain,
        td.TakeoverState.RESTORING: [*plain, EVENTS[td.LogBoundsRead]],
        td.TakeoverState.DONE: [*plain, EVENTS[td.LogBoundsRead], EVENTS[td.Restored]],
        td.TakeoverState.FAILED: [*plain[:2], EVENTS[td.StillPending]],
        td.TakeoverState.CANCELLED: [EVENTS[td.Begin], EVENTS[td.Cancel]],
    }
    for event in paths[state]:
        machine.handle(event)
    assert machine.state is state
    return machine


def is_step(state: td.TakeoverState, kind: type) -> bool:
    """Whether something is done; a resolution has just asked for a list."""
    asked = (td.TakeoverState.RESOLVING, bs.BranchesListed)
    return (state, kind) in td.Takeover.TRANSITIONS or (state, kind) == asked


@pytest.mark.parametrize(
    ("state", "kind"),
    list(product(STATES, get_args(td.TakeoverEvent))),
    ids=lambda value: value.name if isinstance(value, td.TakeoverState) else value.__name__,
)
def test_every_event_in_every_state_is_handled_ignored_or_refused(state, kind):
    machine = machine_in(state)
    over = state in (td.TakeoverState.CANCELLED, td.TakeoverState.FAILED)
    if kind is td.Cancel:
        assert machine.handle(EVENTS[kind]) == []
        assert machine.state is td.TakeoverState.CANCELLED
    elif over:
        assert machine.handle(EVENTS[kind]) == []
        assert machine.state is state
    elif is_step(state, kind):
        effects = machine.handle(EVENTS[kind])
        assert effects
        assert all(type(effect) in get_args(td.TakeoverEffect) for effect in effects)
    else:
        with pytest.raises(InvariantViolation, match="INV-TAKEOVER-2"):
            machine.handle(EVENTS[kind])


def test_markers_of_other_partitions_break_inv_takeover_3():
    machine = takeover(P, Q)
    with pytest.raises(InvariantViolation, match="INV-TAKEOVER-3"):
        machine.handle(td.LastMarkersRead({P: NOTHING}))


def test_a_takeover_of_nothing_breaks_inv_takeover_1():
    with pytest.raises(InvariantViolation, match="INV-TAKEOVER-1"):
        td.Takeover(frozenset(), OPTIONS)


def test_a_claim_over_an_owner_that_was_not_fenced_breaks_inv_takeover_4():
    machine = machine_in(td.TakeoverState.RESTORING)
    machine._committed = {P: at(3, OTHER)}
    with pytest.raises(InvariantViolation, match="INV-TAKEOVER-4"):
        machine.handle(td.Restored())
