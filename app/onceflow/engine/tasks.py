"""Tasks: opening, restoring, applying and closing the stores of the partitions that are ours.

A task is one partition number of a co-partitioned set of topics and tables; it has one RocksDB with
a column family per table. Restoring runs on a worker thread, outside of the group's callbacks, and
ends when every changelog's *position* has reached the high watermark that was taken when it began
(not at a last record: transactions end in control records that are never delivered).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onceflow.decisions.copartition import tasks as tasks_of
from onceflow.engine.changelogs import DELETE_RETENTION_MS, check_changelogs
from onceflow.engine.restoring import RestoreJob
from onceflow.errors import invariant
from onceflow.ids import Partition, TaskId
from onceflow.kafka.changelog import LOG_START
from onceflow.limits import STORE_HEARTBEAT_S
from onceflow.observe.events import LogEvent
from onceflow.observe.health import TaskState, WorkerState, task_name
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import StoreSizes
from onceflow.state.directory import StoreDirectory
from onceflow.state.memory import MemoryBudget
from onceflow.state.restore import RestoreLoader
from onceflow.state.task_store import StoreIdentity, TaskStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.engine.runtime import Runtime
    from onceflow.engine.sealing import Sealed
    from onceflow.observe.metrics import WorkerMetrics
    from onceflow.state.overlay import Changes

log = get_logger(__name__)


class _Restoring(NamedTuple):
    task: TaskId
    table: str
    loader: RestoreLoader
    store: TaskStore


def wall_ms() -> int:
    """Return the wall clock in ms: the age of stores is told by it."""
    return int(time.time() * 1000)  # noqa: TID251 - an edge: stores outlive processes


class Tasks:
    """The open tasks of this worker.

    Fields:
        stores: open store per task; a task without tables has none.
        partitions: input partitions per open task.
        claimed: restored tasks that are being claimed; they run from the next opening on.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stores: dict[TaskId, TaskStore] = {}
        self.partitions: dict[TaskId, frozenset[Partition]] = {}
        self.claimed: set[TaskId] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._applied_s: dict[TaskId, float] = {}
        self._budget: MemoryBudget | None = None
        self._identity: StoreIdentity | None = None
        self._delete_retention_ms = DELETE_RETENTION_MS

    def _tables(self, task: TaskId) -> dict[str, Any]:
        """Return what keeps state in a task: tables and aggregates of its partition count."""
        return {
            source.name: source
            for source in self.runtime.sources()
            if source.partition_count == task.partition_count
        }

    @property
    def directory(self) -> Path:
        """Where the stores are: beside Faust's own tables, which are never touched."""
        return Path(self.runtime.app.conf.appdir) / "onceflow"

    def remove_stores(self) -> None:
        """Delete the stores in this data directory; the state is restored from the changelogs.

        Raises:
            ConfigError: a worker has one open; those before it are deleted.
        """
        for path in sorted(self.directory.glob("*-*")):
            StoreDirectory(path).remove()

    async def identify(self) -> StoreIdentity:
        """Learn which cluster and which changelog topics the state belongs to; asked once.

        Raises:
            TopologyError: a changelog is configured to lose state; see `check_changelogs`.
        """
        if self._identity is not None:
            return self._identity
        sources = self.runtime.sources()
        names = {t.name: t.changelog_topic_name for t in sources}
        admin = self.runtime.clients.admin
        topics = await admin.topics(set(names.values()))
        self._delete_retention_ms = check_changelogs(
            sources,
            await admin.topic_configs(topics) if topics else {},
            self.runtime.clients.config.bootstrap_servers,
        )
        self._identity = StoreIdentity(
            app=self.runtime.app.conf.id,
            cluster_id=await admin.cluster_id(),
            changelog_topic_ids={t: topics[topic].topic_id for t, topic in names.items()},
        )
        return self._identity

    def _of(self, partitions: Iterable[Partition]) -> dict[TaskId, frozenset[Partition]]:
        found = tasks_of(frozenset(partitions), self.runtime.partition_counts)
        return {task: frozenset(inputs) for task, inputs in found.items()}

    def taking_over(self, partitions: Iterable[Partition]) -> None:
        """Note that the tasks of these partitions are on their way here."""
        self.runtime.health.assigned([*self.partitions, *self._of(partitions)])

    def taken_over(self, partitions: Iterable[Partition], fenced: Iterable[str]) -> None:
        """Note that nobody else can write for these partitions any more."""
        for task, inputs in self._of(partitions).items():
            log.info(
                LogEvent.TASK_TAKEN_OVER,
                task=task_name(task),
                partitions=[f"{p.topic}-{p.number}" for p in sorted(inputs)],
                fenced=sorted(fenced),
            )

    def run(self) -> None:
        """Note that the restored tasks are claimed, and that their records are processed."""
        for task in sorted(self.claimed):
            self.runtime.health.task(task, TaskState.RUNNING)
            log.info(LogEvent.TASK_RUNNING, task=task_name(task))
        self.claimed.clear()

    async def restore(self, partitions: Iterable[Partition]) -> None:
        """Open the tasks of these input partitions and bring their stores up to date."""
        identity = await self.identify()
        await self._closed()
        opened = self._of(partitions)
        self.runtime.show(WorkerState.RESTORING)
        restoring: dict[Partition, _Restoring] = {}
        for task, inputs in opened.items():
            self.partitions[task] = inputs
            self.runtime.health.task(task, TaskState.RESTORING)
            tables = self._tables(task)
            if not tables:
                continue
            path = self.directory / f"{task.partition_count}-{task.number}"
            store = self.open_store(path, identity, list(tables))
            self._report_rebuilds(task, store)
            self.stores[task] = store
            for name, table in tables.items():
                changelog = Partition(table.changelog_topic_name, task.number)
                loader = RestoreLoader(store, name, table.layout)
                restoring[changelog] = _Restoring(task, name, loader, store)
        if restoring:
            await self._replay(restoring)
        await self.runtime.replicas.caught_up()
        for task in opened:
            for table in self._tables(task).values():
                table.open_part(task.number, self.stores[task])
        self.claimed |= opened.keys()
        self.runtime.replicas.partitions_changed()
        for table in self.runtime.tables():
            await table.call_recover_callbacks()

    def open_store(self, path: Path, identity: StoreIdentity, tables: list[str]) -> TaskStore:
        """Open a store within the memory budget of the process."""
        if self._budget is None:
            self._budget = MemoryBudget(int(self.runtime.settings.state_memory_bytes))
        path.parent.mkdir(parents=True, exist_ok=True)
        return TaskStore.open(
            path,
            identity,
            tables,
            self._budget,
            now_ms=wall_ms(),
            trusted_for_ms=self._delete_retention_ms // 2,
        )

    def now_ms(self) -> int:
        """Return the wall clock in ms."""
        return wall_ms()

    def _report_rebuilds(self, task: TaskId, store: TaskStore) -> None:
        """Say which tables of a store start empty, and why."""
        for name, reason in store.rebuild_reasons.items():
            log.warning(
                LogEvent.STORE_REBUILT, task=task_name(task), table=name, reason=str(reason)
            )

    async def _replay(self, restoring: dict[Partition, _Restoring]) -> None:
        """Replay changelogs until each position reaches its high watermark."""
        started_s = time.monotonic()
        positions: dict[Partition, int] = {}
        marks = await self.runtime.clients.admin.watermarks(restoring)
        for partition, each in restoring.items():
            if not each.store.check_position(each.table, marks[partition].high):
                self._report_rebuilds(each.task, each.store)
            position = each.store.changelog_position(each.table)
            positions[partition] = LOG_START if position is None else position
        loaders = {partition: each.loader for partition, each in restoring.items()}
        job = RestoreJob(self.runtime.clients.open_reader, positions, loaders, self.runtime.crash)
        await job.run(lambda: self._show_progress(job, restoring))
        for each in restoring.values():
            each.loader.caught_up(now_ms=wall_ms())
            self.runtime.metrics.restore(each.task, each.table, 0)
        log.info(
            LogEvent.TASK_RESTORED,
            records=job.records,
            changelogs=len(restoring),
            elapsed_s=time.monotonic() - started_s,
        )

    def _show_progress(self, job: RestoreJob, restoring: dict[Partition, _Restoring]) -> None:
        """Log how far a restore is, and tell metrics and health."""
        left = job.remaining()
        log.info(LogEvent.TASK_RESTORING, records=job.records, remaining=sum(left.values()))
        of_tasks: dict[TaskId, int] = {}
        for partition, each in restoring.items():
            self.runtime.metrics.restore(each.task, each.table, left[partition])
            of_tasks[each.task] = of_tasks.get(each.task, 0) + left[partition]
        for task, remaining in of_tasks.items():
            self.runtime.health.task(task, TaskState.RESTORING, remaining)

    def measure(self, metrics: WorkerMetrics) -> None:
        """Tell the sizes of the stores; called about once a second."""
        self.heartbeat()
        for task, store in self.stores.items():
            metrics.store(
                task,
                {
                    table: StoreSizes(
                        sizes.sst_bytes,
                        sizes.memtable_bytes,
                        sizes.pending_compaction_bytes,
                        sizes.background_errors,
                    )
                    for table, sizes in store.sizes().items()
                },
            )
        if self._budget is not None:
            metrics.block_cache(self._budget.cache_bytes())

    def apply(self, sealed: Sealed, held: frozenset[Partition]) -> None:
        """Write the committed epoch into the stores of tasks that are still ours.

        Invariant INV-STATE-1: called only after Kafka committed the epoch.
        """
        invariant(
            sealed.is_committed, "INV-STATE-1: only an epoch that Kafka has committed is applied"
        )
        numbers = {partition.number for partition in held}
        for task, store in self.stores.items():
            changes: dict[str, Changes] = {
                name: change
                for (name, number), change in sealed.changes.items()
                if number == task.number and name in self._tables(task)
            }
            if changes and task.number in numbers:
                before = {name: store.changelog_position(name) or 0 for name in changes}
                store.apply(changes, now_ms=wall_ms())
                self._applied_s[task] = time.monotonic()
                for name, change in changes.items():
                    self.runtime.replicas.feed(name, task.number, before[name], change)

    def heartbeat(self) -> None:
        """Note in stores that did not change for an hour that they are complete, being ours.

        Without it a quiet store would be too old to be trusted at the next start.
        """
        for task, store in self.stores.items():
            quiet_s = time.monotonic() - self._applied_s.get(task, 0.0)
            if quiet_s > STORE_HEARTBEAT_S and self._is_open(task):
                store.apply({}, now_ms=wall_ms())
                self._applied_s[task] = time.monotonic()

    def _is_open(self, task: TaskId) -> bool:
        """Return whether the task is restored and processes records."""
        return any(task.number in table.parts for table in self._tables(task).values())

    async def close(self, partitions: Iterable[Partition]) -> None:
        """Close the tasks that any of these partitions belongs to.

        Closing flushes, some 0.1 s per store and more on a slow disk, so it runs beside the loop.
        """
        gone = frozenset(partitions)
        closing: list[TaskStore] = []
        for task in [t for t, inputs in self.partitions.items() if inputs & gone]:
            del self.partitions[task]
            for table in self._tables(task).values():
                table.close_part(task.number)
            store = self.stores.pop(task, None)
            if store is not None:
                closing.append(store)
            self._applied_s.pop(task, None)
            self.claimed.discard(task)
            self.runtime.metrics.task_closed(task)
            log.info(LogEvent.TASK_CLOSED, task=task_name(task))
        self.runtime.replicas.partitions_changed()
        self.runtime.health.assigned(list(self.partitions))
        if closing:
            job = asyncio.ensure_future(asyncio.to_thread(_close_all, closing))
            self._closing.add(job)
            job.add_done_callback(self._closing.discard)
            await asyncio.shield(job)

    async def _closed(self) -> None:
        """Wait for stores whose closing was left to its thread: they hold their directories."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def close_all(self) -> None:
        """Close everything."""
        await self.close([p for inputs in self.partitions.values() for p in inputs])
        await self._closed()


def _close_all(stores: list[TaskStore]) -> None:
    for store in stores:
        store.close()
