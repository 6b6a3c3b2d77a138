"""What the consumer group and the process want of a worker while an epoch is under way.

Wishes are only noted here; ``commit_epoch.CommitEpochs`` obeys them between epochs, because no
epoch may span a change of assignment (INV-EPOCH-4). Must never import anything that acts.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from onceflow.decisions.marker import Handover
from onceflow.errors import invariant
from onceflow.ids import Partition

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from onceflow.decisions.epoch_positions import Claimed


class Goodbye(Enum):
    """Whether leaving partitions can still be marked as released."""

    POSSIBLE = auto()
    GIVEN_UP = auto()


class Wishes:
    """Changes of the assignment that were asked for and not carried out."""

    def __init__(self) -> None:
        self.joining: set[Partition] = set()
        """Assigned, not claimed; shrunk by a committed claim, a loss or a revoke."""
        self.membership: int | None = None
        """Group metadata of the latest ``Assigned``; cleared when it is adopted."""
        self.leaving: frozenset[Partition] | None = None
        """Asked back by the group, whose callback waits; None if nothing is asked."""
        self.lost: set[Partition] = set()
        """Claimed, or being claimed, but gone; cleared when they are forgotten. Invariant: no
        transaction is sent off while a partition is here."""
        self.stopping = False
        """Set by ``StopRequested``, for ever."""
        self.goodbye = Goodbye.POSSIBLE
        """Given up when the bound passes or the release failed; possible again after the revoke."""

    def assigned(
        self, partitions: frozenset[Partition], membership: int, held: AbstractSet[Partition]
    ) -> None:
        """The group gave us more.

        Raises:
            InvariantViolation: INV-EPOCH-4, a partition is ours already: the engine missed a
                revoke or a loss.
        """
        mine = held - self.lost
        invariant(
            not partitions & mine,
            "INV-EPOCH-4: only partitions that are not ours are assigned",
            assigned=partitions,
            held=mine,
        )
        self.joining |= partitions
        self.membership = membership

    def revoked(self, partitions: frozenset[Partition], on_the_way: AbstractSet[Partition]) -> None:
        """The group asks for partitions.

        Raises:
            InvariantViolation: INV-EPOCH-4, an earlier revoke is still waiting.
        """
        invariant(
            not self.leaving,
            "INV-EPOCH-4: one revoke at a time",
            leaving=self.leaving,
            asked=partitions,
        )
        # A claim on the way cannot be taken back; its partitions are released after it.
        self.joining -= partitions - on_the_way
        self.leaving = partitions

    def lose(self, partitions: frozenset[Partition], held: AbstractSet[Partition]) -> None:
        """Partitions are gone; ``held`` are those claimed or being claimed."""
        self.lost |= partitions & held
        self.joining -= partitions
        if self.leaving is not None:
            # Who is lost while a revoke waits may join again before that one is obeyed.
            self.leaving -= partitions

    def departing(self, claimed: AbstractSet[Partition]) -> set[Partition]:
        """Claimed partitions that a commit should mark as released."""
        wanted = claimed if self.stopping else (self.leaving or frozenset[Partition]())
        return set(wanted & claimed)

    def unreleased(self, claimed: Mapping[Partition, Claimed]) -> set[Partition]:
        """Departing partitions whose release is worth a transaction of its own."""
        if self.goodbye is Goodbye.GIVEN_UP:
            return set()
        return {
            partition
            for partition in self.departing(claimed.keys())
            if claimed[partition].released is Handover.HELD
        }
