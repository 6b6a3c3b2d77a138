"""DESIGN's rules of resolving branches, one by one: what a takeover does about participants."""

from __future__ import annotations

import pytest

from onceflow.decisions import branch_steps as bs
from onceflow.decisions import takeover as td
from onceflow.decisions.branches import BranchResolution, ResolutionState
from onceflow.decisions.marker import CommittedOffset, Handover, Marker
from onceflow.errors import InvariantViolation
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Offset, Partition
from onceflow.limits import PARTICIPANT_RETRY_S

P = Partition("in", 0)
Q = Partition("in", 1)
OWN, OLD, OTHER = (Incarnation(name) for name in ("own", "old", "other"))
E = CommitEpoch
LISTED_NOTHING = bs.BranchesListed(frozenset())


def at(owner: Incarnation, epoch: int, k: int, released=Handover.HELD) -> CommittedOffset:
    marker = Marker(owner, E(epoch), E(k), released, participants=("db",))
    return CommittedOffset(Offset(7), marker)


def branch(owner: Incarnation, epoch: int, participant: str = "db") -> bs.BranchAt:
    return participant, BranchId(owner, E(epoch))


def listed(*branches: bs.BranchAt) -> bs.BranchesListed:
    return bs.BranchesListed(frozenset(branches))


def rows(**shown: int) -> bs.MarkerRowsRead:
    return bs.MarkerRowsRead({("db", Incarnation(name)): E(at) for name, at in shown.items()})


def begun(**taken: CommittedOffset) -> BranchResolution:
    names = {"p": P, "q": Q}
    resolution = BranchResolution(OWN, {names[name]: found for name, found in taken.items()})
    owners = {found.marker.incarnation for found in taken.values() if found.marker is not None}
    assert resolution.begin() == [bs.ListBranches(frozenset(owners))]
    return resolution


def acted(commits=(), roll_backs=()) -> list:
    return [bs.FinishBranches(frozenset(commits), frozenset(roll_backs))]


def finish(resolution: BranchResolution, shown: bs.MarkerRowsRead) -> list:
    """From the first FinishBranches of an unreleased owner to the end."""
    assert resolution.handle(bs.BranchesFinished()) == [bs.RaiseMarkers(frozenset([OLD]))]
    assert resolution.handle(bs.MarkersRaised()) == [bs.ListBranches(frozenset([OLD]))]
    assert resolution.handle(LISTED_NOTHING) == [bs.ReadMarkerRows(frozenset([OLD]))]
    return resolution.handle(shown)


def test_partitions_that_nobody_owned_have_nothing_to_resolve():
    resolution = BranchResolution(OWN, {P: CommittedOffset(None, None)})
    assert resolution.begin() == [bs.Resolved()]


def test_a_branch_that_a_marker_names_as_its_k_is_committed_without_a_further_fence():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    assert resolution.handle(listed(branch(OLD, 5))) == acted(commits=[branch(OLD, 5)])
    assert finish(resolution, rows(old=5)) == [bs.Resolved()]


def test_inv_2pc_3_a_branch_is_rolled_back_only_behind_list_fence_and_reading_in_that_order():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    assert resolution.handle(listed(branch(OLD, 7))) == [bs.FenceIncarnations(frozenset([OLD]))]
    assert resolution.handle(bs.IncarnationsFenced()) == [bs.ReadAllMarkers()]
    effects = resolution.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5)}))
    assert effects == acted(roll_backs=[branch(OLD, 7)])


def test_inv_2pc_3_is_checked_where_a_branch_is_rolled_back():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(listed(branch(OLD, 7)))
    resolution._fenced = frozenset()
    resolution.handle(bs.IncarnationsFenced())
    with pytest.raises(InvariantViolation, match="INV-2PC-3"):
        resolution.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5)}))


def test_inv_2pc_2_a_marker_of_any_other_partition_proves_a_commit_too():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(listed(branch(OLD, 7)))
    resolution.handle(bs.IncarnationsFenced())
    effects = resolution.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5), Q: at(OLD, 7, k=7)}))
    assert effects == acted(commits=[branch(OLD, 7)])


def test_a_late_prepare_of_an_aborted_attempt_below_k_is_rolled_back_as_well():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(listed(branch(OLD, 4), branch(OLD, 5, "other")))
    resolution.handle(bs.IncarnationsFenced())
    effects = resolution.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5)}))
    assert effects == acted([branch(OLD, 5, "other")], [branch(OLD, 4)])


def test_of_an_owner_that_released_only_what_is_proven_is_touched_and_nothing_raised():
    resolution = begun(p=at(OLD, epoch=6, k=5, released=Handover.RELEASED))
    effects = resolution.handle(listed(branch(OLD, 5), branch(OLD, 7)))
    assert effects == acted(commits=[branch(OLD, 5)])
    assert resolution.handle(bs.BranchesFinished()) == [bs.ListBranches(frozenset([OLD]))]
    effects = resolution.handle(listed(branch(OLD, 7)))
    assert effects == [bs.ReadMarkerRows(frozenset([OLD]))]
    assert resolution.handle(rows(old=5)) == [bs.Resolved()]


def test_our_own_branches_are_cleared_against_all_markers_without_a_fence_of_ourselves():
    resolution = begun(p=at(OWN, epoch=6, k=5, released=Handover.RELEASED))
    assert resolution.handle(listed(branch(OWN, 5), branch(OWN, 8))) == [bs.ReadAllMarkers()]
    effects = resolution.handle(bs.AllMarkersRead({P: at(OWN, 6, 5, Handover.RELEASED)}))
    assert effects == acted([branch(OWN, 5)], [branch(OWN, 8)])
    resolution.handle(bs.BranchesFinished())
    assert resolution.handle(LISTED_NOTHING) == [bs.ReadMarkerRows(frozenset([OWN]))]


def test_inv_2pc_4_after_the_raise_the_branches_are_listed_again():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    assert resolution.handle(LISTED_NOTHING) == [bs.RaiseMarkers(frozenset([OLD]))]
    assert resolution.handle(bs.MarkersRaised()) == [bs.ListBranches(frozenset([OLD]))]
    assert resolution.handle(listed(branch(OLD, 7))) == [bs.FenceIncarnations(frozenset([OLD]))]
    resolution.handle(bs.IncarnationsFenced())
    resolution.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5)}))
    assert resolution.handle(bs.BranchesFinished()) == [bs.ListBranches(frozenset([OLD]))]
    assert resolution.handle(LISTED_NOTHING) == [bs.ReadMarkerRows(frozenset([OLD]))]
    assert resolution.handle(rows(old=5)) == [bs.Resolved()]


def test_inv_2pc_4_is_checked_at_the_end():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.state = ResolutionState.COMPARING
    with pytest.raises(InvariantViolation, match="INV-2PC-4"):
        resolution.handle(rows(old=5))


def test_a_row_that_cannot_be_raised_is_looked_at_again_after_a_wait():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(LISTED_NOTHING)
    (again,) = resolution.handle(bs.RaiseRefused())
    assert again == bs.ListBranches(frozenset([OLD]), PARTICIPANT_RETRY_S)


@pytest.mark.parametrize(
    ("shown", "why"),
    [(4, "rows of committed"), (0, "rows of committed"), (9, "Kafka lost commits")],
)
def test_a_marker_row_behind_or_ahead_of_kafka_is_heuristic(shown, why):
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(listed(branch(OLD, 5)))
    (found,) = finish(resolution, rows(old=shown))
    assert isinstance(found, bs.HeuristicFound)
    assert why in found.message


def test_a_participant_that_was_added_to_the_app_since_then_is_not_behind():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(listed(branch(OLD, 5)))
    shown = {("db", OLD): E(5), ("added", OLD): E(0)}
    assert finish(resolution, bs.MarkerRowsRead(shown)) == [bs.Resolved()]


def test_an_owner_that_did_not_end_in_order_keeps_its_sinks_from_being_removed():
    resolution = begun(p=at(OLD, epoch=6, k=5))
    resolution.handle(LISTED_NOTHING)
    resolution.handle(bs.MarkersRaised())
    resolution.handle(LISTED_NOTHING)
    (found,) = resolution.handle(bs.MarkerRowsRead({("other", OLD): E(0)}))
    assert isinstance(found, bs.SinksMissing)
    assert "db" in found.message


def test_the_last_sink_cannot_be_removed_either():
    for released in Handover:
        machine = td.Takeover(frozenset([P]), td.TakeoverOptions(OWN, td.ResetPolicy.EARLIEST))
        machine.handle(td.Begin())
        effects = machine.handle(td.LastMarkersRead({P: at(OLD, 6, 5, released)}))
        if released is Handover.HELD:
            machine.handle(td.IncarnationsFenced())
        effects = machine.handle(td.StableMarkersRead({P: at(OLD, 6, 5, released)}))
        failed = released is Handover.HELD
        assert isinstance(effects[0], td.TakeoverFailed if failed else td.ReadLogBounds)


def test_a_branch_that_was_listed_and_is_gone_is_heuristic_unless_the_row_shows_it():
    for shown, end in ((5, bs.Resolved), (6, bs.Resolved), (0, bs.HeuristicFound)):
        resolution = begun(p=at(OLD, epoch=6, k=5, released=Handover.RELEASED))
        resolution.handle(listed(branch(OLD, 5)))
        resolution.handle(bs.BranchesFinished(frozenset([branch(OLD, 5)])))
        resolution.handle(LISTED_NOTHING)
        assert isinstance(resolution.handle(rows(old=shown))[0], end)


def test_a_living_owner_may_be_ahead_of_the_marker_that_it_released():
    resolution = begun(p=at(OLD, epoch=6, k=5, released=Handover.RELEASED))
    resolution.handle(LISTED_NOTHING)
    assert resolution.handle(rows(old=8)) == [bs.Resolved()]


# In its place in a takeover.


def takeover() -> td.Takeover:
    options = td.TakeoverOptions(
        OWN, td.ResetPolicy.EARLIEST, participants=bs.Participants.CONFIGURED
    )
    machine = td.Takeover(frozenset([P]), options)
    machine.handle(td.Begin())
    machine.handle(td.LastMarkersRead({P: at(OLD, 6, k=5)}))
    machine.handle(td.IncarnationsFenced())
    assert machine.handle(td.StableMarkersRead({P: at(OLD, 6, k=5)})) == [
        bs.ListBranches(frozenset([OLD]))
    ]
    return machine


def test_inv_2pc_5_nothing_is_read_or_claimed_before_the_branches_are_resolved():
    machine = takeover()
    machine.handle(listed(branch(OLD, 5)))
    machine.handle(bs.BranchesFinished())
    machine.handle(bs.MarkersRaised())
    machine.handle(LISTED_NOTHING)
    assert machine.state is td.TakeoverState.RESOLVING
    assert machine.handle(rows(old=5)) == [td.ReadLogBounds(frozenset([P]))]


def test_a_claim_names_the_owners_of_which_no_branch_is_left_or_can_come():
    machine = takeover()
    machine.handle(listed(branch(OLD, 7)))
    machine.handle(bs.IncarnationsFenced())
    machine.handle(bs.AllMarkersRead({P: at(OLD, 6, k=5), Q: at(OLD, 7, k=7)}))
    machine.handle(bs.BranchesFinished())
    machine.handle(bs.MarkersRaised())
    machine.handle(LISTED_NOTHING)
    assert machine._branches.settled == {}, "not before the rows are compared"
    machine.handle(rows(old=7))
    bounds = td.LogBounds(Offset(0), Offset(100))
    machine.handle(td.LogBoundsRead({P: bounds}))
    [claim] = machine.handle(td.Restored())
    assert claim.settled == {OLD: E(7)}


def test_who_released_is_not_named_as_settled():
    resolution = begun(p=at(OLD, epoch=6, k=5, released=Handover.RELEASED))
    resolution.handle(LISTED_NOTHING)
    assert resolution.handle(rows(old=5)) == [bs.Resolved()]
    assert resolution.settled == {}


def test_inv_2pc_5_is_checked_where_a_takeover_goes_on():
    machine = takeover()
    with pytest.raises(InvariantViolation, match="INV-2PC-5"):
        machine._resolve(machine._branches, [bs.Resolved()])


def test_a_takeover_whose_markers_changed_meanwhile_begins_again():
    machine = takeover()
    machine.handle(listed(branch(OLD, 7)))
    machine.handle(bs.IncarnationsFenced())
    effects = machine.handle(bs.AllMarkersRead({P: at(OLD, 7, k=7), Q: at(OTHER, 1, k=0)}))
    assert effects == [td.ReadStableMarkers(frozenset([P]))]


def test_a_heuristic_outcome_ends_the_takeover_with_exit_code_4():
    machine = takeover()
    machine.handle(listed(branch(OLD, 5)))
    machine.handle(bs.BranchesFinished())
    machine.handle(bs.MarkersRaised())
    machine.handle(LISTED_NOTHING)
    (failed,) = machine.handle(rows(old=4))
    assert isinstance(failed, td.TakeoverFailed)
    assert failed.exit_code == 4
