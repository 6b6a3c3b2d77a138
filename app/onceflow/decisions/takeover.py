"""Taking over partitions: fence the last owners, clear participants, restore, then claim.

Decides the order of the steps (ARCHITECTURE, section 4), and nothing else. Theory: offsets
can be trusted only after everybody who might still commit them is fenced, so the first reading
(unstable, it may show an old marker) only names whom to fence, and the second (stable) counts. If
the second names somebody else who was not fenced, the round is repeated for that one. Who released
a partition, or is ourselves, is not fenced. Where the app has two-phase participants, what those
owners left there is resolved next (``branches``), before the first record and before the claim.

Must never import clocks, I/O or Faust: waiting and reading are effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, ClassVar, Final

from onceflow.decisions.branch_steps import (
    AllMarkersRead,
    BranchEffect,
    BranchEvent,
    FenceIncarnations,
    HeuristicFound,
    IncarnationsFenced,
    Participants,
    Resolved,
    SinksMissing,
)
from onceflow.decisions.branches import (
    BranchResolution,
    ResolutionState,
    not_configured,
    unreleased_owners,
)
from onceflow.decisions.epoch_events import Start
from onceflow.decisions.marker import CommittedOffset, Handover, claim_attempts
from onceflow.decisions.transitions import handler_of
from onceflow.errors import invariant
from onceflow.limits import PENDING_READS_MAX, PENDING_RETRY_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition


class ResetPolicy(StrEnum):
    """Where a partition starts that has no committed offset."""

    EARLIEST = "earliest"
    LATEST = "latest"


# Events


@dataclass(frozen=True, slots=True)
class Begin:
    """The stores are closed, no transaction of ours is open: start."""


@dataclass(frozen=True, slots=True)
class LastMarkersRead:
    """Result of ``ReadLastMarkers``, for every partition asked."""

    markers: Mapping[Partition, CommittedOffset]


@dataclass(frozen=True, slots=True)
class StableMarkersRead:
    """Result of ``ReadStableMarkers``: no transaction with these offsets is open."""

    markers: Mapping[Partition, CommittedOffset]


@dataclass(frozen=True, slots=True)
class StillPending:
    """Result of ``ReadStableMarkers``: an open transaction holds these offsets back."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class LogBounds:
    """First offset still in a partition's log, and the one after the last (high watermark)."""

    log_start_offset: Offset
    log_end_offset: Offset


@dataclass(frozen=True, slots=True)
class LogBoundsRead:
    """Result of ``ReadLogBounds``."""

    bounds: Mapping[Partition, LogBounds]


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of ``RestoreTasks``: the stores hold every committed change."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The group changed its mind: results that are still on the way are ignored."""


TakeoverEvent = (
    Begin
    | Cancel
    | LastMarkersRead
    | StableMarkersRead
    | StillPending
    | LogBoundsRead
    | Restored
    | BranchEvent
)


# Effects


@dataclass(frozen=True, slots=True)
class ReadLastMarkers:
    """Read committed offsets and metadata, *not* stable: pending ones must not hold it up."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class ReadStableMarkers:
    """Wait, then read committed offsets and metadata, stable and read_committed.

    Answered by ``StableMarkersRead``, or ``StillPending`` when it times out.
    """

    partitions: frozenset[Partition]
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AlarmPending:
    """Tell people: an open transaction of an unknown owner holds these offsets back."""

    partitions: frozenset[Partition]
    waited_reads: int


@dataclass(frozen=True, slots=True)
class ReadLogBounds:
    """Read log start and high watermark (read_uncommitted) of the input partitions."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class RestoreTasks:
    """Open the stores of these partitions' tasks and restore them up to the high watermark."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class ReadyToClaim:
    """Done: give ``starts`` to ``CommitEpochs`` as ``TakenOver``."""

    starts: Mapping[Partition, Start]
    settled: Mapping[Incarnation, CommitEpoch] = field(
        default_factory=dict["Incarnation", "CommitEpoch"]
    )
    """Fenced owners that have no branch left and prepare no other; see ``BranchResolution``."""


@dataclass(frozen=True, slots=True)
class TakeoverFailed:
    """Cannot be taken over: leave the process with this code."""

    message: str
    exit_code: int
    heuristic: HeuristicFound | None = None
    """Set if a participant contradicts Kafka."""


TakeoverEffect = (
    ReadLastMarkers
    | BranchEffect
    | ReadStableMarkers
    | AlarmPending
    | ReadLogBounds
    | RestoreTasks
    | ReadyToClaim
    | TakeoverFailed
)


class TakeoverState(Enum):
    """Where a takeover stands."""

    IDLE = auto()
    READING_LAST = auto()
    FENCING = auto()
    READING_STABLE = auto()
    RESOLVING = auto()
    """What earlier owners left in participants is being finished or rolled back."""
    READING_BOUNDS = auto()
    RESTORING = auto()
    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()


@dataclass(frozen=True, slots=True)
class TakeoverOptions:
    """What a takeover needs to know besides the partitions.

    ``pending_reads_max`` times ``PENDING_RETRY_S`` must exceed the transaction timeout and the
    broker's interval of looking for timed-out transactions (10 s), else a claim that died half-way
    would end the worker instead of being waited out.
    """

    own: Incarnation
    reset_policy: ResetPolicy
    pending_reads_max: int = PENDING_READS_MAX
    participants: Participants = Participants.NONE


class Takeover:
    """One takeover of a fixed set of partitions; a change of the assignment needs another one."""

    def __init__(self, partitions: frozenset[Partition], options: TakeoverOptions) -> None:
        invariant(partitions, "INV-TAKEOVER-1: a takeover has partitions")
        self._partitions: Final = partitions
        self._options: Final = options
        self.state = TakeoverState.IDLE
        """Advanced by ``handle`` along ``TRANSITIONS``. Invariant: DONE only after every owner
        that might still commit is fenced, and after the restore."""
        self._fenced: frozenset[Incarnation] = frozenset()
        """Whom this takeover fenced; grows before each stable read. Invariant: every unreleased
        foreign incarnation of the markers that are acted upon is in it."""
        self._being_fenced: frozenset[Incarnation] = frozenset()
        """Whom the ``FenceIncarnations`` on the way names; empty outside FENCING."""
        self._pending_reads = 0
        """Stable reads that found pending offsets, in a row; advanced by ``StillPending``."""
        self._committed: Mapping[Partition, CommittedOffset] = {}
        """The stable reading that is acted upon; set once, before READING_BOUNDS."""
        self._branches: BranchResolution | None = None
        """Of the stable reading that is acted upon; None without participants. Invariant
        (INV-2PC-5): done before READING_BOUNDS."""
        self._starts: Mapping[Partition, Start] = {}
        """Decided once, before RESTORING. Invariant: never below what is committed."""

    def handle(self, event: TakeoverEvent) -> list[TakeoverEffect]:
        """Take what happened, return what to do, in order.

        Raises:
            InvariantViolation: INV-TAKEOVER-2, an event that cannot happen in this state: a bug.
        """
        if isinstance(event, Cancel):
            self.state = TakeoverState.CANCELLED
            return []
        if self.state in (TakeoverState.CANCELLED, TakeoverState.FAILED):
            return []
        if self.state is TakeoverState.RESOLVING and isinstance(event, BranchEvent):
            return self._branches_told(event)
        return handler_of(self.TRANSITIONS, self.state, event)(self, event)

    def _begin(self, event: Begin) -> list[TakeoverEffect]:
        _ = event
        self.state = TakeoverState.READING_LAST
        return [ReadLastMarkers(self._partitions)]

    def _last_markers(self, event: LastMarkersRead) -> list[TakeoverEffect]:
        markers = event.markers
        to_fence = self._to_fence(markers)
        return self._fence(to_fence) if to_fence else self._read_stable(after_s=0.0)

    def _to_fence(self, markers: Mapping[Partition, CommittedOffset]) -> frozenset[Incarnation]:
        """Unreleased foreign incarnations that this takeover has not fenced."""
        invariant(
            frozenset(markers) == self._partitions,
            "INV-TAKEOVER-3: markers are read of all partitions taken over, and of no other",
            asked=self._partitions,
            read=set(markers),
        )
        named = {
            committed.marker.incarnation
            for committed in markers.values()
            if committed.marker is not None and committed.marker.released is Handover.HELD
        }
        return frozenset(named - self._fenced - {self._options.own})

    def _fence(self, incarnations: frozenset[Incarnation]) -> list[TakeoverEffect]:
        self._being_fenced = incarnations
        self.state = TakeoverState.FENCING
        return [FenceIncarnations(incarnations)]

    def _fenced_now(self, event: IncarnationsFenced) -> list[TakeoverEffect]:
        _ = event
        self._fenced |= self._being_fenced
        self._being_fenced = frozenset()
        return self._read_stable(after_s=0.0)

    def _read_stable(self, *, after_s: float) -> list[TakeoverEffect]:
        self.state = TakeoverState.READING_STABLE
        return [ReadStableMarkers(self._partitions, after_s)]

    def _still_pending(self, event: StillPending) -> list[TakeoverEffect]:
        partitions = event.partitions
        self._pending_reads += 1
        if self._pending_reads >= self._options.pending_reads_max:
            return self._fail(
                f"offsets of {_names(partitions)} are still held back by an open transaction after "
                f"{self._pending_reads} readings, longer than a transaction may last. Nothing was "
                f"consumed. Look for a hanging transaction of this group "
                f"(kafka-transactions.sh find-hanging), end it, then start again.",
                exit_code=3,
            )
        alarm = AlarmPending(partitions, self._pending_reads)
        return [alarm, *self._read_stable(after_s=PENDING_RETRY_S)]

    def _stable_markers(self, event: StableMarkersRead) -> list[TakeoverEffect]:
        markers = event.markers
        to_fence = self._to_fence(markers)
        if to_fence:
            # What was pending at the first reading committed in between and names an owner whom
            # nobody fenced: it may still write.
            return self._fence(to_fence)
        self._pending_reads = 0
        self._committed = markers
        if self._options.participants is Participants.NONE:
            message = not_configured(unreleased_owners(markers, self._options.own), frozenset())
            return self._read_bounds() if message is None else self._fail(message, exit_code=2)
        self.state = TakeoverState.RESOLVING
        self._branches = BranchResolution(self._options.own, markers)
        return self._resolve(self._branches, self._branches.begin())

    def _branches_told(self, event: BranchEvent) -> list[TakeoverEffect]:
        if isinstance(event, AllMarkersRead) and any(
            event.markers[partition] != self._committed[partition] for partition in self._partitions
        ):
            # What the resolution is about is not what is committed any more: begin again.
            return self._read_stable(after_s=0.0)
        branches = self._branches
        return [] if branches is None else self._resolve(branches, branches.handle(event))

    def _resolve(
        self,
        branches: BranchResolution,
        steps: Sequence[BranchEffect | Resolved | HeuristicFound | SinksMissing],
    ) -> list[TakeoverEffect]:
        effects: list[TakeoverEffect] = []
        for step in steps:
            match step:
                case Resolved():
                    invariant(
                        branches.state is ResolutionState.DONE,
                        "INV-2PC-5: nothing is claimed over an unfinished branch",
                        state=branches.state,
                    )
                    effects += self._read_bounds()
                case HeuristicFound():
                    self.state = TakeoverState.FAILED
                    effects.append(TakeoverFailed(step.message, 4, step))
                case SinksMissing():
                    effects += self._fail(step.message, exit_code=2)
                case _:
                    effects.append(step)
        return effects

    def _read_bounds(self) -> list[TakeoverEffect]:
        self.state = TakeoverState.READING_BOUNDS
        return [ReadLogBounds(self._partitions)]

    def _log_bounds(self, event: LogBoundsRead) -> list[TakeoverEffect]:
        bounds = event.bounds
        starts: dict[Partition, Start] = {}
        for partition in sorted(self._partitions):
            committed, bound = self._committed[partition], bounds[partition]
            problem = _out_of_log(partition, committed.offset, bound)
            if problem is not None:
                return self._fail(problem, exit_code=4)
            starts[partition] = self._start(committed, bound)
        self._starts = starts
        self.state = TakeoverState.RESTORING
        return [RestoreTasks(self._partitions)]

    def _start(self, committed: CommittedOffset, bound: LogBounds) -> Start:
        if committed.offset is None:
            earliest = self._options.reset_policy is ResetPolicy.EARLIEST
            return Start(bound.log_start_offset if earliest else bound.log_end_offset)
        if committed.offset == bound.log_end_offset:
            # There is no record that a lost owner could have begun.
            return Start(committed.offset)
        attempts = claim_attempts(committed.marker, committed.offset, committed.offset)
        return Start(committed.offset, attempts)

    def _restored(self, event: Restored) -> list[TakeoverEffect]:
        _ = event
        invariant(
            not self._to_fence(self._committed) and frozenset(self._starts) == self._partitions,
            "INV-TAKEOVER-4: claimed only when every earlier owner is fenced and starts are known",
            starts=self._starts,
        )
        self.state = TakeoverState.DONE
        settled = {} if self._branches is None else self._branches.settled
        return [ReadyToClaim(self._starts, settled)]

    def _fail(self, message: str, *, exit_code: int) -> list[TakeoverEffect]:
        self.state = TakeoverState.FAILED
        return [TakeoverFailed(message, exit_code)]

    TRANSITIONS: ClassVar[
        Mapping[
            tuple[TakeoverState, type[TakeoverEvent]],
            Callable[..., list[TakeoverEffect]],
        ]
    ] = {
        (TakeoverState.IDLE, Begin): _begin,
        (TakeoverState.READING_LAST, LastMarkersRead): _last_markers,
        (TakeoverState.FENCING, IncarnationsFenced): _fenced_now,
        (TakeoverState.READING_STABLE, StableMarkersRead): _stable_markers,
        (TakeoverState.READING_STABLE, StillPending): _still_pending,
        (TakeoverState.READING_BOUNDS, LogBoundsRead): _log_bounds,
        (TakeoverState.RESTORING, Restored): _restored,
    }
    """Every legal step; in RESOLVING those of ``branches``. ``Cancel`` is legal in each state;
    CANCELLED and FAILED ignore the rest; any other pair is a bug and refused."""


def _names(partitions: frozenset[Partition]) -> str:
    return ", ".join(f"{partition.topic}[{partition.number}]" for partition in sorted(partitions))


def _out_of_log(partition: Partition, offset: Offset | None, bound: LogBounds) -> str | None:
    """Why processing cannot go on at a committed offset, or None."""
    if offset is None or bound.log_start_offset <= offset <= bound.log_end_offset:
        return None
    where = f"{partition.topic}[{partition.number}]"
    if offset < bound.log_start_offset:
        return (
            f"records {offset} to {bound.log_start_offset - 1} of {where} are gone before they "
            f"were processed (retention, or records deleted). Going on would lose them silently. "
            f"Restore them, or accept the loss: stop all workers and set the group's offset "
            f"(kafka-consumer-groups.sh --reset-offsets)."
        )
    return (
        f"offset {offset} of {where} was committed, but its log ends at {bound.log_end_offset}: "
        f"the topic was truncated or recreated. Going on would skip or double records. Find out "
        f"what happened to the topic, then stop all workers and set the group's offset knowingly "
        f"(kafka-consumer-groups.sh --reset-offsets)."
    )
