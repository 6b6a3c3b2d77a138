"""Where runs come in: from the poll thread to the subscriptions.

Runs read before the last rewind are dropped, records that must go alone are held back until what is
before them is committed, and every run is accounted once to the back-pressure bound.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from onceflow.decisions import epoch_events as ev
from onceflow.decisions.copartition import check_assignment, missing
from onceflow.engine.isolation import Isolation
from onceflow.engine.lockstep import Lockstep
from onceflow.errors import OnceflowError, invariant
from onceflow.ids import TaskId
from onceflow.kafka.configuration import GroupProtocol, Hooks, consumer_config
from onceflow.kafka.poll import Bounds, PollThread
from onceflow.kafka.statistics import parse as parse_statistics
from onceflow.observe.catalogue import RebalanceKind
from onceflow.observe.events import LogEvent
from onceflow.observe.health import WorkerState
from onceflow.observe.logs import get_logger
from onceflow.settings import GroupProtocol as SettingsGroupProtocol

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

    from onceflow.engine.conductor import Conductor
    from onceflow.engine.gate import Cursor
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Partition
    from onceflow.kafka.poll import Assignment
    from onceflow.kafka.records import Run

log = get_logger(__name__)

_STATISTICS_MS = 1000


class Inflow:
    """Takes runs, assignments and revocations from the poll thread.

    Fields:
        assigned: partitions of the present assignment, claimed or not.
        isolation: holds runs back while a record is suspect.
        lockstep: holds runs back of which another reader has not read the part before.
        incomplete: assigned partitions whose task lacks others still; with KIP-848 an assignment
            arrives in pieces, and a task is claimed as a whole.
        assigned_s: when the present assignment came; 0 once its records are processed.
        records: records finished since the last commit; a commit by records starts from it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.assigned: frozenset[Partition] = frozenset()
        self.isolation = Isolation(runtime)
        self.lockstep = Lockstep(self.dispatch)
        self.incomplete: frozenset[Partition] = frozenset()
        self.assigned_s = 0.0
        self.records = 0
        self.poll: PollThread | None = None
        self.end_offsets: dict[Partition, int] = {}
        self._last_timestamps: dict[Partition, int] = {}
        self._began_s: dict[int, float] = {}

    # -- life --

    async def subscribe(self, topics: list[str]) -> None:
        """Join the group with these topics, starting the poll thread the first time."""
        if self.poll is None:
            settings = self.runtime.settings
            config = consumer_config(
                self.runtime.clients.config,
                self.runtime.app.conf.id,
                worker_id=settings.worker_id,
                protocol=GroupProtocol(settings.group_protocol.value),
                session_timeout_ms=settings.session_timeout_ms,
                hooks=Hooks(
                    on_statistics=self._on_statistics, statistics_interval_ms=_STATISTICS_MS
                ),
            )
            self.poll = PollThread(
                config,
                loop=asyncio.get_running_loop(),
                on_runs=self.on_runs,
                on_assigned=self.on_assigned,
                on_revoked=self.on_revoked,
                on_lost=self.on_lost,
                on_failure=self.runtime.failures.client_failed,
                bounds=Bounds(
                    run_records_max=settings.run_records,
                    flight_records_max=settings.in_flight_records,
                    flight_bytes_max=int(settings.in_flight_bytes),
                    revoke_s=settings.revoke_bound_s * 2,
                ),
            )
            self.poll.on_overdue = self.on_overdue
            self.poll.start()
        await self.poll.subscribe(topics)

    async def stop(self) -> None:
        """Leave the group."""
        if self.poll is not None:
            await self.poll.stop()
            self.poll = None

    @property
    def _conductor(self) -> Conductor:
        return cast("Conductor", self.runtime.app.topics)

    def cursors(self, partition: Partition) -> list[Cursor]:
        """Return the subscriptions that read ``partition``."""
        return self._conductor.cursors(partition)

    # -- runs --

    def on_runs(self, runs: list[Run]) -> None:
        """Hand runs to their subscriptions."""
        poll = self.poll
        if poll is None:
            return
        metrics = self.runtime.metrics
        for run in runs:
            if not poll.is_current(run):
                poll.account(len(run), run.size_bytes)
                continue
            metrics.run_consumed(run.topic, run.number, len(run))
            if self.isolation.arrived(run):
                continue
            if len(self.cursors(run.partition)) > 1 or run.partition in self.lockstep.held:
                self.lockstep.arrived(run)
            else:
                self.dispatch(run)

    def dispatch(self, run: Run, skipping: Iterable[Cursor] = ()) -> None:
        """Give a run to its subscriptions, except those that are not to see it."""
        batch = self._conductor.dispatch(run, self.runtime.gate.stamp, skipping)
        self._last_timestamps[run.partition] = run.timestamps[-1]
        self._began_s[id(run)] = time.monotonic()
        if not batch.readers_left:
            self.account(run)

    def account(self, run: Run) -> None:
        """Free a finished or dropped run's share of the back-pressure bound."""
        if self.poll is not None:
            self.poll.account(len(run), run.size_bytes)
        began_s = self._began_s.pop(id(run), None)
        if began_s is not None:
            self.runtime.metrics.run_processed(time.monotonic() - began_s)
        self.records += len(run)
        settings, epochs = self.runtime.settings, self.runtime.epochs
        if self.records >= settings.commit_records and epochs.is_open:
            self.records = 0
            epochs.post(ev.CommitDue(ev.CommitReason.RECORDS))
        elif epochs.is_open and epochs.work.held_bytes() >= settings.commit_bytes:
            epochs.post(ev.CommitDue(ev.CommitReason.BYTES))
        self.lockstep.finished(run)

    def drop_all(self) -> None:
        """Drop what is held back and make everything under way stale."""
        for run in [*self.isolation.drop_all(), *self.lockstep.drop_all()]:
            self.account(run)
        if self.poll is not None:
            self.poll.pause(self.assigned)

    def start_at(self, offsets: Mapping[Partition, int]) -> Coroutine[Any, Any, int]:
        """Let these partitions deliver from these offsets on; await it to know that they do."""
        poll = self.poll
        invariant(poll is not None, "INV-EPOCH-3: only a subscribed consumer is positioned")
        return cast("PollThread", poll).start_at(offsets)

    def forget(self, partitions: frozenset[Partition]) -> None:
        """Drop what is held back of partitions that are not ours any more."""
        self.assigned -= partitions
        for run in self.isolation.forget(partitions):
            self.account(run)
        for partition in partitions:
            for run in self.lockstep.forget(partition):
                self.account(run)
            self.runtime.metrics.partition_lost(partition.topic, partition.number)

    # -- the group --

    def on_assigned(self, assignment: Assignment) -> None:
        """Check the assignment against co-partitioning, then hand it to the epochs."""
        log.info(
            LogEvent.PARTITIONS_ASSIGNED,
            partitions=[f"{p.topic}-{p.number}" for p in sorted(assignment.partitions)],
        )
        self.assigned = assignment.partitions
        if not assignment.partitions:
            self.runtime.tasks.taking_over(())
        added = assignment.added | (self.incomplete & assignment.partitions)
        self.runtime.show(WorkerState.REBALANCING)
        self.assigned_s = time.monotonic()
        counts = self.runtime.partition_counts
        try:
            if self.runtime.settings.group_protocol is SettingsGroupProtocol.CLASSIC:
                check_assignment(assignment.partitions, counts)
            absent = missing(assignment.partitions, counts)
        except OnceflowError as error:
            self.runtime.fail(error)
            return
        self.incomplete = frozenset(p for p in added if TaskId(counts[p.topic], p.number) in absent)
        cast("Any", self.runtime.app.consumer).assigned_by_group(assignment)
        self.runtime.epochs.assigned(assignment, added - self.incomplete)

    async def on_revoked(self, partitions: frozenset[Partition]) -> None:
        """Commit and release, or abort, within the bound."""
        self.incomplete -= partitions
        log.info(
            LogEvent.PARTITIONS_REVOKED,
            partitions=[f"{p.topic}-{p.number}" for p in sorted(partitions)],
        )
        started_s = time.monotonic()
        await self.runtime.epochs.revoke(partitions, self.runtime.settings.revoke_bound_s)
        await cast("Any", self.runtime.app.consumer).revoked_by_group(partitions)
        self.runtime.metrics.rebalance(RebalanceKind.REVOKED, time.monotonic() - started_s)

    async def on_lost(self, partitions: frozenset[Partition]) -> None:
        """Drop partitions that are gone already."""
        self.incomplete -= partitions
        log.warning(
            LogEvent.PARTITIONS_LOST,
            partitions=[f"{p.topic}-{p.number}" for p in sorted(partitions)],
        )
        self.runtime.epochs.post(ev.Lost(partitions))
        await cast("Any", self.runtime.app.consumer).revoked_by_group(partitions)
        self.runtime.metrics.rebalance(RebalanceKind.LOST, 0.0)

    def on_overdue(self, partitions: frozenset[Partition]) -> None:
        """Take partitions for lost that were given up before the epochs could answer."""
        self.incomplete -= partitions
        self.runtime.epochs.post(ev.Lost(partitions))

    # -- measures --

    def _on_statistics(self, document: str) -> None:
        """Take librdkafka's statistics (on the poll thread) to the metrics."""
        statistics = parse_statistics(document)
        self.runtime.metrics.client_statistics(document, "consumer")
        at_ms = time.time() * 1000  # noqa: TID251 - lag in seconds is against the wall clock
        for partition, measured in statistics.partitions.items():
            if measured.offset_lag < 0:
                continue
            self.end_offsets[partition] = measured.last_stable_offset
            seen_ms = self._last_timestamps.get(partition)
            behind_s = 0.0
            if measured.offset_lag > 0 and seen_ms is not None:
                behind_s = max(0.0, (at_ms - seen_ms) / 1000)
            self.runtime.metrics.lag(
                partition.topic, partition.number, measured.offset_lag, behind_s
            )
