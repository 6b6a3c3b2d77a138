"""The gate: where readers stop between records so that an epoch can be sealed.

Each subscription of a topic reads through one `Cursor`. When the gate closes, every cursor stops
before its next record, except that a reader lagging behind another one of the same partition runs
on up to the other's position: an offset is committed only when *all* effects of the records below
it, and none of those above, are in the epoch (INV-EPOCH-2, INV-EPOCH-3).

The hot path pays one attribute read per record (``gate.closed``); everything else happens per
batch or while the gate is closing. Runs on the event loop only. It must not know Kafka, tables or
transactions.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from onceflow.errors import invariant

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from onceflow.engine.records import Batch, RecordEvent
    from onceflow.engine.stream import Stream
    from onceflow.ids import Partition, Stamp

_NO_BOUND = 2**63 - 1


class Waiters:
    """Readers that wait for something to read; each call of `wake_one` ends one wait."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: deque[asyncio.Future[None]] = deque()

    def wake_one(self) -> None:
        """Let the reader go on that has waited longest."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """Let every waiting reader look again."""
        for _ in range(len(self._futures)):
            self.wake_one()

    async def wait(self) -> None:
        """Wait to be woken; a reader that is cancelled then passes the call on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake_one()
            raise


class Holding:
    """Records of one partition that a taker collected and has not handed out: they are unread.

    Fields:
        records: batches with indexes, in order. Invariant: never empty while the cursor has it.
    """

    __slots__ = ("partition", "records")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.records: list[tuple[Batch, int]] = []

    @property
    def offset(self) -> int:
        """Return the offset of the first record."""
        batch, index = self.records[0]
        return batch.run.offsets[index]


class Cursor:
    """The reading place of one subscription, shared by all actors that read through it.

    Fields:
        batches: batches not begun, in order of arrival. Advanced by `push` and `next_batch`.
        batch, index: the batch being read and the index of its next record; ``index`` is advanced
            by the stream *before* a record is handed out.
        in_progress: records handed out and not finished. Invariant: 0 at every seal.
        done: per partition the next offset to read: where it starts, then where its last finished
            batch ends. Invariant: never moves back within one attempt.
        begun: batches set aside half-read, with the index to go on at.
        holdings: what takers hold; several may read through one cursor, and each has its own.
        taken: per partition the offset after the last record that a taker handed out; what others
            hold below it belongs to the same epoch.
        owner: name of the agent that reads, for its ``on_error`` policy; "" for other streams.
        readers: streams that iterate through it at this moment.
        unacknowledged: records of ``noack()`` streams whose reader went on without finishing them,
            by partition and offset, in the order in which they were handed out.
    """

    __slots__ = (
        "batch",
        "batches",
        "begun",
        "done",
        "errors",
        "finished",
        "gate",
        "holdings",
        "in_progress",
        "index",
        "owner",
        "readers",
        "taken",
        "unacknowledged",
        "waiters",
    )

    def __init__(self, gate: Gate, finished: Callable[[Batch], None]) -> None:
        self.gate = gate
        self.finished = finished
        self.batches: deque[Batch] = deque()
        self.batch: Batch | None = None
        self.index = 0
        self.in_progress = 0
        self.done: dict[Partition, int] = {}
        self.errors: deque[BaseException] = deque()
        self.waiters = Waiters()
        self.holdings: list[Holding] = []
        self.taken: dict[Partition, int] = {}
        self.begun: dict[Batch, int] = {}
        self.owner = ""
        self.readers: list[Stream] = []
        self.unacknowledged: dict[tuple[Partition, int], RecordEvent] = {}

    def push(self, batch: Batch) -> None:
        """Append a batch and wake one reader."""
        self.batches.append(batch)
        self.waiters.wake_one()

    def throw(self, error: BaseException) -> None:
        """Raise ``error`` in the reader that waits, or in the next one."""
        self.errors.append(error)
        self.waiters.wake_one()

    async def next_batch(self) -> Batch:
        """Return the batch to read from, waiting for one; ``index`` is its next record.

        Raises:
            BaseException: whatever was thrown into the channel, such as StopAsyncIteration.
        """
        while True:
            batch = self.ready_batch()
            if batch is not None:
                return batch
            self.gate.progressed()
            await self.waiters.wait()

    def ready_batch(self) -> Batch | None:
        """Return the batch to read from if there is one.

        Raises:
            BaseException: whatever was thrown into the channel.
        """
        if self.errors:
            raise self.errors.popleft()
        if self.batch is None and self.batches:
            self.batch = self._next()
            if self.batch is not None:
                self.index = self.begun.pop(self.batch, 0)
        return self.batch

    def _next(self) -> Batch | None:
        """Take the first batch that may be read at this moment out of the queue."""
        only, closed = self.gate.only, self.gate.closed
        if only is None and not closed:
            return self.batches.popleft()
        for batch in self.batches:
            if only is not None and batch.partition not in only and not self._is_asked(batch):
                continue
            if not closed or self._is_behind(batch):
                self.batches.remove(batch)
                return batch
        return None

    def _is_asked(self, batch: Batch) -> bool:
        return batch.partition.topic in self.gate.asked

    def _is_behind(self, batch: Batch) -> bool:
        """Return whether the closing gate waits for records of a queued batch."""
        limit = self.gate.limits.get(batch.partition)
        return limit is not None and batch.run.offsets[self.begun.get(batch, 0)] < limit

    def set_aside(self, only: frozenset[Partition] | None) -> None:
        """Stop in the middle of a batch whose partition is not to be read for a while."""
        if only is not None and self.batch is not None and self.batch.partition not in only:
            self._put_back(self.batch)
        self.waiters.wake_all()

    def passes_on(self, batch: Batch) -> bool:
        """Put a batch that reached its limit back if the closing gate waits for a later one."""
        limit = self.gate.limits.get(batch.partition)
        if limit is not None and batch.run.offsets[self.index] < limit:
            return False
        if not any(self._is_behind(queued) for queued in self.batches):
            return False
        self._put_back(batch)
        return True

    def _put_back(self, batch: Batch) -> None:
        self.begun[batch] = self.index
        self.batches.appendleft(batch)
        self.batch = None

    def finish(self, batch: Batch) -> None:
        """Record that the last record of ``batch`` was handed out (or is held by a taker)."""
        self.batch = None
        self.done[batch.partition] = batch.next_offset
        self._release(batch)

    def drop(self, batch: Batch) -> None:
        """Forget a ghost: a batch of an aborted attempt or a lost partition."""
        if self.batch is batch:
            self.batch = None
            self._release(batch)

    def _release(self, batch: Batch) -> None:
        batch.readers_left -= 1
        if batch.readers_left == 0:
            self.finished(batch)

    def position(self, partition: Partition) -> int | None:
        """Return the next offset to hand out, or None where this cursor reads nothing of it."""
        begun = self._begun_at(partition)
        return self.done.get(partition) if begun is None else begun

    def _begun_at(self, partition: Partition) -> int | None:
        """Return the first unread record of what is begun, or None where nothing is."""
        held = [h.offset for h in self.holdings if h.partition == partition]
        if held:
            return min(held)
        batch = self.batch
        if batch is not None and batch.partition == partition:
            offsets = batch.run.offsets
            return offsets[self.index] if self.index < len(offsets) else batch.next_offset
        for begun, index in self.begun.items():
            if begun.partition == partition:
                return begun.run.offsets[index]
        return None

    def is_behind(self, partition: Partition, limit: int) -> bool:
        """Return whether records below ``limit`` are unread here.

        Offsets have gaps: a reader that finished a batch stands at the offset after it, another
        one at the first record of the next batch, and both have read the same.
        """
        begun = self._begun_at(partition)
        if begun is not None:
            return begun < limit
        done = self.done.get(partition)
        if done is None or done >= limit:
            return False
        queued = next((b for b in self.batches if b.partition == partition), None)
        return queued is None or queued.run.offsets[0] < limit

    def acknowledge(self, event: RecordEvent) -> bool:
        """Finish a record of a ``noack()`` stream; returns whether it was unfinished."""
        if not event.live:
            return False
        event.live = False
        if self.unacknowledged:
            self.unacknowledged.pop((event.batch.partition, event.offset), None)
        if event.batch.stamp is self.gate.stamp:
            self.in_progress -= 1
            self.gate.progressed()
        return True

    def reset(self) -> None:
        """Forget everything read: the attempt is aborted, `start` gives new positions."""
        begun = {b.partition for b in self.unfinished()} | {h.partition for h in self.holdings}
        self.forget(frozenset(self.done) | begun)
        self.unacknowledged.clear()
        self.in_progress = 0

    def forget(self, partitions: frozenset[Partition]) -> None:
        """Forget partitions that are not ours any more, with what was read of them."""
        dropped = [b for b in self.unfinished() if b.partition in partitions]
        self.batches = deque(b for b in self.batches if b.partition not in partitions)
        if self.batch is not None and self.batch.partition in partitions:
            self.batch = None
        for partition in partitions:
            self.done.pop(partition, None)
            self.taken.pop(partition, None)
        self.holdings = [h for h in self.holdings if h.partition not in partitions]
        for batch in dropped:
            self.begun.pop(batch, None)
            self._release(batch)

    def held(self) -> list[Batch]:
        """Return the batches of which takers hold records."""
        return [batch for holding in self.holdings for batch, _ in holding.records]

    def unfinished(self) -> list[Batch]:
        """Return the batches with unread records."""
        return [*([self.batch] if self.batch is not None else []), *self.batches]


class Waited(NamedTuple):
    """What the closing gate waits for at one subscription.

    Fields:
        owner: the agent that reads, "" for other streams.
        in_progress: records handed out and not finished, of all partitions.
        behind: per partition that is not read far enough: where it is read, and how far it must be.
    """

    owner: str
    in_progress: int
    behind: dict[Partition, tuple[int | None, int]]


class Gate:
    """Opens and closes all cursors together.

    Fields:
        asked: topics of which a record in progress waits for an answer, with the number of such
            records. They flow until it came, also while the gate closes.
        closed: read by streams before every record.
        left: positions of subscriptions that ended since the gate was opened: what they read is in
            this epoch, although nobody reads on.
        limits: while closed, per partition the position that every reader has to reach.
        stamp: the present (assignment, attempt); a batch with another one is dropped.
        targets: positions that the epoch must reach before it ends (records tried alone).
        only: partitions that may be read in this epoch; None is all.
    """

    __slots__ = (
        "_opened",
        "_progress",
        "asked",
        "closed",
        "cursors",
        "left",
        "limits",
        "only",
        "stamp",
        "targets",
    )

    def __init__(self, stamp: Stamp) -> None:
        self.closed = True
        self.asked: dict[str, int] = {}
        self.left: dict[Partition, int] = {}
        self.limits: dict[Partition, int] = {}
        self.targets: dict[Partition, int] = {}
        self.only: frozenset[Partition] | None = None
        self.cursors: list[Cursor] = []
        self.stamp = stamp
        self._opened: asyncio.Event | None = None
        self._progress: asyncio.Event | None = None

    @property
    def opened(self) -> asyncio.Event:
        """The event that is set while the gate is open (made in the running loop)."""
        if self._opened is None:
            self._opened = asyncio.Event()
        return self._opened

    @property
    def progress(self) -> asyncio.Event:
        """The event that is set whenever a reader came closer to the limits."""
        if self._progress is None:
            self._progress = asyncio.Event()
        return self._progress

    def add(self, cursor: Cursor) -> None:
        """Register a cursor; it takes part in every epoch from here on."""
        self.cursors.append(cursor)

    def discard(self, cursor: Cursor) -> None:
        """Forget a cursor whose subscription ended; how far it read belongs to this epoch."""
        if cursor in self.cursors:
            self.cursors.remove(cursor)
            for partition in cursor.done:
                position = cursor.position(partition)
                if position is not None:
                    self.left[partition] = max(self.left.get(partition, 0), position)
            self.progressed()

    def close(self, partitions: Iterable[Partition]) -> None:
        """Stop all readers before their next record; fix the limits that laggards run up to."""
        self.closed = True
        self.opened.clear()
        self.limits = {}
        for partition in partitions:
            self._limit(partition)
        for cursor in self.cursors:
            if cursor.holdings:
                # A taker holds records: it has to see the gate closing.
                cursor.waiters.wake_all()
        self.progress.set()

    def _limit(self, partition: Partition) -> None:
        """Fix up to where a partition is read while the gate closes; an asked one has no bound."""
        positions = {c: c.position(partition) for c in self.cursors}
        # What a taker handed out is read up to its end by all, so that nothing is left below.
        reached = [max(p, c.taken.get(partition, p)) for c, p in positions.items() if p is not None]
        if partition in self.left:
            reached.append(self.left[partition])
        if reached:
            bound = _NO_BOUND if partition.topic in self.asked else 0
            self.limits[partition] = max(*reached, self.targets.get(partition, 0), bound)

    @contextmanager
    def answering(self, topic: str) -> Generator[None]:
        """Let ``topic`` flow inside the block, in which a record in progress waits for an answer.

        Without that the gate would wait for the record, and the record for what the gate holds.
        """
        self.asked[topic] = self.asked.get(topic, 0) + 1
        self._limit_again(topic)
        try:
            yield
        finally:
            self.asked[topic] -= 1
            if not self.asked[topic]:
                del self.asked[topic]
                self._limit_again(topic)

    def _limit_again(self, topic: str) -> None:
        for partition in [p for p in self.limits if p.topic == topic]:
            self._limit(partition)
        if self.closed:
            # Readers that wait for the opening look again; so does who waits for the drain.
            self.opened.set()
            self.opened.clear()
            for cursor in self.cursors:
                cursor.waiters.wake_all()
            self.progressed()

    def only_read(self, only: frozenset[Partition] | None) -> None:
        """Read only these partitions from here on (None: all); the gate is drained."""
        if only is None and self.only is None:
            return
        self.only = only
        for cursor in self.cursors:
            cursor.set_aside(only)

    def open(self) -> None:
        """Let all readers go on."""
        self.limits = {}
        self.left = {}
        self.closed = False
        self.opened.set()
        for cursor in self.cursors:
            cursor.waiters.wake_all()

    def progressed(self) -> None:
        """Note that a reader finished a record or parked; cheap when the gate is open."""
        if self.closed and self._progress is not None:
            self._progress.set()

    def is_drained(self) -> bool:
        """Return whether everything handed out is finished and all readers stand at the limits."""
        for cursor in self.cursors:
            if cursor.in_progress:
                return False
            if any(cursor.is_behind(partition, limit) for partition, limit in self.limits.items()):
                return False
        return True

    def waited_for(self) -> list[Waited]:
        """Return what keeps the closing gate from being drained, for who has to know."""
        found: list[Waited] = []
        for cursor in self.cursors:
            behind = {
                partition: (cursor.position(partition), limit)
                for partition, limit in self.limits.items()
                if cursor.is_behind(partition, limit)
            }
            if cursor.in_progress or behind:
                found.append(Waited(cursor.owner, cursor.in_progress, behind))
        return found

    def unacknowledged(self) -> tuple[Cursor, RecordEvent] | None:
        """Return a record of this attempt that was handed out and left unfinished, the oldest."""
        for cursor in self.cursors:
            for event in cursor.unacknowledged.values():
                if event.batch.stamp is self.stamp:
                    return cursor, event
        return None

    def admitted(self, batch: Batch) -> int:
        """Return the index behind the last record of ``batch`` that the closing gate admits."""
        limit = self.limits.get(batch.partition)
        offsets = batch.run.offsets
        return bisect_left(offsets, limit) if limit is not None else len(offsets)

    async def wait_drained(self) -> None:
        """Wait until `is_drained`; the caller bounds the time."""
        while not self.is_drained():
            self.progress.clear()
            await self.progress.wait()

    def in_progress(self) -> int:
        """Return how many records are handed out and unfinished."""
        return sum(cursor.in_progress for cursor in self.cursors)

    async def admits(self, cursor: Cursor, batch: Batch) -> bool:
        """Return whether the next record of ``batch`` may be handed out while the gate is closed.

        False means that the reader has to look again: the batch was a ghost and is dropped, or was
        set aside for one that the gate waits for, or the gate has been opened meanwhile.
        """
        if batch.stamp is not self.stamp:
            cursor.drop(batch)
            return False
        if cursor.passes_on(batch):
            return False
        limit = self.limits.get(batch.partition)
        if limit is not None and batch.run.offsets[cursor.index] < limit:
            return True
        self.progressed()
        await self.opened.wait()
        return False

    def committable(self) -> dict[Partition, int]:
        """Return per partition the position that all readers stand at.

        Invariant INV-EPOCH-2/3: called only when drained, so every reader of a partition stands
        at the same position.
        """
        invariant(self.is_drained(), "INV-EPOCH-2: offsets are taken only when drained")
        return dict(self.limits)
