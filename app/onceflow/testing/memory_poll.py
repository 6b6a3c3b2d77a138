"""The consumer of the topology driver: delivers from the log in memory, on the event loop.

It keeps what the engine relies on: an assigned partition delivers nothing before ``start_at``, each
start is a fetch generation, and no more is in flight than the settings allow. One worker owns all
partitions, so there is one assignment, or one more for each topic that is subscribed later.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from onceflow.kafka.flight import Flight
from onceflow.kafka.poll import Assignment

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

    from onceflow.engine.inflow import Inflow
    from onceflow.ids import Partition
    from onceflow.kafka.records import Run
    from onceflow.testing.memory_log import MemoryLog

_MEMBER = "driver"


class MemoryPoll:
    """Stands in the place of the poll thread; made and used on the event loop.

    Attributes:
        owned: all partitions of the subscribed topics.
        heartbeat_age_s: always 0: there is no thread that could be stuck.
        flight: records handed over and not finished.
    """

    heartbeat_age_s = 0.0

    def __init__(self, log: MemoryLog, inflow: Inflow) -> None:
        settings = inflow.runtime.settings
        self.owned: frozenset[Partition] = frozenset()
        self.flight = Flight(settings.in_flight_records, int(settings.in_flight_bytes))
        self._run_records_max = settings.run_records
        self._log = log
        self._inflow = inflow
        self._loop = asyncio.get_running_loop()
        # Next offset to deliver and fetch generation of each started partition.
        self._started: dict[Partition, tuple[int, int]] = {}
        self._generations = count(1)
        self._assignments = count(1)
        self._is_due = False
        log.on_change = self._changed

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Own all partitions of these topics."""
        owned = frozenset(each for topic in topics for each in self._log.partitions(topic))
        added = owned - self.owned
        if not added:
            return
        self.owned = owned
        assignment = Assignment(next(self._assignments), owned, added, _MEMBER, _MEMBER)
        self._loop.call_soon(self._inflow.on_assigned, assignment)

    def start_at(self, offsets: Mapping[Partition, int]) -> Coroutine[object, object, int]:
        """Let partitions deliver from these offsets on."""
        generation = next(self._generations)
        for partition, offset in offsets.items():
            self._started[partition] = (offset, generation)
        self._deliver_soon()
        return _at_once(generation)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop partitions; what they delivered is no longer current."""
        for partition in partitions:
            self._started.pop(partition, None)

    def is_current(self, run: Run) -> bool:
        """Return whether a run was read after the last start of its partition."""
        started = self._started.get(run.partition)
        return started is not None and started[1] == run.fetch

    def account(self, records: int, size_bytes: int) -> None:
        """Note that a run is finished or dropped."""
        self.flight.finish(records, size_bytes)
        self._deliver_soon()

    async def stop(self) -> None:
        """Give all partitions back."""
        self._started.clear()
        if self.owned:
            await self._inflow.on_revoked(self.owned)
            self.owned = frozenset()

    def _changed(self) -> None:
        """Hear of records in the log, on any thread."""
        self._loop.call_soon_threadsafe(self._deliver_soon)

    def _deliver_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand over a run of each partition that has records; comes again while there are any."""
        self._is_due = False
        runs: list[Run] = []
        for partition, (offset, generation) in self._started.items():
            if self.flight.is_full():
                break
            run = self._log.read(partition, offset, self._run_records_max, generation)
            if run is not None:
                self.flight.post(len(run), run.size_bytes)
                self._started[partition] = (offset + len(run), generation)
                runs.append(run)
        if runs:
            self._deliver_soon()
            self._inflow.on_runs(runs)


async def _at_once(generation: int) -> int:
    return generation
