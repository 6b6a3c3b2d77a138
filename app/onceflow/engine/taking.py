"""``take()`` and its relatives: lists of records of one partition.

Records held in an unfinished list count as unread: the cursor's
position stays at the first of them, and nothing is decoded or processed until the list is handed
out. A list holds records of one partition only, so that table writes made for it are attributed to
that partition.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from onceflow.engine.gate import Holding
from onceflow.engine.leaving import await_acknowledgement
from onceflow.engine.records import FILTERED, RecordEvent, RecordRef, current_event_ref
from onceflow.engine.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from onceflow.engine.records import Batch
    from onceflow.engine.stream import Stream
    from onceflow.engine.topic import Topic
    from onceflow.ids import Partition, Stamp


class Taker:
    """Collects unread records per partition for one stream.

    Fields:
        held: per partition the records collected and not handed out. Advanced by `_collect`,
            emptied by `_hand_out`. Invariant: the cursor's ``holdings`` has each of them; what it
            has no more belongs to an aborted attempt or a lost partition.
        deadlines: per partition when an unfinished list is handed out anyway (loop time, s).
    """

    def __init__(self, stream: Stream, channel: Topic, most: int, within_s: float | None) -> None:
        self.stream = stream
        self.channel = channel
        self.cursor = channel.cursor
        self.gate = channel.cursor.gate
        self.most = most
        self.within_s = within_s
        self.held: dict[Partition, Holding] = {}
        self.deadlines: dict[Partition, float] = {}
        self.stamp: Stamp = self.gate.stamp

    async def lists(self) -> AsyncGenerator[list[RecordEvent], None]:
        """Yield lists of live events; the caller finishes them with `finish`."""
        while not self.stream.should_stop:
            if self.stamp is not self.gate.stamp:
                self._forget_ghosts()
            partition = self._due()
            if partition is None:
                try:
                    await self._collect()
                except StopAsyncIteration:
                    return  # the subscription ended; a generator may not let this through
                continue
            events = await self._hand_out(partition)
            if events:
                yield events

    def finish(self, events: list[RecordEvent]) -> None:
        """Finish the records of a list."""
        for event in events:
            self.cursor.acknowledge(event)

    def leave(self, events: list[RecordEvent]) -> None:
        """Note that the reader went on; it finishes the records of the list itself."""
        for event in events:
            await_acknowledgement(event)

    def _forget_ghosts(self) -> None:
        """Drop what the cursor has dropped; partitions that stay ours keep their lists."""
        for partition, holding in list(self.held.items()):
            if holding not in self.cursor.holdings:
                del self.held[partition], self.deadlines[partition]
        self.stamp = self.gate.stamp

    def _admitted(self, partition: Partition) -> int:
        """Return how many held records of ``partition`` may be handed out at this moment."""
        held = self.held[partition].records
        if self.gate.only is not None and partition not in self.gate.only:
            return 0
        if not self.gate.closed:
            return len(held)
        limit = self.gate.limits.get(partition)
        if limit is None:
            return 0
        return sum(1 for batch, index in held if batch.run.offsets[index] < limit)

    def _due(self) -> Partition | None:
        """Return a partition whose list is full, overdue, or needed by the closing gate."""
        moment = asyncio.get_running_loop().time()
        for partition, holding in self.held.items():
            admitted = self._admitted(partition)
            if not admitted:
                continue
            if self.gate.closed or len(holding.records) >= self.most:
                return partition
            if self.within_s is not None and moment >= self.deadlines[partition]:
                return partition
        return None

    async def _collect(self) -> None:
        """Move unread records into the lists, or wait for some, a deadline or the gate."""
        batch = self.cursor.ready_batch()
        if batch is not None and batch.stamp is not self.gate.stamp:
            self.cursor.drop(batch)
            return
        if batch is None or (self.gate.closed and not self._lags(batch)):
            self.gate.progressed()
            await self._wait()
            return
        holding = self.held.get(batch.partition)
        if holding is None:
            holding = self.held[batch.partition] = Holding(batch.partition)
            self.cursor.holdings.append(holding)
            self.deadlines[batch.partition] = asyncio.get_running_loop().time() + (
                self.within_s or 0.0
            )
        room = max(self.most - len(holding.records), 1)
        stop = min(len(batch.run.offsets), self.cursor.index + room)
        holding.records.extend((batch, index) for index in range(self.cursor.index, stop))
        self.cursor.index = stop
        if stop == len(batch.run.offsets):
            self.cursor.finish(batch)

    def _lags(self, batch: Batch) -> bool:
        limit = self.gate.limits.get(batch.partition)
        return limit is not None and batch.run.offsets[self.cursor.index] < limit

    async def _wait(self) -> None:
        if self.gate.closed:
            await self.gate.opened.wait()
            return
        timeout_s = None
        if self.within_s is not None and self.deadlines:
            timeout_s = max(0.0, min(self.deadlines.values()) - asyncio.get_running_loop().time())
        try:
            await asyncio.wait_for(self.cursor.waiters.wait(), timeout_s)
        except TimeoutError:
            return

    async def _hand_out(self, partition: Partition) -> list[RecordEvent]:
        """Decode and process the due records of ``partition``: they are in progress from here."""
        holding = self.held[partition]
        count = min(self._admitted(partition), self.most)
        due, holding.records = holding.records[:count], holding.records[count:]
        if not holding.records:
            del self.held[partition], self.deadlines[partition]
            self.cursor.holdings.remove(holding)
        last, index = due[-1]
        taken = self.cursor.taken
        taken[partition] = max(taken.get(partition, 0), last.run.offsets[index] + 1)
        self.cursor.in_progress += len(due)
        # A record of this list that fails is to blame by itself: the list is not handed out yet.
        self.stream.handed_out = None
        events: list[RecordEvent] = []
        for batch, index in due:
            event = await self._event(batch, index)
            if event is not None:
                events.append(event)
            elif batch.stamp is self.gate.stamp:
                self.cursor.in_progress -= 1
        if events:
            self.stream.current_event = events[-1]
            self.stream.events_total += len(events)
        self.gate.progressed()
        return events

    async def _event(self, batch: Batch, index: int) -> RecordEvent | None:
        failures = runtime_of(self.stream.app).failures
        try:
            value: Any = self.channel.codecs.decode_value(batch.run.values[index])
        except Exception as error:  # noqa: BLE001 - loop root: a record is to blame
            await failures.undecodable(self.channel, batch, index, error)
            return None
        event = RecordEvent(self.stream.app, self.channel, batch, index, value)
        current_event_ref.set(RecordRef(event))
        self.stream.current_event = event
        event.value = await self.stream.processed(value)
        if event.value is FILTERED:
            event.live = False
            return None
        return event
