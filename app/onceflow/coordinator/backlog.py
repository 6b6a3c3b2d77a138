"""What a worker has to tell the group and has not told yet: bounded, in order, by importance.

When the group is away for long, not everything can be kept. What is dropped is the least important
first and of that the oldest: a heuristic outcome is told if anything is. Offsets and the lease are
not queued at all, since only the last ones matter.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow.coordinator.transactions import Step
from onceflow.coordinator.vocabulary import (
    Aborted,
    Begun,
    Change,
    Committed,
    Ended,
    Heuristic,
    OffsetsMoved,
    Prepared,
)
from onceflow.limits import COORDINATOR_BACKLOG_MAX, COORDINATOR_TOLD_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.ids import CommitEpoch, Incarnation, Offset, Partition

IMPORTANCE: dict[type[Step | Heuristic], int] = {
    Begun: 0,
    Prepared: 1,
    Ended: 2,
    Aborted: 3,
    Committed: 3,
    Heuristic: 4,
}
"""Higher is kept longer. That an epoch ended matters more than that it was prepared, because an end
that is not told leaves it in doubt in the record."""


@dataclass(frozen=True, slots=True)
class _Moved:
    offset: int
    incarnation: str
    commit_epoch: int
    marker: str


@dataclass(slots=True)
class Backlog:
    """Changes that wait to be told.

    dropped: how many never will be, because there was no room.
    """

    room: int = COORDINATOR_BACKLOG_MAX
    dropped: int = 0
    _waiting: dict[int, Step | Heuristic] = field(default_factory=dict[int, Step | Heuristic])
    _by_importance: defaultdict[int, deque[int]] = field(
        default_factory=lambda: defaultdict[int, deque[int]](deque)
    )
    _moved: dict[Partition, _Moved] = field(default_factory=dict["Partition", _Moved])
    _telling: dict[Partition, _Moved] = field(default_factory=dict["Partition", _Moved])
    _next: int = 1

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_offsets(self) -> bool:
        """Whether offsets wait to be told."""
        return bool(self._moved or self._telling)

    def add(self, change: Step | Heuristic) -> tuple[int, int | None]:
        """Take a change; return its number, and that of the one that was dropped for it."""
        number = self._next
        self._next += 1
        self._waiting[number] = change
        self._by_importance[IMPORTANCE[type(change)]].append(number)
        return number, (self._drop() if len(self._waiting) > self.room else None)

    def _drop(self) -> int:
        least = min(each for each, numbers in self._by_importance.items() if numbers)
        number = self._by_importance[least].popleft()
        del self._waiting[number]
        self.dropped += 1
        return number

    def move(
        self,
        incarnation: Incarnation,
        commit_epoch: CommitEpoch,
        marker: str,
        offsets: Mapping[Partition, Offset],
    ) -> None:
        """Take committed offsets; of each partition the last one is told."""
        for partition, offset in offsets.items():
            self._moved[partition] = _Moved(offset, incarnation, commit_epoch, marker)

    def take(self) -> dict[int, Step | Heuristic]:
        """Return the next changes to tell, by number, in order; ``done`` removes them."""
        taken: dict[int, Step | Heuristic] = {}
        for number, change in self._waiting.items():
            if len(taken) == COORDINATOR_TOLD_MAX:
                break
            taken[number] = change
        return taken

    def done(self, number: int) -> None:
        """Forget a change that was told; one that was dropped meanwhile is fine."""
        change = self._waiting.pop(number, None)
        if change is not None:
            self._by_importance[IMPORTANCE[type(change)]].remove(number)

    def take_offsets(self) -> list[Change]:
        """Return the offsets that wait, those of one epoch in one change; see ``offsets_told``."""
        self._telling, self._moved = self._telling | self._moved, {}
        epochs: defaultdict[tuple[str, int, str], list[tuple[str, int, int]]] = defaultdict(list)
        for (topic, number), moved in self._telling.items():
            key = (moved.incarnation, moved.commit_epoch, moved.marker)
            epochs[key].append((topic, number, moved.offset))
        return [OffsetsMoved(*key, rows) for key, rows in epochs.items()]

    def offsets_told(self) -> None:
        """Forget the offsets that were taken; without it they are taken again."""
        self._telling = {}
