"""Resolving what an earlier owner left in participants, before its partitions are claimed.

Theory. A branch of a committed epoch is named by k of a marker, so *presence is proof*. Absence is
proof only if the incarnation is fenced after the branch was listed, and the markers of all the
app's partitions are read after that: whatever it had on its way is committed or dead by then.
Hence the order list, fence, read, act, on what was listed alone. An owner that released its
partition is alive elsewhere; of its branches only the proven ones are committed, the others are its
own business. Who did not release is raised against in every participant, so that a PREPARE that is
still on its way fails, and then listed again.

After that the marker rows are compared with Kafka: a row behind a committed epoch, or ahead of
every one, means that either side was restored or lost commits. Must never import clocks or I/O.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Final

from onceflow.decisions.branch_steps import (
    AllMarkersRead,
    BranchesFinished,
    BranchesListed,
    BranchEvent,
    Contradiction,
    FenceIncarnations,
    FinishBranches,
    HeuristicFound,
    IncarnationsFenced,
    ListBranches,
    MarkerRowsRead,
    MarkersRaised,
    RaiseMarkers,
    RaiseRefused,
    ReadAllMarkers,
    ReadMarkerRows,
    Resolved,
    SinksMissing,
    epochs_named,
)
from onceflow.decisions.epoch_waits import Waits
from onceflow.decisions.marker import NO_COMMIT_EPOCH, Handover
from onceflow.decisions.transitions import handler_of
from onceflow.errors import invariant
from onceflow.ids import BranchId, CommitEpoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from onceflow.decisions.branch_steps import BranchAt, BranchEffect
    from onceflow.decisions.marker import CommittedOffset, Marker
    from onceflow.ids import Incarnation, Partition

    ResolutionEffect = BranchEffect | Resolved | HeuristicFound | SinksMissing


class ResolutionState(Enum):
    """Where a resolution stands."""

    IDLE = auto()
    LISTING = auto()
    FENCING = auto()
    READING = auto()
    FINISHING = auto()
    RAISING = auto()
    COMPARING = auto()
    DONE = auto()
    FAILED = auto()


class BranchResolution:
    """The branches of everybody whom the markers of the taken partitions name, ourselves included.

    No transaction of ours is open while it runs.
    """

    def __init__(self, own: Incarnation, taken: Mapping[Partition, CommittedOffset]) -> None:
        """Begin.

        Args:
            own: our incarnation.
            taken: the stable markers of the partitions that are taken over.
        """
        markers = [found.marker for found in taken.values() if found.marker is not None]
        self._own: Final = own
        self._named: Final = frozenset(marker.incarnation for marker in markers)
        self._unreleased: Final = frozenset(unreleased_owners(taken, own))
        """Owners that did not say goodbye: to be fenced, judged and raised against."""
        self._taken: Final = {
            marker.incarnation: marker
            for marker in sorted(markers, key=lambda each: each.with_participants)
        }
        """Of each incarnation the taken marker with its last epoch with participants."""
        self._committed = epochs_named(taken)
        """Epochs proven to be committed. Advanced by each reading. Invariant: only grows."""
        self._listed: frozenset[BranchAt] = frozenset()
        """The list that is acted upon. Invariant: older than the fence and the markers read."""
        self._fenced: frozenset[Incarnation] = frozenset()
        """Fenced since ``_listed`` was read; only their branches may be rolled back."""
        self._missing: frozenset[BranchAt] = frozenset()
        """Committed in Kafka, listed, and gone when they were to be committed."""
        self._raised = not self._unreleased
        """Whether no late PREPARE can succeed. Invariant: true when the resolution is done."""
        self._waits: Final = Waits()
        self.state = ResolutionState.IDLE
        """Advanced by ``handle`` along ``TRANSITIONS``."""

    @property
    def settled(self) -> dict[Incarnation, CommitEpoch]:
        """Who can prepare nothing more and has no branch left, each with its last proven epoch.

        Empty until the resolution is done; 0 for who never committed an epoch with participants.
        """
        if self.state is not ResolutionState.DONE:
            return {}
        return {
            each: max(self._committed.get(each, ()), default=NO_COMMIT_EPOCH)
            for each in sorted(self._unreleased)
        }

    def begin(self) -> list[ResolutionEffect]:
        """Return what to do first."""
        if not self._named:
            return self._done()
        return self._list()

    def handle(self, event: BranchEvent) -> list[ResolutionEffect]:
        """Take what happened, return what to do, in order.

        Raises:
            InvariantViolation: INV-TAKEOVER-2, an event that cannot happen in this state: a bug.
        """
        return handler_of(self.TRANSITIONS, self.state, event)(self, event)

    def _list(self, after_s: float = 0.0) -> list[ResolutionEffect]:
        self.state = ResolutionState.LISTING
        self._fenced = frozenset()
        return [ListBranches(self._named, after_s)]

    def _is_committed(self, branch: BranchId) -> bool:
        return branch.commit_epoch in self._committed.get(branch.incarnation, frozenset())

    def _is_ours_to_judge(self, branch: BranchId) -> bool:
        """Whether absence may be concluded: who released is alive and judges by itself."""
        return branch.incarnation in self._unreleased or branch.incarnation == self._own

    def _branches_listed(self, event: BranchesListed) -> list[ResolutionEffect]:
        self._listed = frozenset(
            at
            for at in event.branches
            if at[1].incarnation in self._named
            and (self._is_committed(at[1]) or self._is_ours_to_judge(at[1]))
        )
        unproven = {at[1].incarnation for at in self._listed if not self._is_committed(at[1])}
        if to_fence := frozenset(unproven - {self._own}):
            self.state = ResolutionState.FENCING
            self._fenced = to_fence
            return [FenceIncarnations(to_fence)]
        if unproven:
            return self._read()
        return self._finish() if self._listed else self._cleared()

    def _incarnations_fenced(self, _: IncarnationsFenced) -> list[ResolutionEffect]:
        return self._read()

    def _read(self) -> list[ResolutionEffect]:
        self.state = ResolutionState.READING
        return [ReadAllMarkers()]

    def _markers_read(self, event: AllMarkersRead) -> list[ResolutionEffect]:
        for incarnation, named in epochs_named(event.markers).items():
            before = self._committed.get(incarnation, frozenset[CommitEpoch]())
            self._committed[incarnation] = before | named
        return self._finish()

    def _finish(self) -> list[ResolutionEffect]:
        commits = frozenset(at for at in self._listed if self._is_committed(at[1]))
        roll_backs = self._listed - commits
        invariant(
            all(at[1].incarnation in self._fenced | {self._own} for at in roll_backs),
            "INV-2PC-3: absence of a marker is concluded only after its incarnation is fenced",
            roll_backs=roll_backs,
            fenced=self._fenced,
        )
        self.state = ResolutionState.FINISHING
        return [FinishBranches(commits, roll_backs)]

    def _finished(self, event: BranchesFinished) -> list[ResolutionEffect]:
        self._missing |= event.missing
        return self._raise() if not self._raised else self._list()

    def _cleared(self) -> list[ResolutionEffect]:
        """Nothing of theirs is listed."""
        return self._raise() if not self._raised else self._compare()

    def _raise(self) -> list[ResolutionEffect]:
        self.state = ResolutionState.RAISING
        return [RaiseMarkers(self._unreleased)]

    def _rows_raised(self, _: MarkersRaised) -> list[ResolutionEffect]:
        # What was prepared between the list and the raise is there for good: look again.
        self._raised = True
        return self._list()

    def _raise_refused(self, _: RaiseRefused) -> list[ResolutionEffect]:
        self._waits.participant_refused()
        self._waits.given_up()
        return self._list(self._waits.take())

    def _compare(self) -> list[ResolutionEffect]:
        self.state = ResolutionState.COMPARING
        return [ReadMarkerRows(self._named)]

    def _rows_read(self, event: MarkerRowsRead) -> list[ResolutionEffect]:
        configured = frozenset(participant for participant, _ in event.rows)
        owners = {each: self._taken[each] for each in self._unreleased}
        if (message := not_configured(owners, configured)) is not None:
            return self._fail(SinksMissing(message))
        for participant, branch in sorted(self._missing):
            shown = event.rows.get((participant, branch.incarnation), NO_COMMIT_EPOCH)
            if shown < branch.commit_epoch:
                return self._fail(_behind(participant, branch, shown))
        for (participant, incarnation), shown in sorted(event.rows.items()):
            marker = self._taken.get(incarnation)
            # Who was added to the app since then took no part, and is not behind.
            expected = NO_COMMIT_EPOCH
            if marker is not None and participant in marker.participants:
                expected = marker.with_participants
            if shown < expected:
                return self._fail(_behind(participant, BranchId(incarnation, expected), shown))
            last = max(self._committed.get(incarnation, ()), default=NO_COMMIT_EPOCH)
            if incarnation in self._unreleased and shown > last:
                return self._fail(_ahead(participant, BranchId(incarnation, shown), last))
        return self._done()

    def _done(self) -> list[ResolutionEffect]:
        invariant(
            self._raised and not self._listed,
            "INV-2PC-4: after recovery no branch of a superseded incarnation remains",
            listed=self._listed,
            unreleased=self._unreleased,
        )
        self.state = ResolutionState.DONE
        return [Resolved()]

    def _fail(self, found: HeuristicFound | SinksMissing) -> list[ResolutionEffect]:
        self.state = ResolutionState.FAILED
        return [found]

    TRANSITIONS: ClassVar[
        Mapping[tuple[ResolutionState, type[BranchEvent]], Callable[..., list[ResolutionEffect]]]
    ] = {
        (ResolutionState.LISTING, BranchesListed): _branches_listed,
        (ResolutionState.FENCING, IncarnationsFenced): _incarnations_fenced,
        (ResolutionState.READING, AllMarkersRead): _markers_read,
        (ResolutionState.FINISHING, BranchesFinished): _finished,
        (ResolutionState.RAISING, MarkersRaised): _rows_raised,
        (ResolutionState.RAISING, RaiseRefused): _raise_refused,
        (ResolutionState.COMPARING, MarkerRowsRead): _rows_read,
    }
    """Every legal step; any other pair is a bug and refused."""


def unreleased_owners(
    taken: Mapping[Partition, CommittedOffset], own: Incarnation
) -> dict[Incarnation, Marker]:
    """Owners other than ourselves that did not say goodbye, each with its last k."""
    markers = [found.marker for found in taken.values() if found.marker is not None]
    return {
        marker.incarnation: marker
        for marker in sorted(markers, key=lambda each: each.with_participants)
        if marker.released is Handover.HELD and marker.incarnation != own
    }


def not_configured(
    owners: Mapping[Incarnation, Marker], configured: AbstractSet[str]
) -> str | None:
    """Why nothing can be claimed from owners that wrote into sinks which are not configured.

    Only of owners that did not release: who left in order has finished, within a bound.

    Args:
        owners: who did not release, each with the marker of its last k.
        configured: names of the app's participants.
    """
    for incarnation, marker in sorted(owners.items(), key=lambda each: each[0]):
        gone = sorted(frozenset(marker.participants) - configured)
        if gone:
            return (
                f"worker {incarnation} did not end in order, and wrote into sinks that this app "
                f"does not have any more: {', '.join(gone)}. The rows of its last epoch may be "
                f"prepared there, and nobody would finish them. Nothing was consumed. Start the "
                f"app once with these sinks, stop it in order, then remove them."
            )
    return None


def _behind(participant: str, expected: BranchId, shown: CommitEpoch) -> HeuristicFound:
    message = (
        f"the sink {participant} shows epoch {shown} of worker {expected.incarnation}, but Kafka "
        f"committed its epoch {expected.commit_epoch}, and no prepared branch of it is left: rows "
        f"of committed records are missing in the sink. It was restored from an older state, "
        f"failed over without its prepared transactions, or somebody rolled one back by hand. "
        f"Going on would hide the loss. Stop all workers, compare the sink with the topics, then "
        f"decide by hand."
    )
    return HeuristicFound(message, participant, expected, Contradiction.BEHIND)


def _ahead(participant: str, shown: BranchId, last: CommitEpoch) -> HeuristicFound:
    message = (
        f"the sink {participant} shows epoch {shown.commit_epoch} of worker {shown.incarnation}, "
        f"but the last one with rows that Kafka knows of it is {last}: Kafka lost commits, or the "
        f"group's offsets were set back. Going on would write rows twice. Stop all workers, find "
        f"out what happened to the group's offsets, compare the sink with the topics, then decide "
        f"by hand."
    )
    return HeuristicFound(message, participant, shown, Contradiction.AHEAD)
