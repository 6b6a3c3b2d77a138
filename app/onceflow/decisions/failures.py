"""What becomes of records that cannot be decoded, on which an agent raises, or that take too long.

Decides retries, isolation and the end of them. Theory of operation: a failed
attempt is always aborted and replayed, because the failing record may have written half of its
effects. A failing batch is halved on each replay until one record is left; ``plan`` then cuts the
epochs so that this record is the first and only one of its epoch. Its marker pins it there, and
counts each attempt *before* it begins (``epoch_events.NoteAttempt``), so that a record that kills
the process is counted too. Once the attempts are used up, the replay asks ``ending`` and gives the
record to the dead-letter topic (or skips it, or stops) instead of to the agent.

A process that dies without a failed record leaves no blame, and the record may be thousands behind
the committed offset. Once ``PROBATION_ATTEMPTS`` owners were lost at one offset, the record there
is tried alone, and what follows is read carefully: epochs of 1, 4, 16 ... records of one partition
at a time. If the process dies again, its commits have come closer to the record. An ordinary kill,
with progress before the next one, costs nothing.

Must never import anything that acts; waiting is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Final

from onceflow.decisions.marker import PROBATION_ATTEMPTS, noted_attempts
from onceflow.errors import invariant
from onceflow.ids import Offset, Partition
from onceflow.limits import CAREFUL_GROWTH, CAREFUL_RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onceflow.decisions.epoch_events import Start


class Ending(StrEnum):
    """What happens to a record whose attempts are used up."""

    DEAD_LETTER = "dead_letter"
    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class FailureOptions:
    """An agent's ``on_error``. Without retries ``retries_max`` is 0."""

    ending: Ending = Ending.DEAD_LETTER
    retries_max: int = 3
    backoff_s: float = 0.1
    """Before the first retry; doubles with each further one."""
    backoff_s_max: float = 5.0


class FailureKind(StrEnum):
    """How a record failed."""

    DECODE = "decode"
    """Its bytes cannot be read; nothing of it was begun, and no retry can change that."""
    RAISED = "raised"
    TOO_SLOW = "too_slow"


@dataclass(frozen=True, slots=True)
class Failure:
    """One record, or the batch that an agent took as a whole, failed.

    Records from ``offset`` up to, not including, ``end_offset``; ``count`` of them, because offsets
    may have gaps.
    """

    partition: Partition
    offset: Offset
    end_offset: Offset
    count: int
    agent: str
    kind: FailureKind
    error: str


@dataclass(frozen=True, slots=True)
class EndNow:
    """Apply the ending here, in this attempt: nothing of the record was begun."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Replay:
    """Abort and replay (``epoch_events.RecordFailed``); its partition waits before the next try.

    ``stop_message``: leave the process after the abort instead.
    """

    after_s: float = 0.0
    stop_message: str | None = None


@dataclass(frozen=True, slots=True)
class ReadUpTo:
    """Read ``partition`` up to ``offset`` and no further, then end the epoch (``ISOLATION``).

    When the next record in hand is not below it (offsets have gaps), its readers are at ``offset``
    all the same. Other partitions are read at will.
    """

    partition: Partition
    offset: Offset


@dataclass(frozen=True, slots=True)
class NoteFirst:
    """Send ``epoch_events.NoteAttempt`` and yield nothing before its epoch is committed."""

    partition: Partition


@dataclass(frozen=True, slots=True)
class TryAlone:
    """Give the next ``records`` records of ``partition`` to the agents, then end the epoch.

    Nothing else is yielded until then.
    """

    partition: Partition
    records: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Read at will, but nothing of these partitions; once a record of one is there, plan again."""

    partitions: frozenset[Partition]


Plan = ReadUpTo | NoteFirst | TryAlone | Hold
"""How to read while something is suspect."""


class _Noted(Enum):
    """Whether the coming single-record attempt is counted in the marker."""

    NO = auto()
    YES = auto()


@dataclass(slots=True)
class _Suspect:
    """A record, or a range in which one is, that must be isolated."""

    offset: Offset
    """First record. Advanced by commits inside the range."""
    end_offset: Offset
    """After the last record of the range."""
    records: int
    """How many to try together; halved by each failure, 1 once isolated."""
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    """Failed single-record attempts by agent; ``_ANY_AGENT`` for those that killed the process."""
    noted: _Noted = _Noted.NO
    """Set when a commit shows the marker's count grown; cleared by each failure."""
    seen_attempts: int = 0
    """``Marker.attempts`` at the last commit; grows by one when an attempt is noted."""


@dataclass(slots=True)
class _Careful:
    """A partition at which owners were lost in a row: its epochs begin small and grow."""

    offset: Offset
    """Committed offset at the last look. Invariant: only grows."""
    records: int = 1
    """How many to read in the next epoch; grows with each commit that moved."""


_ANY_AGENT: Final = "\0any"
"""Nobody knows which agent a killed process was in."""


class FailurePolicy:
    """Failures of the records of one worker.

    Args:
        options: of each agent by name.
        default: of every other agent, and of records that killed the process.
    """

    def __init__(self, options: Mapping[str, FailureOptions], default: FailureOptions) -> None:
        self._options: Final = dict(options)
        self._default: Final = default
        self._suspects: Final[dict[Partition, list[_Suspect]]] = {}
        """Suspects of each partition by offset; shrunk by commits beyond them. Invariant: ranges
        do not overlap, no list is empty."""
        self._careful: Final[dict[Partition, _Careful]] = {}
        """Partitions at which owners were lost in a row, until their epochs have grown large."""

    @property
    def quiet(self) -> bool:
        """Nothing is suspect: read at will. Cheap, for the hot path."""
        return not self._suspects and not self._careful

    def claimed(self, starts: Mapping[Partition, Start]) -> None:
        """Partitions were claimed: what their markers say of earlier owners is taken on."""
        self.forget(starts)
        for partition, start in starts.items():
            if start.attempts < PROBATION_ATTEMPTS:
                continue
            self._careful[partition] = _Careful(start.offset)
            suspect = _Suspect(start.offset, Offset(start.offset + 1), 1)
            suspect.seen_attempts = start.attempts
            suspect.attempts[_ANY_AGENT] = noted_attempts(start.attempts)
            self._suspects[partition] = [suspect]

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Partitions are not ours any more."""
        for partition in partitions:
            self._suspects.pop(partition, None)
            self._careful.pop(partition, None)

    def committed(
        self, offsets: Mapping[Partition, Offset], attempts: Mapping[Partition, int]
    ) -> None:
        """An epoch was committed: clear what is behind it, see what it noted.

        Args:
            offsets: ``CommitEpochs.committed_offsets``.
            attempts: ``CommitEpochs.committed_attempts``.
        """
        self._keep_only(offsets)
        for partition in list(self._suspects):
            left = [
                self._advance(suspect, offsets[partition], attempts[partition])
                for suspect in self._suspects[partition]
                if suspect.end_offset > offsets[partition]
            ]
            if left:
                self._suspects[partition] = left
            else:
                del self._suspects[partition]
        for partition, careful in list(self._careful.items()):
            if offsets[partition] > careful.offset:
                careful.offset = offsets[partition]
                careful.records *= CAREFUL_GROWTH
            if careful.records > CAREFUL_RECORDS_MAX:
                del self._careful[partition]

    def _keep_only(self, committed: Mapping[Partition, Offset]) -> None:
        """Forget partitions whose claim came to nothing: the next one tells of them again."""
        self.forget((self._suspects.keys() | self._careful.keys()) - committed.keys())

    @staticmethod
    def _advance(suspect: _Suspect, committed: Offset, attempts: int) -> _Suspect:
        if committed > suspect.offset:
            return _Suspect(committed, suspect.end_offset, suspect.records)
        if committed == suspect.offset:
            if attempts > suspect.seen_attempts:
                suspect.noted = _Noted.YES
            suspect.seen_attempts = attempts
        return suspect

    def record_failed(self, failure: Failure) -> EndNow | Replay:
        """Say what follows a failure, and remember it for the replay.

        Raises:
            InvariantViolation: INV-FAIL-1, a failure without a record: a bug.
        """
        invariant(
            failure.count >= 1 and failure.end_offset > failure.offset,
            "INV-FAIL-1: a failure names the records that are to blame",
            failure=failure,
        )
        options = self._of(failure.agent)
        if failure.kind is FailureKind.DECODE and options.ending is not Ending.STOP:
            return EndNow(options.ending)
        if failure.count > 1:
            half = _Suspect(failure.offset, failure.end_offset, failure.count // 2)
            self._put(failure.partition, half)
            return Replay()
        return self._single_failed(failure, options)

    def _single_failed(self, failure: Failure, options: FailureOptions) -> Replay:
        suspect = self._single(failure)
        suspect.noted = _Noted.NO
        # Attempts that killed the process were noted and are in the marker's count; an attempt
        # that failed here is in it too, so that it is counted once.
        before = suspect.attempts.get(failure.agent, suspect.attempts.get(_ANY_AGENT, 0))
        suspect.attempts[failure.agent] = before + 1
        used_up = suspect.attempts[failure.agent] > options.retries_max
        decode = failure.kind is FailureKind.DECODE
        if options.ending is Ending.STOP and (used_up or decode):
            return Replay(
                stop_message=f"{failure.agent} failed on {failure.partition.topic}"
                f"[{failure.partition.number}] offset {failure.offset}: {failure.error}. Nothing "
                f"of this record was committed, and it comes first at the next start. Correct the "
                f"agent or the record, or choose another on_error."
            )
        if used_up:
            return Replay()
        exponent = min(suspect.attempts[failure.agent] - 1, 32)
        return Replay(after_s=min(options.backoff_s * 2**exponent, options.backoff_s_max))

    def ending(self, partition: Partition, offset: Offset, agent: str) -> Ending | None:
        """Whether ``agent`` must not get the record again, and what happens to it instead.

        Asked for each record while something is suspect, before it is yielded. STOP only for
        records that killed the process: leave with the message of ``stop_message``.
        """
        options = self._of(agent)
        for suspect in self._suspects.get(partition, ()):
            if suspect.records == 1 and suspect.offset <= offset < suspect.end_offset:
                known = suspect.attempts.get(agent, suspect.attempts.get(_ANY_AGENT, 0))
                return options.ending if known > options.retries_max else None
        return None

    def tried(self, partition: Partition, offset: Offset) -> int | None:
        """How often a record failed alone, by the agent that failed most; None: not suspect."""
        for suspect in self._suspects.get(partition, ()):
            if suspect.offset <= offset < suspect.end_offset:
                return max(suspect.attempts.values(), default=0)
        return None

    def plan(
        self,
        committed: Mapping[Partition, Offset],
        in_hand: Mapping[Partition, Offset],
        waiting: frozenset[Partition] = frozenset(),
    ) -> Plan | None:
        """How to read the next epoch; None to read at will.

        Asked when the gate opens. Suspects are tried one after the other, the least tried first, so
        that a process killed by one of them blames only that one; then what is read carefully.

        Args:
            committed: ``CommitEpochs.committed_offsets``.
            in_hand: offset of the first unread record of each partition that has one; without it
                nothing is held up for a record that may never come.
            waiting: partitions whose suspect is not to be tried yet (``Replay.after_s``); the
                others are read meanwhile.
        """
        self._keep_only(committed)
        held = frozenset(self._suspects.keys() | self._careful.keys())
        for partition, suspect in self._by_turn():
            if committed[partition] < suspect.offset:
                return ReadUpTo(partition, suspect.offset)
            if partition in waiting:
                continue
            if partition in in_hand:
                # Offsets have gaps: the suspect is the first record at or after its offset.
                suspect.end_offset = max(suspect.end_offset, Offset(in_hand[partition] + 1))
                single = suspect.records == 1 and not self._ended(suspect)
                if single and suspect.noted is _Noted.NO:
                    return NoteFirst(partition)
                return TryAlone(partition, suspect.records)
            if suspect.noted is _Noted.YES:
                # Its marker counts an attempt: nothing else may be tried, and blamed on it.
                return Hold(held)
        for partition, careful in sorted(self._careful.items(), key=lambda each: each[0]):
            if partition in in_hand and partition not in self._suspects:
                return TryAlone(partition, careful.records)
        return Hold(held) if held else None

    def _by_turn(self) -> list[tuple[Partition, _Suspect]]:
        """The first suspect of each partition: a noted one first, then the least tried."""
        firsts = [(partition, suspects[0]) for partition, suspects in self._suspects.items()]
        return sorted(
            firsts,
            key=lambda first: (
                first[1].noted is _Noted.NO,
                sum(first[1].attempts.values()),
                first[0],
            ),
        )

    def _ended(self, suspect: _Suspect) -> bool:
        """Whether no agent gets the record any more, as far as is known."""
        return any(
            attempts > self._of(agent).retries_max for agent, attempts in suspect.attempts.items()
        )

    def _of(self, agent: str) -> FailureOptions:
        return self._options.get(agent, self._default)

    def _single(self, failure: Failure) -> _Suspect:
        for suspect in self._suspects.get(failure.partition, ()):
            inside = suspect.offset <= failure.offset < suspect.end_offset
            if suspect.records == 1 and inside:
                return suspect
        single = _Suspect(failure.offset, failure.end_offset, 1)
        self._put(failure.partition, single)
        return single

    def _put(self, partition: Partition, suspect: _Suspect) -> None:
        """Add a suspect; it takes the place of any that it overlaps."""
        others = [
            other
            for other in self._suspects.get(partition, [])
            if other.end_offset <= suspect.offset or other.offset >= suspect.end_offset
        ]
        self._suspects[partition] = sorted([*others, suspect], key=lambda each: each.offset)


def without_retries(options: FailureOptions) -> FailureOptions:
    """The options of ``on_error`` other than "retry": the ending follows the first failure."""
    return replace(options, retries_max=0)
