"""What resolving branches asks for, and what it is told: shared by takeovers and the scan.

``branches.BranchResolution`` and ``scan.BranchScan`` return these effects; each is answered by
exactly one of its events, and nothing else is under way meanwhile. Participants and brokers that do
not answer are asked again by who performs the effect, for as long as it takes, with an alarm.
Values only; must never import anything that acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from onceflow.decisions.marker import NO_COMMIT_EPOCH
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.decisions.marker import CommittedOffset

BranchAt = tuple[str, BranchId]
"""A branch in one participant, which is told by its name."""


class Participants(Enum):
    """Whether an app has two-phase sinks."""

    NONE = auto()
    CONFIGURED = auto()


# Effects


@dataclass(frozen=True, slots=True)
class FenceIncarnations:
    """``init_transactions`` with both transactional ids, ``<app>.<incarnation>.0`` and ``.1``."""

    incarnations: frozenset[Incarnation]


@dataclass(frozen=True, slots=True)
class ListBranches:
    """Wait, then list the prepared branches of these incarnations in every participant.

    ``incarnations``: None for those of everybody. Answered by ``BranchesListed``.
    """

    incarnations: frozenset[Incarnation] | None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReadAllMarkers:
    """Read offsets and markers of *all* partitions that the app consumes, stable.

    Begun only when everything before it is done: what is read must be younger than the fence and
    the list. Answered by ``AllMarkersRead``.
    """


@dataclass(frozen=True, slots=True)
class FinishBranches:
    """Commit these branches, roll those back. Answered by ``BranchesFinished``."""

    commits: frozenset[BranchAt]
    roll_backs: frozenset[BranchAt]


@dataclass(frozen=True, slots=True)
class RaiseMarkers:
    """Raise the marker rows of these incarnations in every participant.

    Tried once, not again: a row that cannot be raised may be held by a branch, which has to be
    listed first. Answered by ``MarkersRaised`` or ``RaiseRefused``.
    """

    incarnations: frozenset[Incarnation]


@dataclass(frozen=True, slots=True)
class ReadMarkerRows:
    """Read the marker rows of these incarnations. Answered by ``MarkerRowsRead``."""

    incarnations: frozenset[Incarnation]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Nothing that the taken partitions need is left in participants."""


class Contradiction(Enum):
    """How a participant's marker row contradicts what Kafka committed."""

    BEHIND = auto()
    """Rows of committed epochs are missing in the participant."""
    AHEAD = auto()
    """The participant has rows of an epoch that Kafka knows nothing of."""


@dataclass(frozen=True, slots=True)
class HeuristicFound:
    """A participant and Kafka contradict each other: record it for ever, exit 4."""

    message: str
    participant: str
    branch: BranchId
    """The last epoch that the one shows and the other does not."""
    contradiction: Contradiction


@dataclass(frozen=True, slots=True)
class SinksMissing:
    """An owner wrote into sinks that the app does not have, and did not end in order: exit 2."""

    message: str


@dataclass(frozen=True, slots=True)
class ScanEnded:
    """The scan is over; how many branches it rolled back."""

    rolled_back: int


BranchEffect = (
    FenceIncarnations
    | ListBranches
    | ReadAllMarkers
    | FinishBranches
    | RaiseMarkers
    | ReadMarkerRows
)
"""What resolving and scanning have in common."""


# Events


@dataclass(frozen=True, slots=True)
class IncarnationsFenced:
    """Result of ``FenceIncarnations``: their open transactions are ended."""


@dataclass(frozen=True, slots=True)
class BranchesListed:
    """Result of ``ListBranches``.

    Args:
        branches: everything that was asked for.
        dropped: for a scan, ``CommitEpochs.branch.dropped``, taken after the list was read.
        committed: for a scan, ``CommitEpochs.branch.last_committed``, taken with it.
    """

    branches: frozenset[BranchAt]
    dropped: frozenset[CommitEpoch] = frozenset()
    committed: CommitEpoch = NO_COMMIT_EPOCH


@dataclass(frozen=True, slots=True)
class AllMarkersRead:
    """Result of ``ReadAllMarkers``."""

    markers: Mapping[Partition, CommittedOffset]


@dataclass(frozen=True, slots=True)
class BranchesFinished:
    """Result of ``FinishBranches``; ``missing``: to be committed, neither listed nor shown."""

    missing: frozenset[BranchAt] = frozenset()


@dataclass(frozen=True, slots=True)
class MarkersRaised:
    """Result of ``RaiseMarkers``: no late PREPARE of them can succeed any more."""


@dataclass(frozen=True, slots=True)
class RaiseRefused:
    """Result of ``RaiseMarkers``: a participant did not raise; what is listed there comes first."""


@dataclass(frozen=True, slots=True)
class MarkerRowsRead:
    """Result of ``ReadMarkerRows``: the last committed epoch by participant and incarnation.

    An entry for every configured participant and every incarnation asked for; 0 for what never
    committed there.
    """

    rows: Mapping[tuple[str, Incarnation], CommitEpoch]


BranchEvent = (
    IncarnationsFenced
    | BranchesListed
    | AllMarkersRead
    | BranchesFinished
    | MarkersRaised
    | RaiseRefused
    | MarkerRowsRead
)
"""Everything that ``BranchResolution.handle`` and ``BranchScan.handle`` take."""


def epochs_named(
    markers: Mapping[Partition, CommittedOffset],
) -> dict[Incarnation, frozenset[CommitEpoch]]:
    """By incarnation the k of the markers that name it: epochs with participants, committed."""
    named: dict[Incarnation, frozenset[CommitEpoch]] = {}
    for committed in markers.values():
        marker = committed.marker
        if marker is not None:
            before = named.get(marker.incarnation, frozenset[CommitEpoch]())
            named[marker.incarnation] = before | {marker.with_participants}
    return named
