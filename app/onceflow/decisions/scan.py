"""Looking once a minute for branches that nobody else will clear away.

Three kinds. Our own branches of aborted attempts, whose PREPARE arrived late. Our own branch of the
last committed epoch, which a participant shows again that was set back. And those of
incarnations that no marker names unreleased: they released everything and died, or were taken over
from before their last PREPARE arrived; no takeover will look at them.

Theory. Such an incarnation may all the same be alive and claim again at any moment. So it is fenced
first, then listed, and only then are the markers read again: what is on that list was prepared
before the reading, hence either its transaction was ended by the fence, or the incarnation claimed
again in between, is named unreleased, and is left alone. In another order rows of a living worker
are lost. Of others the scan commits nothing, and it raises nothing: that belongs to takeovers.

Must never import clocks or I/O.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar

from onceflow.decisions.branch_steps import (
    AllMarkersRead,
    BranchesFinished,
    BranchesListed,
    BranchEvent,
    FenceIncarnations,
    FinishBranches,
    IncarnationsFenced,
    ListBranches,
    ReadAllMarkers,
    ScanEnded,
    epochs_named,
)
from onceflow.decisions.marker import Handover
from onceflow.decisions.transitions import handler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceflow.decisions.branch_steps import BranchAt, BranchEffect
    from onceflow.decisions.marker import CommittedOffset
    from onceflow.ids import Incarnation, Partition

    ScanEffect = BranchEffect | ScanEnded


class ScanState(Enum):
    """Where a scan stands."""

    IDLE = auto()
    LISTING = auto()
    CLEARING_OWN = auto()
    READING = auto()
    FENCING = auto()
    LISTING_AGAIN = auto()
    READING_AGAIN = auto()
    CLEARING = auto()
    DONE = auto()


class BranchScan:
    """One scan; the next one is another."""

    def __init__(self, own: Incarnation) -> None:
        self._own = own
        self._others: frozenset[Incarnation] = frozenset()
        """Who is looked at; shrunk by each reading. Invariant: never ourselves."""
        self._listed: frozenset[BranchAt] = frozenset()
        """Branches of fenced incarnations. Invariant: read between the fence and the markers."""
        self._rolled_back = 0
        self.state = ScanState.IDLE
        """Advanced by ``handle`` along ``TRANSITIONS``."""

    def begin(self) -> list[ScanEffect]:
        """Return what to do first."""
        self.state = ScanState.LISTING
        return [ListBranches(None)]

    def handle(self, event: BranchEvent) -> list[ScanEffect]:
        """Take what happened, return what to do, in order.

        Raises:
            InvariantViolation: INV-TAKEOVER-2, an event that cannot happen in this state: a bug.
        """
        return handler_of(self.TRANSITIONS, self.state, event)(self, event)

    def _all_listed(self, event: BranchesListed) -> list[ScanEffect]:
        self._others = frozenset(at[1].incarnation for at in event.branches) - {self._own}
        ours = [at for at in event.branches if at[1].incarnation == self._own]
        aborted = frozenset(at for at in ours if at[1].commit_epoch in event.dropped)
        # Proven by our own marker; perhaps finished once, by a participant that was set back since.
        proven = frozenset(at for at in ours if at[1].commit_epoch == event.committed)
        if aborted or proven:
            return self._clear(aborted, ScanState.CLEARING_OWN, proven)
        return self._look_at_others()

    def _clear(
        self,
        roll_backs: frozenset[BranchAt],
        state: ScanState,
        commits: frozenset[BranchAt] = frozenset(),
    ) -> list[ScanEffect]:
        self.state = state
        self._rolled_back += len(roll_backs)
        return [FinishBranches(commits, roll_backs)]

    def _own_cleared(self, _: BranchesFinished) -> list[ScanEffect]:
        return self._look_at_others()

    def _look_at_others(self) -> list[ScanEffect]:
        if not self._others:
            return self._end()
        self.state = ScanState.READING
        return [ReadAllMarkers()]

    def _markers_read(self, event: AllMarkersRead) -> list[ScanEffect]:
        self._others -= _unreleased(event.markers)
        if not self._others:
            return self._end()
        self.state = ScanState.FENCING
        return [FenceIncarnations(self._others)]

    def _fenced(self, _: IncarnationsFenced) -> list[ScanEffect]:
        self.state = ScanState.LISTING_AGAIN
        return [ListBranches(self._others)]

    def _listed_again(self, event: BranchesListed) -> list[ScanEffect]:
        self._listed = frozenset(at for at in event.branches if at[1].incarnation in self._others)
        if not self._listed:
            return self._end()
        self.state = ScanState.READING_AGAIN
        return [ReadAllMarkers()]

    def _markers_read_again(self, event: AllMarkersRead) -> list[ScanEffect]:
        living, committed = _unreleased(event.markers), epochs_named(event.markers)
        left = frozenset(
            at
            for at in self._listed
            if at[1].incarnation not in living
            and at[1].commit_epoch not in committed.get(at[1].incarnation, frozenset())
        )
        return self._clear(left, ScanState.CLEARING) if left else self._end()

    def _cleared(self, _: BranchesFinished) -> list[ScanEffect]:
        return self._end()

    def _end(self) -> list[ScanEffect]:
        self.state = ScanState.DONE
        return [ScanEnded(self._rolled_back)]

    TRANSITIONS: ClassVar[
        Mapping[tuple[ScanState, type[BranchEvent]], Callable[..., list[ScanEffect]]]
    ] = {
        (ScanState.LISTING, BranchesListed): _all_listed,
        (ScanState.CLEARING_OWN, BranchesFinished): _own_cleared,
        (ScanState.READING, AllMarkersRead): _markers_read,
        (ScanState.FENCING, IncarnationsFenced): _fenced,
        (ScanState.LISTING_AGAIN, BranchesListed): _listed_again,
        (ScanState.READING_AGAIN, AllMarkersRead): _markers_read_again,
        (ScanState.CLEARING, BranchesFinished): _cleared,
    }
    """Every legal step; any other pair is a bug and refused."""


def _unreleased(markers: Mapping[Partition, CommittedOffset]) -> frozenset[Incarnation]:
    """Incarnations that a marker names as an owner that may still write."""
    return frozenset(
        found.marker.incarnation
        for found in markers.values()
        if found.marker is not None and found.marker.released is Handover.HELD
    )
