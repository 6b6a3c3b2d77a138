"""Replicas of the changelogs of GlobalTables, kept by following them.

One reader (read_committed) follows all partitions of all GlobalTables' changelogs; each table has a
store of its own with a column family per partition, so that each partition has its own position.
The store is trusted as task stores are: by app, cluster, topic id, age and position.

Partitions that this worker owns are followed too, and what its own epochs commit is written here at
the same moment as into the task's store, so that a partition that goes to another worker is never
seen older than it was here. Reads skip partitions that are open here, whatever the reader's lag.

INV-STATE-1 holds because only committed records are read and only committed epochs are fed.
Reading blocks and runs on a thread; stores are used on the event loop alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from onceflow.errors import Unreachable, invariant
from onceflow.ids import Partition
from onceflow.kafka.changelog import LOG_START
from onceflow.limits import (
    REPLICA_POLL_RECORDS,
    REPLICA_POLL_S,
    REPLICA_ROWS_REMEMBERED_MAX,
    STORE_HEARTBEAT_S,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.state.restore import RestoreLoader

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from onceflow.engine.global_tables import GlobalReads
    from onceflow.engine.runtime import Runtime
    from onceflow.kafka.changelog import ChangelogReader
    from onceflow.kafka.records import Run
    from onceflow.state.overlay import Changes
    from onceflow.state.task_store import StoreIdentity, TaskStore

log = get_logger(__name__)


class Replica:
    """The followed copy of one GlobalTable: reads by partition, all of them committed.

    Fields:
        store: a column family per partition, named by its number.
        loaders: writes the records of a partition.
    """

    def __init__(self, table: GlobalReads, store: TaskStore) -> None:
        self.table = table
        self.store = store
        self.numbers = range(table.partition_count)
        self.loaders = {n: RestoreLoader(store, str(n), table.layout) for n in self.numbers}
        self._remembered: dict[bytes, tuple[int, bytes] | None] = {}

    def position(self, number: int) -> int:
        """Return the next changelog offset of a partition."""
        return self.store.changelog_position(str(number)) or 0

    def get(self, store_key: bytes, skipped: Container[int]) -> bytes | None:
        """Return the row of the first partition that has the key, except those ``skipped``."""
        try:
            known = self._remembered[store_key]
        except KeyError:
            known = self._find(store_key, skipped)
            if len(self._remembered) >= REPLICA_ROWS_REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[store_key] = known
        if known is None:
            return None
        number, row = known
        return row if number not in skipped else None

    def _find(self, store_key: bytes, skipped: Container[int]) -> tuple[int, bytes] | None:
        for number in self.numbers:
            if number not in skipped:
                row = self.store.get(str(number), store_key)
                if row is not None:
                    return number, row
        return None

    def scan(self, skipped: Container[int]) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows of all partitions except those ``skipped``."""
        for number in self.numbers:
            if number not in skipped:
                yield from self.store.scan(str(number))

    def scan_keys(self, start: bytes, stop: bytes, skipped: Container[int]) -> Iterator[bytes]:
        """Iterate over the keys of a range in all partitions except those ``skipped``."""
        for number in self.numbers:
            if number not in skipped:
                yield from self.store.scan_keys(str(number), start, stop)

    def load(self, run: Run, now_ms: int) -> Iterator[int]:
        """Write what a run has beyond the partition's position, in pieces."""
        loader = self.loaders[run.number]
        # Looked up for each piece: an epoch of this worker may be fed in between.
        while (start := bisect_left(run.offsets, self.position(run.number))) < len(run.offsets):
            pieces = loader.load_pieces(
                run.keys[start:], run.values[start:], run.offsets[start:], now_ms=now_ms
            )
            position = next(pieces)
            self.forget_reads()
            yield position

    def feed(self, number: int, before: int, change: Changes, now_ms: int) -> None:
        """Write what an epoch of this worker committed to its own partition.

        Args:
            number: the partition.
            before: the task store's position before the epoch; a replica that is behind it is left
                to the reader, which brings the same records.
            change: the epoch's rows and the position after them.
            now_ms: wall clock.
        """
        position = change.position
        invariant(position is not None, "INV-STATE-2: an epoch's changes have a position")
        if before <= self.position(number) <= (position or 0):
            self.store.replay(str(number), change, now_ms=now_ms)
            self.forget_reads()

    def forget_reads(self) -> None:
        """Forget remembered rows: rows changed, or partitions were opened or closed here."""
        self._remembered.clear()


class Replicas:
    """All replicas of a worker, and the reader that they share.

    Fields:
        by_table: replica per table name.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.by_table: dict[str, Replica] = {}
        self._by_topic: dict[str, Replica] = {}
        self._reader: ChangelogReader | None = None
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._tail: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()
        self._noted_s = 0.0

    @property
    def partitions(self) -> list[Partition]:
        """The changelog partitions that are followed."""
        return [
            Partition(topic, number)
            for topic, replica in self._by_topic.items()
            for number in replica.numbers
        ]

    async def start(self, tables: list[GlobalReads]) -> None:
        """Open the stores and begin to follow. Idempotent."""
        if self._tail is not None or not tables:
            return
        identity = await self.runtime.tasks.identify()
        for table in tables:
            replica = Replica(table, self._open(table, identity))
            self.by_table[table.name] = self._by_topic[table.changelog_topic_name] = replica
            table.replica = replica
        marks = await self.runtime.clients.admin.watermarks(self.partitions)
        positions: dict[Partition, int] = {}
        for partition, mark in marks.items():
            store = self._by_topic[partition.topic].store
            if not store.check_position(str(partition.number), mark.high):
                self._report_rebuilds(self._by_topic[partition.topic])
            position = store.changelog_position(str(partition.number))
            positions[partition] = LOG_START if position is None else position
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "onceflow-replicas")
        reader: ChangelogReader = await self._on_thread(self.runtime.clients.open_reader, positions)
        self._reader = reader
        self._tail = asyncio.ensure_future(self._follow(reader))
        self._tail.add_done_callback(self._ended)

    def _open(self, table: GlobalReads, identity: StoreIdentity) -> TaskStore:
        tasks = self.runtime.tasks
        topic_id = identity.changelog_topic_ids[table.name]
        numbers = [str(number) for number in range(table.partition_count)]
        store = tasks.open_store(
            tasks.directory / f"global-{table.name}",
            identity._replace(changelog_topic_ids=dict.fromkeys(numbers, topic_id)),
            numbers,
        )
        for number, reason in store.rebuild_reasons.items():
            log.warning(
                LogEvent.STORE_REBUILT, table=table.name, partition=number, reason=str(reason)
            )
        return store

    def _report_rebuilds(self, replica: Replica) -> None:
        for number, reason in replica.store.rebuild_reasons.items():
            log.warning(
                LogEvent.STORE_REBUILT,
                table=replica.table.name,
                partition=number,
                reason=str(reason),
            )

    async def _on_thread(self, call: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    async def _follow(self, reader: ChangelogReader) -> None:
        """Loop root: read and write on; a broker that is away is waited for."""
        while True:
            try:
                runs = await self._on_thread(reader.poll, REPLICA_POLL_RECORDS, REPLICA_POLL_S)
            except Unreachable as error:
                log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
                await asyncio.sleep(REPLICA_POLL_S)
                continue
            for run in runs:
                for _ in self._by_topic[run.topic].load(run, self.runtime.tasks.now_ms()):
                    await asyncio.sleep(0)
            self._note_caught_up(reader)
            self._progress.set()

    def _ended(self, tail: asyncio.Task[None]) -> None:
        """Leave if following ended by itself: takeovers would wait for it for ever."""
        if not tail.cancelled():
            self.runtime.fail(tail.exception())

    def _note_caught_up(self, reader: ChangelogReader) -> None:
        """Say about once an hour that the stores are complete, so that they stay trusted."""
        if reader.remaining() or time.monotonic() - self._noted_s < STORE_HEARTBEAT_S:
            return
        self._noted_s = time.monotonic()
        now_ms = self.runtime.tasks.now_ms()
        for replica in self.by_table.values():
            for loader in replica.loaders.values():
                loader.caught_up(now_ms=now_ms)

    async def caught_up(self) -> None:
        """Wait until the replicas have what is in the changelogs at this moment.

        Ends when each position has reached the high watermark, also of transactions that are still
        open (they end within the transaction timeout).
        """
        reader = self._reader
        if reader is None:
            return
        for replica in self.by_table.values():
            replica.forget_reads()
        ends = await self.runtime.clients.admin.end_offsets(self.partitions)
        shown_s = time.monotonic()
        while left := sum(max(0, end - reader.position(p)) for p, end in ends.items()):
            if time.monotonic() - shown_s > _PROGRESS_S:
                shown_s = time.monotonic()
                log.info(LogEvent.REPLICA_FOLLOWING, remaining=left)
            self._progress.clear()
            await self._progress.wait()

    def feed(self, table: str, number: int, before: int, change: Changes) -> None:
        """Write what an epoch of this worker committed, if ``table`` is a GlobalTable."""
        replica = self.by_table.get(table)
        if replica is not None:
            replica.feed(number, before, change, self.runtime.tasks.now_ms())

    def partitions_changed(self) -> None:
        """Take note that partitions were opened or closed here."""
        for replica in self.by_table.values():
            replica.forget_reads()

    async def stop(self) -> None:
        """End the reader and close the stores."""
        if self._tail is not None:
            self._tail.cancel()
            await asyncio.gather(self._tail, return_exceptions=True)
            self._tail = None
        if self._thread is not None:
            if self._reader is not None:
                await self._on_thread(self._reader.close)
            self._thread.shutdown()
        for replica in self.by_table.values():
            replica.table.replica = None
            replica.store.close()
        self.by_table.clear()
        self._by_topic.clear()


_PROGRESS_S = 1.0
"""How often catching up is logged."""
