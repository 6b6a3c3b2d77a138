"""Positions of claimed partitions: what a transaction commits, and what markers prove about it.

Pure functions over values. The rules here are those by which an offset becomes committed
(INV-EPOCH-2, INV-EPOCH-5) and by which an unknown outcome is decided from markers alone. Must never
import anything that acts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

from onceflow.decisions.epoch_effects import PositionToCommit
from onceflow.decisions.marker import (
    NO_COMMIT_EPOCH,
    CommittedOffset,
    Handover,
    Marker,
    commit_attempts,
)
from onceflow.errors import invariant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from onceflow.decisions.epoch_events import Start
    from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition


@dataclass(frozen=True, slots=True)
class Claimed:
    """A partition's committed position, as our last committed transaction wrote it."""

    offset: Offset
    attempts: int = 0
    released: Handover = Handover.HELD


class EpochKind(Enum):
    """What a transaction is for."""

    RECORDS = auto()
    CLAIM = auto()
    """The first after an assignment: start offsets, no effects."""
    RELEASE = auto()
    """The last one before partitions are handed over, when no records are left to commit."""


@dataclass(frozen=True, slots=True)
class PendingTransaction:
    """A transaction between its drain and its outcome."""

    kind: EpochKind
    commit_epoch: CommitEpoch
    positions: Mapping[Partition, Claimed]
    """Of every claimed partition, and of those being claimed. Invariant: never empty."""
    with_participants: CommitEpoch = NO_COMMIT_EPOCH
    """k of its markers: our last epoch with participants if this one is committed."""
    participants: tuple[str, ...] = ()
    """Who took part in that epoch."""

    def check_covers(self, claimed: AbstractSet[Partition]) -> None:
        """Check that nothing is left out.

        Raises:
            InvariantViolation: INV-EPOCH-5, a claimed partition is missing.
        """
        invariant(
            self.positions.keys() >= claimed,
            "INV-EPOCH-5: every claimed partition is in every transaction",
            claimed=claimed,
            positions=self.positions,
        )


def claims(starts: Mapping[Partition, Start]) -> dict[Partition, Claimed]:
    """Positions of partitions that are to be claimed."""
    return {each: Claimed(start.offset, start.attempts) for each, start in starts.items()}


def drained_positions(
    committed: Mapping[Partition, Claimed],
    offsets: Mapping[Partition, Offset],
    noted: AbstractSet[Partition],
) -> dict[Partition, Claimed]:
    """Positions after a drained epoch.

    Raises:
        InvariantViolation: INV-EPOCH-2, an offset would go back or a partition is missing.
    """
    invariant(
        committed.keys() == offsets.keys(),
        "INV-EPOCH-5: an epoch has an offset for every claimed partition and for no other",
        claimed=set(committed),
        drained=set(offsets),
    )
    positions: dict[Partition, Claimed] = {}
    for partition, last in committed.items():
        offset = offsets[partition]
        invariant(
            offset >= last.offset,
            "INV-EPOCH-2: committed offsets never go back",
            partition=partition,
            committed=last.offset,
            drained=offset,
        )
        attempts = commit_attempts(
            last.attempts, moved=offset > last.offset, noted=partition in noted
        )
        positions[partition] = Claimed(offset, attempts)
    return positions


def release(
    positions: Mapping[Partition, Claimed], leaving: AbstractSet[Partition]
) -> dict[Partition, Claimed]:
    """The same positions, with ``leaving`` marked as handed over."""
    return {
        partition: replace(position, released=Handover.RELEASED)
        if partition in leaving
        else position
        for partition, position in positions.items()
    }


def to_send(pending: PendingTransaction, own: Incarnation) -> dict[Partition, PositionToCommit]:
    """Offsets and marker texts of a transaction.

    Raises:
        InvariantViolation: INV-EPOCH-5, the list would be empty (Kafka commits it unfenced) or an
            offset negative (Kafka's client drops it silently).
    """
    invariant(
        pending.positions and all(at.offset >= 0 for at in pending.positions.values()),
        "INV-EPOCH-5: every transaction carries explicit offsets, at least one, none negative",
        positions=pending.positions,
    )
    return {
        partition: PositionToCommit(
            at.offset,
            Marker(
                own,
                pending.commit_epoch,
                pending.with_participants,
                at.released,
                at.attempts,
                pending.participants,
            ).encode(),
        )
        for partition, at in pending.positions.items()
    }


class Verdict(StrEnum):
    """What markers prove about a transaction of unknown outcome."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    FENCED = "fenced"
    """Another incarnation committed on a partition that we hold."""
    FOREIGN_CHANGE = "foreign_change"
    """The group's offsets are neither what we committed nor what we tried to commit."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A verdict and the partition that shows it."""

    verdict: Verdict
    partition: Partition | None = None
    found: CommittedOffset | None = None

    def explain(self) -> str:
        """The message of exit 4: what was found, what it means, what to do."""
        where = ""
        if self.partition is not None:
            where = f" of {self.partition.topic}[{self.partition.number}]"
        if self.verdict is Verdict.FENCED:
            return (
                f"the committed offset{where} was written by another worker while it was ours: "
                f"{self.found}. That worker owns it; nothing of ours was committed after it. This "
                f"process must not go on. Let it start again as a new worker."
            )
        return (
            f"the committed offset{where} is not what this worker committed: {self.found}. "
            f"Somebody changed the group's offsets while it was running, or Kafka lost a commit. "
            f"Going on could lose or double records. Find out who changed them "
            f"(kafka-consumer-groups.sh), stop all workers, then reset the group knowingly."
        )


def judge(
    markers: Mapping[Partition, CommittedOffset],
    pending: PendingTransaction | None,
    committed: Mapping[Partition, Claimed],
    identity: tuple[Incarnation, CommitEpoch],
) -> Proof:
    """Decide by markers, read stable after a fence of ourselves.

    Args:
        markers: of the partitions that are still ours.
        pending: the transaction in question, None if nothing is in question.
        committed: positions of our last committed transaction.
        identity: our incarnation, and the number of our last committed transaction.
    """
    own, last_epoch = identity
    if pending is not None:
        names = {
            partition: _is_ours(found, own, pending.commit_epoch, pending.positions[partition])
            for partition, found in markers.items()
        }
        if names and all(names.values()):
            return Proof(Verdict.COMMITTED)
        for partition, named in names.items():
            if named:
                # One transaction commits all its offsets or none: somebody else wrote the others.
                return Proof(Verdict.FOREIGN_CHANGE, partition, markers[partition])
    for partition, found in markers.items():
        last = committed.get(partition)
        if last is None or _is_ours(found, own, last_epoch, last):
            continue
        foreign = found.marker is not None and found.marker.incarnation != own
        verdict = Verdict.FENCED if foreign else Verdict.FOREIGN_CHANGE
        return Proof(verdict, partition, found)
    return Proof(Verdict.NOT_COMMITTED)


def _is_ours(
    found: CommittedOffset, own: Incarnation, commit_epoch: CommitEpoch, expected: Claimed
) -> bool:
    marker = found.marker
    return (
        marker is not None
        and marker.incarnation == own
        and marker.commit_epoch == commit_epoch
        and found.offset == expected.offset
    )
