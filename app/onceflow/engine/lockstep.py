"""Keeps the readers of one partition close together where there are several.

An epoch ends when all readers of a partition stand at the same offset. A fast agent beside a slow
one would read thousands of records ahead, and the closing gate would wait for the slow one to
follow. Here the next piece of a partition is handed on only when every reader has read the one
before, and pieces are as large as the slowest reader reads in about a second.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from onceflow.engine.isolation import split
from onceflow.limits import PIECE_RECORDS_FIRST, PIECE_RECORDS_MAX, PIECE_S_LONG, PIECE_S_SHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.ids import Partition
    from onceflow.kafka.records import Run


class Lockstep:
    """Hands runs of partitions with several readers on in pieces.

    Fields:
        held: per partition what is not handed on, in order. Invariant: not empty only while a
            piece of the partition is under way.
        under_way: per partition the piece that is being read, and when it was handed on (s).
        piece_records: per topic how many records the next piece has.
    """

    def __init__(self, hand_on: Callable[[Run], None]) -> None:
        self.hand_on = hand_on
        self.held: dict[Partition, deque[Run]] = {}
        self.under_way: dict[Partition, tuple[Run, float]] = {}
        self.piece_records: dict[str, int] = {}

    def arrived(self, run: Run) -> None:
        """Take a run, and hand its first piece on if no other one is under way."""
        self.held.setdefault(run.partition, deque()).append(run)
        if run.partition not in self.under_way:
            self._next(run.partition)

    def finished(self, run: Run) -> None:
        """Note that every reader has read ``run``; the piece after it follows."""
        partition = run.partition
        piece = self.under_way.get(partition)
        if piece is None or piece[0] is not run:
            return
        del self.under_way[partition]
        self._measure(run, time.monotonic() - piece[1])
        if partition in self.held:
            self._next(partition)

    def _measure(self, run: Run, seconds: float) -> None:
        records = self.piece_records.get(run.topic, PIECE_RECORDS_FIRST)
        if seconds > PIECE_S_LONG:
            self.piece_records[run.topic] = max(1, min(records, len(run)) // 4)
        elif seconds < PIECE_S_SHORT and len(run) == records:
            self.piece_records[run.topic] = min(PIECE_RECORDS_MAX, records * 2)

    def too_long(self) -> None:
        """Make pieces smaller after a drain that ran out of time."""
        for run, _ in self.under_way.values():
            records = self.piece_records.get(run.topic, PIECE_RECORDS_FIRST)
            self.piece_records[run.topic] = max(1, records // 4)

    def _next(self, partition: Partition) -> None:
        runs = self.held[partition]
        run = runs.popleft()
        piece, rest = split(run, self.piece_records.get(run.topic, PIECE_RECORDS_FIRST))
        if rest is not None:
            runs.appendleft(rest)
        if not runs:
            del self.held[partition]
        self.under_way[partition] = (piece, time.monotonic())
        self.hand_on(piece)

    def flush(self, partition: Partition) -> None:
        """Hand everything held of a partition on at once: from here on it is read otherwise."""
        self.under_way.pop(partition, None)
        for run in self.held.pop(partition, ()):
            self.hand_on(run)

    def forget(self, partition: Partition) -> list[Run]:
        """Forget what is held of a partition; returns it for the accounting."""
        self.under_way.pop(partition, None)
        return list(self.held.pop(partition, ()))

    def drop_all(self) -> list[Run]:
        """Forget everything held; returns it for the accounting."""
        return [run for p in list(self.under_way) for run in self.forget(p)]
