"""The scan for branches that no takeover looks at, rule by rule."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from onceflow.decisions import branch_steps as bs
from onceflow.decisions.branches import BranchResolution, ResolutionState
from onceflow.decisions.marker import CommittedOffset, Handover, Marker
from onceflow.decisions.scan import BranchScan, ScanState
from onceflow.errors import InvariantViolation
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Offset, Partition

P = Partition("in", 0)
OWN, OLD, LIVING = (Incarnation(name) for name in ("own", "old", "living"))
E = CommitEpoch


def branch(owner: Incarnation, epoch: int) -> bs.BranchAt:
    return "db", BranchId(owner, E(epoch))


def listed(
    *branches: bs.BranchAt, dropped: tuple[int, ...] = (), committed: int = 0
) -> bs.BranchesListed:
    numbers = frozenset(E(number) for number in dropped)
    return bs.BranchesListed(frozenset(branches), numbers, E(committed))


def named(owner: Incarnation, k: int, released=Handover.HELD) -> bs.AllMarkersRead:
    marker = Marker(owner, E(k), E(k), released)
    return bs.AllMarkersRead({P: CommittedOffset(Offset(7), marker)})


def rolled_back(*branches: bs.BranchAt) -> list:
    return [bs.FinishBranches(frozenset(), frozenset(branches))]


def begun() -> BranchScan:
    scan = BranchScan(OWN)
    assert scan.begin() == [bs.ListBranches(None)]
    return scan


def fenced() -> BranchScan:
    """A scan that found a branch of OLD, which nobody names, and has fenced it."""
    scan = begun()
    assert scan.handle(listed(branch(OLD, 5))) == [bs.ReadAllMarkers()]
    assert scan.handle(named(LIVING, 3)) == [bs.FenceIncarnations(frozenset([OLD]))]
    assert scan.handle(bs.IncarnationsFenced()) == [bs.ListBranches(frozenset([OLD]))]
    return scan


def test_a_scan_that_finds_nothing_reads_no_marker():
    assert begun().handle(listed()) == [bs.ScanEnded(0)]


def test_own_branches_of_aborted_attempts_are_rolled_back_and_no_others():
    scan = begun()
    effects = scan.handle(listed(branch(OWN, 4), branch(OWN, 6), dropped=(4,)))
    assert effects == rolled_back(branch(OWN, 4))
    assert scan.handle(bs.BranchesFinished()) == [bs.ScanEnded(1)]


def test_inv_2pc_2_an_own_committed_branch_that_is_shown_again_is_committed_again():
    scan = begun()
    effects = scan.handle(listed(branch(OWN, 4), branch(OWN, 6), dropped=(4,), committed=6))
    commits, roll_backs = frozenset([branch(OWN, 6)]), frozenset([branch(OWN, 4)])
    assert effects == [bs.FinishBranches(commits, roll_backs)]
    assert scan.handle(bs.BranchesFinished()) == [bs.ScanEnded(1)]


def test_branches_of_who_is_named_unreleased_are_left_to_its_takeover():
    scan = begun()
    scan.handle(listed(branch(LIVING, 5)))
    assert scan.handle(named(LIVING, 4)) == [bs.ScanEnded(0)]


def test_inv_2pc_3_the_scan_fences_then_lists_then_reads_again():
    scan = fenced()
    assert scan.handle(listed(branch(OLD, 5))) == [bs.ReadAllMarkers()]
    assert scan.handle(named(LIVING, 3)) == rolled_back(branch(OLD, 5))
    assert scan.handle(bs.BranchesFinished()) == [bs.ScanEnded(1)]


def test_only_what_was_listed_behind_the_fence_is_rolled_back():
    scan = fenced()
    scan.handle(listed(branch(OLD, 6)))
    assert scan.handle(named(LIVING, 3)) == rolled_back(branch(OLD, 6))


def test_who_claimed_again_between_fence_and_second_reading_is_left_alone():
    scan = fenced()
    scan.handle(listed(branch(OLD, 5)))
    assert scan.handle(named(OLD, 4)) == [bs.ScanEnded(0)]


def test_inv_2pc_2_the_k_of_a_released_marker_is_left_to_its_next_owner():
    scan = fenced()
    scan.handle(listed(branch(OLD, 5), branch(OLD, 4)))
    effects = scan.handle(named(OLD, 5, Handover.RELEASED))
    assert effects == rolled_back(branch(OLD, 4))


def test_a_branch_that_is_gone_behind_the_fence_ends_the_scan():
    assert fenced().handle(listed()) == [bs.ScanEnded(0)]


TABLES = [*product(ScanState, [BranchScan]), *product(ResolutionState, [BranchResolution])]


@pytest.mark.parametrize(
    ("state", "machine_class", "kind"),
    [
        (state, machine_class, kind)
        for state, machine_class in TABLES
        for kind in get_args(bs.BranchEvent)
        if (state, kind) not in machine_class.TRANSITIONS
    ],
    ids=lambda value: value.name if hasattr(value, "name") else value.__name__,
)
def test_what_was_not_asked_for_is_refused(state, machine_class, kind):
    machine = machine_class(OWN) if machine_class is BranchScan else machine_class(OWN, {})
    machine.state = state
    with pytest.raises(InvariantViolation, match="INV-TAKEOVER-2"):
        machine.handle(event_of(kind))


def event_of(kind: type) -> bs.BranchEvent:
    samples = {
        bs.BranchesListed: listed(),
        bs.AllMarkersRead: named(LIVING, 1),
        bs.MarkerRowsRead: bs.MarkerRowsRead({}),
    }
    return samples[kind] if kind in samples else kind()
