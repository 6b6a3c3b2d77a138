"""Restores changelogs into stores, on one thread of its own.

Reading and writing alternate on that thread, so that the event loop stays free and no hand-over
costs anything; librdkafka fetches ahead meanwhile. The stores belong to this thread from `run`'s
beginning to its end: `run` returns, also when it is cancelled, only after the thread has stopped.
Ends when every position has reached the high watermark that the reader took when it began.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from onceflow.decisions.crash_points import CrashPoint
from onceflow.limits import RESTORE_POLL_RECORDS, RESTORE_POLL_S, RESTORE_PROGRESS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceflow.ids import Partition
    from onceflow.kafka.changelog import ChangelogReader
    from onceflow.state.restore import RestoreLoader


class RestoreJob:
    """One restore of some changelog partitions.

    Attributes:
        records: how many were read so far; advanced by the thread.
    """

    def __init__(
        self,
        open_reader: Callable[[Mapping[Partition, int]], ChangelogReader],
        positions: Mapping[Partition, int],
        loaders: Mapping[Partition, RestoreLoader],
        crash: Callable[[CrashPoint], None],
    ) -> None:
        self.records = 0
        self._open_reader = open_reader
        self._positions = positions
        self._loaders = loaders
        self._crash = crash
        self._stopping = threading.Event()
        self._left: dict[Partition, int] = dict.fromkeys(positions, 0)

    async def run(self, show_progress: Callable[[], None]) -> None:
        """Restore; calls ``show_progress`` about once a second.

        Raises:
            DataAtRisk, Unreachable: as `ChangelogReader`.
            DeserializationError, StorageFailed, TaskCorrupted: as `RestoreLoader`.
        """
        thread = asyncio.ensure_future(asyncio.to_thread(self._read_up))
        try:
            while not thread.done():
                await asyncio.wait({thread}, timeout=RESTORE_PROGRESS_S)
                if not thread.done():
                    show_progress()
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait({thread})
            raise
        await thread

    def remaining(self) -> dict[Partition, int]:
        """Return how many offsets each partition has left, as of the last read."""
        return self._left

    def _read_up(self) -> None:
        reader = self._open_reader(self._positions)
        try:
            self._look(reader)
            while reader.remaining() and not self._stopping.is_set():
                self._read_some(reader)
        finally:
            reader.close()

    def _read_some(self, reader: ChangelogReader) -> None:
        """Read and write for about a progress interval."""
        until_s = time.monotonic() + RESTORE_PROGRESS_S
        while reader.remaining() and time.monotonic() < until_s and not self._stopping.is_set():
            for run in reader.poll(RESTORE_POLL_RECORDS, RESTORE_POLL_S):
                self._crash(CrashPoint.DURING_RESTORE)
                now_ms = int(time.time() * 1000)  # noqa: TID251 - an edge: stores outlive processes
                pieces = self._loaders[run.partition].load_pieces(
                    run.keys, run.values, run.offsets, now_ms=now_ms
                )
                for _ in pieces:
                    pass
                self.records += len(run)
        self._look(reader)

    def _look(self, reader: ChangelogReader) -> None:
        high = reader.high_watermarks
        self._left = {p: max(0, high[p] - reader.position(p)) for p in self._positions}
