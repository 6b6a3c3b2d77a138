"""The gate: which records were yielded, which are done, and where an epoch may be cut.

Decides when an epoch is drained. A *reader* is one stream's subscription of one topic; several
agents may read the same partition, each at its own pace, and an offset may be committed only when
all of them are done below it. So when the gate closes each partition gets a *limit*, the position
of its fastest reader: that one stops, the others run up to it.

Rules of this file: bookkeeping is per run or slice while the gate is open (a few additions), and
only while it closes are positions compared. Must never import anything that acts; no records,
only numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onceflow.errors import invariant
from onceflow.ids import Offset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onceflow.ids import Partition


class ReaderProgress:
    """One reader's progress in one partition.

    The engine keeps it beside the run it iterates and calls it directly, without a look-up.
    """

    __slots__ = ("next_offset", "unfinished")

    def __init__(self, start: Offset) -> None:
        self.next_offset: int = start
        """The next record that this reader will yield. Advanced by ``yielded``; put back by
        ``buffered`` for records that it took and nobody began."""
        self.unfinished = 0
        """Records yielded and not done. Invariant: never negative, 0 when drained."""

    def yielded(self, next_offset: int, count: int) -> None:
        """``count`` records were handed to the agent; the one at ``next_offset`` comes next.

        Offsets may have gaps (transactions' markers, compaction), so the count is told.
        """
        self.next_offset = next_offset
        self.unfinished += count

    def finished(self, count: int = 1) -> None:
        """``count`` yielded records are done.

        Raises:
            InvariantViolation: INV-GATE-1, more were finished than yielded: a bug.
        """
        self.unfinished -= count
        if self.unfinished < 0:
            invariant(
                condition=False,
                message="INV-GATE-1: a record is finished once, after it was yielded",
                unfinished=self.unfinished,
            )

    def unread(self, offset: int, count: int) -> None:
        """The last ``count`` yielded records, from ``offset`` on, go back: nobody began them."""
        self.finished(count)
        invariant(
            offset <= self.next_offset,
            "INV-GATE-1: only what was yielded goes back",
            offset=offset,
            next_offset=self.next_offset,
        )
        self.next_offset = offset


class Gate:
    """Progress of all readers of all claimed partitions of one worker."""

    __slots__ = ("_limits", "_readers")

    def __init__(self) -> None:
        self._readers: Final[dict[Partition, list[ReaderProgress]]] = {}
        """Readers of each claimed partition. Invariant: a partition without readers is not here,
        its offset would never move."""
        self._limits: dict[Partition, int] | None = None
        """Where each partition is cut while the gate closes; None while it is open. Invariant: no
        reader is beyond its partition's limit."""

    def add(self, partition: Partition, start: Offset, readers: int) -> list[ReaderProgress]:
        """Begin a claimed partition at ``start``; returns the progress of each of its readers.

        Raises:
            InvariantViolation: INV-GATE-2, the partition is here already or has no reader.
        """
        invariant(
            partition not in self._readers and readers > 0,
            "INV-GATE-2: a partition begins once, with at least one reader",
            partition=partition,
            readers=readers,
        )
        progress = [ReaderProgress(start) for _ in range(readers)]
        self._readers[partition] = progress
        return progress

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Partitions are not ours any more; their readers' progress means nothing from here on."""
        for partition in partitions:
            self._readers.pop(partition, None)
            if self._limits is not None:
                self._limits.pop(partition, None)

    def rewind(self, offsets: Mapping[Partition, Offset]) -> None:
        """The attempt was dropped: readers begin again, nothing is unfinished.

        The readers' objects stay the same. What a ghost finishes later must not be told here: the
        engine compares stamps first.
        """
        for partition, offset in offsets.items():
            for reader in self._readers[partition]:
                reader.next_offset = offset
                reader.unfinished = 0
        self._limits = None

    def limits_at_close(self) -> dict[Partition, int]:
        """Close: each partition's limit, the first offset that no reader may yield any more."""
        self._limits = {
            partition: max(reader.next_offset for reader in readers)
            for partition, readers in self._readers.items()
        }
        return dict(self._limits)

    def open(self) -> None:
        """Open: no limits."""
        self._limits = None

    def limit(self, partition: Partition) -> int | None:
        """The limit of a partition while the gate closes; None while it is open."""
        return None if self._limits is None else self._limits.get(partition)

    def is_drained(self) -> bool:
        """Whether everything yielded is done and all readers stand at their limits.

        Cheap enough to ask after each finished record while the gate is closing.
        """
        limits = self._limits
        if limits is None:
            return False
        for partition, readers in self._readers.items():
            limit = limits[partition]
            for reader in readers:
                if reader.unfinished or reader.next_offset != limit:
                    return False
        return True

    def laggards(self) -> list[Partition]:
        """Partitions that keep the gate from being drained, for messages and blame."""
        limits = self._limits or {}
        return [
            partition
            for partition, readers in self._readers.items()
            if any(
                reader.unfinished or reader.next_offset != limits.get(partition)
                for reader in readers
            )
        ]

    def committable(self) -> dict[Partition, Offset]:
        """The offset to commit for every partition.

        Raises:
            InvariantViolation: INV-EPOCH-2, called before the gate is drained: a commit would lie
                above an unfinished record.
        """
        limits = self._limits
        invariant(
            limits is not None and self.is_drained(),
            "INV-EPOCH-2: only a drained epoch has offsets to commit",
            laggards=self.laggards(),
        )
        return {partition: Offset(limit) for partition, limit in (limits or {}).items()}
