"""What is not known of the last transaction, and how the markers answer it.

After a spent producer or an unknown outcome nothing begins before the producer is replaced, which
fences the old one, and the markers are read (INV-EPOCH-7). Here stands which question they answer
and which partitions are asked; the verdict is ``epoch_positions.judge``. Must never import anything
that acts.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from onceflow.errors import invariant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from onceflow.decisions.marker import CommittedOffset
    from onceflow.ids import Partition


class Question(Enum):
    """What the markers are read for."""

    NONE = auto()
    VERIFY = auto()
    """The outcome is known, the producer is spent."""
    OUTCOME = auto()
    """The pending transaction's outcome is unknown."""


class Doubt:
    """One question at a time."""

    def __init__(self) -> None:
        self.question = Question.NONE
        """Raised by outcomes, answered by markers. Invariant: NONE whenever a transaction
        begins."""
        self._asked: frozenset[Partition] | None = None
        """Partitions whose markers are being read; None before the producer is replaced."""

    def ask(self, partitions: AbstractSet[Partition]) -> frozenset[Partition]:
        """The producer was replaced: these partitions' markers are read."""
        self._asked = frozenset(partitions)
        return self._asked

    def answer(
        self, markers: Mapping[Partition, CommittedOffset], lost: AbstractSet[Partition]
    ) -> dict[Partition, CommittedOffset]:
        """Take what was read; returns the markers of partitions that are still ours.

        Raises:
            InvariantViolation: INV-EPOCH-7, these were not asked for behind a fence.
        """
        invariant(
            self._asked == frozenset(markers),
            "INV-EPOCH-7: markers are read after the fence, of the partitions asked for",
            asked=self._asked,
            read=set(markers),
        )
        self._asked = None
        return {each: found for each, found in markers.items() if each not in lost}

    def settle(self) -> Question:
        """The question is answered, or nobody is left to ask; returns which one it was."""
        settled, self.question = self.question, Question.NONE
        return settled
