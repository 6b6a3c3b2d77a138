"""What a worker measures: one object per process, told once per batch, commit or rebalance.

No method here is meant to be called per record. Label look-ups are cached, so that a call costs
about a microsecond. Methods may be called from any thread; the HTTP thread scrapes meanwhile.

Each worker has a registry of its own rather than the client library's global one, so that two
workers in one test do not mix; multiprocess mode is not used, because it loses collectors that
compute at the scrape (https://prometheus.github.io/client_python/multiprocess/).
"""

from __future__ import annotations

import platform
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Info, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from onceflow.limits import GATE_WINDOW_S
from onceflow.observe import catalogue
from onceflow.observe.catalogue import (
    CATALOGUE,
    BranchEnd,
    DropReason,
    MetricSpec,
    RebalanceKind,
    TransactionOutcome,
)
from onceflow.observe.health import TaskState, WorkerState, task_name
from onceflow.observe.series import Families
from onceflow.observe.statistics import StatisticsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from onceflow.ids import TaskId
    from onceflow.observe.statistics import Document

__all__ = [
    "CATALOGUE",
    "EXPOSITION_CONTENT_TYPE",
    "BranchEnd",
    "DropReason",
    "MetricSpec",
    "RebalanceKind",
    "StoreSizes",
    "TransactionOutcome",
    "WorkerMetrics",
]

EXPOSITION_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of ``exposition()``: the format that every scraper reads."""

ACTIVE_ROLE = "active"
"""Role of a task that owns its partitions."""


@dataclass(frozen=True, slots=True)
class StoreSizes:
    """What one table's store takes, read from RocksDB."""

    disk_bytes: int
    memtables_bytes: int = 0
    pending_compaction_bytes: int = 0
    background_errors: int = 0


class _GateWindow:
    """Closings of the gate within the last seconds, for the share of time it is closed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begun_s = clock()
        self._closings: deque[tuple[float, float]] = deque()

    def closed(self, closed_s: float) -> None:
        """Note a closing that has just ended."""
        at_s = self._clock()
        with self._lock:
            self._closings.append((at_s, closed_s))
            self._trim(at_s)

    def ratio(self) -> float:
        """Return the closed share of the window, or of the time since the start if shorter."""
        at_s = self._clock()
        with self._lock:
            self._trim(at_s)
            closed_s = sum(closed for _, closed in self._closings)
        span_s = min(GATE_WINDOW_S, at_s - self._begun_s)
        return min(1.0, closed_s / span_s) if span_s > 0 else 0.0

    def _trim(self, at_s: float) -> None:
        while self._closings and self._closings[0][0] < at_s - GATE_WINDOW_S:
            self._closings.popleft()


class _WorkerFamilies:
    """The registry of one process and what concerns the worker as a whole."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a registry with every metric of the catalogue.

        Args:
            clock: monotonic seconds, for ages and shares that are computed at the scrape.
        """
        self._clock = clock
        self._families = families = Families(catalogue.SERIES_REFUSED)
        self._registry = families.registry
        ProcessCollector(registry=self._registry)
        self._statistics = StatisticsCollector()
        self._registry.register(self._statistics)
        self._worker_state = families.gauges(catalogue.WORKER_STATE)
        self._invariant_violations = families.counters(catalogue.INVARIANT_VIOLATIONS).child()
        self._poll_interval = families.histograms(catalogue.POLL_INTERVAL).child()
        self._in_flight = families.gauges(catalogue.RECORDS_IN_FLIGHT).child()
        self._in_flight_bytes = families.gauges(catalogue.IN_FLIGHT_BYTES).child()
        self.worker_state(WorkerState.STARTING)

    def build(self, version: str, librdkafka: str) -> None:
        """Set the build information, once per process."""
        spec = catalogue.BUILD_INFO
        info = Info(spec.name.removesuffix("_info"), spec.meaning, registry=self._registry)
        values = (version, platform.python_version(), librdkafka)
        info.info(dict(zip(spec.labels, values, strict=True)))

    def worker_state(self, state: WorkerState) -> None:
        """Set the worker's present state."""
        for each in WorkerState:
            self._worker_state.child(each.value).set(each is state)

    def invariant_violation(self) -> None:
        """Count a broken invariant, just before the worker stops."""
        self._invariant_violations.inc()

    def polled(self, interval_s: float) -> None:
        """Note the time since the previous poll."""
        self._poll_interval.observe(interval_s)

    def in_flight(self, records: int, size_bytes: int) -> None:
        """Set what is polled and not yet processed."""
        self._in_flight.set(records)
        self._in_flight_bytes.set(size_bytes)

    def client_statistics(self, document: Document, client: str) -> None:
        """Take over one statistics document of librdkafka, as ``stats_cb`` gives it or parsed.

        Args:
            document: it must not be changed afterwards.
            client: its label, a name that stays over restarts: ``consumer``, ``producer-0``.
        """
        self._statistics.update(client, document)

    def client_closed(self, client: str) -> None:
        """Drop the statistics of a client that is no more."""
        self._statistics.forget(client)

    def exposition(self) -> bytes:
        """Render everything in Prometheus' text format, of ``EXPOSITION_CONTENT_TYPE``."""
        return generate_latest(_WithoutCreated(self._registry))


class _WithoutCreated(Collector):
    """A registry without the creation times, which double the number of series and tell nothing.

    The client library can switch them off only for the whole process, users' metrics included.
    """

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for family in self._inner.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


class _RecordFamilies(_WorkerFamilies):
    """Records in and out, and lag."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        families = self._families
        self._consumed = families.counters(catalogue.RECORDS_CONSUMED)
        self._runs = families.counters(catalogue.RUNS_CONSUMED)
        self._latency = families.histograms(catalogue.RECORD_LATENCY).child()
        self._produced = families.counters(catalogue.RECORDS_PRODUCED)
        self._dropped = families.counters(catalogue.RECORDS_DROPPED)
        self._dead_letters = families.counters(catalogue.DEAD_LETTERS)
        self._offset_lag = families.gauges(catalogue.OFFSET_LAG)
        self._time_lag = families.gauges(catalogue.TIME_LAG)
        for reason in DropReason:
            self._dropped.child(reason.value)

    def run_consumed(self, topic: str, partition: int, records: int) -> None:
        """Count one run of records handed to agents."""
        number = str(partition)
        self._consumed.child(topic, number).inc(records)
        self._runs.child(topic, number).inc()

    def run_processed(self, latency_s: float) -> None:
        """Note the time from taken in to processed of a run's oldest record."""
        self._latency.observe(latency_s)

    def produced(self, topic: str, records: int) -> None:
        """Count records given to the producer since the last call."""
        self._produced.child(topic).inc(records)

    def dropped(self, reason: DropReason, records: int = 1) -> None:
        """Count records that were read and had no effect."""
        self._dropped.child(DropReason(reason).value).inc(records)

    def dead_letter(self, topic: str, records: int = 1) -> None:
        """Count records of ``topic`` that were written to the dead-letter topic."""
        self._dead_letters.child(topic).inc(records)

    def lag(self, topic: str, partition: int, offset_lag: int, time_lag_s: float) -> None:
        """Set how far behind a partition is, in offsets and in seconds."""
        number = str(partition)
        self._offset_lag.child(topic, number).set(offset_lag)
        self._time_lag.child(topic, number).set(time_lag_s)

    def partition_lost(self, topic: str, partition: int) -> None:
        """Forget the lag of a partition that is ours no more: its new owner reports it."""
        number = str(partition)
        self._offset_lag.remove(topic, number)
        self._time_lag.remove(topic, number)


class _CommitFamilies(_RecordFamilies):
    """Commit epochs, the gate, and rebalances."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        families = self._families
        self._transactions = families.counters(catalogue.TRANSACTIONS)
        self._phases = families.histograms(catalogue.TRANSACTION_DURATION)
        self._epochs = families.histograms(catalogue.COMMIT_EPOCH_DURATION).child()
        self._closed = families.counters(catalogue.GATE_CLOSED_SECONDS).child()
        self._last_commit = families.gauges(catalogue.LAST_COMMIT)
        self._rebalances = families.counters(catalogue.REBALANCES)
        self._rebalance_s = families.histograms(catalogue.REBALANCE_DURATION).child()
        self._gate = _GateWindow(clock)
        families.gauges(catalogue.GATE_CLOSED_RATIO).child().set_function(self._gate.ratio)
        self._opened_s: float | None = None
        open_age = families.gauges(catalogue.TRANSACTION_OPEN_AGE).child()
        open_age.set_function(self._open_age_s)
        for outcome in TransactionOutcome:
            self._transactions.child(outcome.value)
        for kind in RebalanceKind:
            self._rebalances.child(kind.value)

    def transaction_begun(self) -> None:
        """Note that a transaction is open from this moment on."""
        self._opened_s = self._clock()

    def commit_finished(
        self, outcome: TransactionOutcome, phases: Mapping[str, float], closed_s: float
    ) -> None:
        """Count the end of a commit epoch.

        Args:
            outcome: how it ended.
            phases: seconds in each of its consecutive phases (``process``, ``seal``,
                ``prepare``, ``offsets``, ``flush``, ``commit``); names must be constants.
            closed_s: how long the gate was closed for it.
        """
        self._opened_s = None
        self._transactions.child(TransactionOutcome(outcome).value).inc()
        for phase, duration_s in phases.items():
            self._phases.child(phase).observe(duration_s)
        self._epochs.observe(sum(phases.values()))
        self._closed.inc(closed_s)
        self._gate.closed(closed_s)

    def tasks_committed(self, tasks: Iterable[TaskId], at_s: float) -> None:
        """Set when the tasks' work was last committed, in Unix time."""
        for task in tasks:
            self._last_commit.child(task_name(task)).set(at_s)

    def rebalance(self, kind: RebalanceKind, duration_s: float) -> None:
        """Count a change of assignment and how long our part of it took."""
        self._rebalances.child(RebalanceKind(kind).value).inc()
        self._rebalance_s.observe(duration_s)

    def _open_age_s(self) -> float:
        opened_s = self._opened_s
        return 0.0 if opened_s is None else self._clock() - opened_s


class _BranchFamilies(_CommitFamilies):
    """Sinks: what is prepared in two-phase ones, and what outbox sinks have applied."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        families = self._families
        self._in_doubt = families.gauges(catalogue.BRANCHES_IN_DOUBT).child()
        self._oldest_branch = families.gauges(catalogue.BRANCH_OLDEST_AGE).child()
        self._prepares = families.histograms(catalogue.BRANCH_PREPARE_DURATION)
        self._finishes = families.histograms(catalogue.BRANCH_COMMIT_DURATION)
        self._resolved = families.counters(catalogue.BRANCHES_RESOLVED)
        self._participant_failures = families.counters(catalogue.PARTICIPANT_FAILURES)
        self._heuristics = families.counters(catalogue.HEURISTIC_OUTCOMES).child()
        self._outbox_lag = families.gauges(catalogue.OUTBOX_LAG)
        self._outbox_time_lag = families.gauges(catalogue.OUTBOX_TIME_LAG)
        self._outbox_applies = families.histograms(catalogue.OUTBOX_APPLY_DURATION)
        self._outbox_applied = families.counters(catalogue.OUTBOX_APPLIED)
        self._outbox_refused = families.counters(catalogue.OUTBOX_REFUSED)
        for end in BranchEnd:
            self._resolved.child(end.value)
        self._coordinator = families.gauges(catalogue.COORDINATOR_CONNECTED).child()
        self._untold = families.gauges(catalogue.COORDINATOR_WAITING).child()
        self._unrecorded = families.counters(catalogue.COORDINATOR_LOST).child()

    def in_doubt(self, branches: int, oldest_age_s: float) -> None:
        """Set how many epochs of ours are in doubt in two-phase sinks, and for how long."""
        self._in_doubt.set(branches)
        self._oldest_branch.set(oldest_age_s)

    def branch_prepared(self, participant: str, duration_s: float) -> None:
        """Note that a participant prepared an epoch of ours."""
        self._prepares.child(participant).observe(duration_s)

    def branch_committed(self, participant: str, duration_s: float) -> None:
        """Note that a participant shows a branch, and how long after it was asked to."""
        self._finishes.child(participant).observe(duration_s)

    def branches_resolved(self, end: BranchEnd, branches: int) -> None:
        """Count branches that were left behind and are finished."""
        self._resolved.child(BranchEnd(end).value).inc(branches)

    def participant_failed(self, participant: str) -> None:
        """Count a call that a participant did not answer for sure."""
        self._participant_failures.child(participant).inc()

    def outbox_lag(self, sink: str, messages: int, behind_s: float) -> None:
        """Set what an outbox sink has still to apply, and the age of the oldest of it."""
        self._outbox_lag.child(sink).set(messages)
        self._outbox_time_lag.child(sink).set(behind_s)

    def outbox_applied(self, sink: str, messages: int, duration_s: float) -> None:
        """Count what the target of an outbox sink took in one local transaction."""
        self._outbox_applies.child(sink).observe(duration_s)
        self._outbox_applied.child(sink).inc(messages)

    def outbox_refused(self, sink: str) -> None:
        """Count a message that the target of an outbox sink refused."""
        self._outbox_refused.child(sink).inc()

    def coordinator_told(self, waiting: int, *, is_connected: bool) -> None:
        """Set whether the coordinator's group answers, and how much it was not told yet."""
        self._coordinator.set(is_connected)
        self._untold.set(waiting)

    def coordinator_lost(self) -> None:
        """Count a change that the coordinator's record will lack."""
        self._unrecorded.inc()

    def heuristic_outcome(self) -> None:
        """Count a branch that ended against Kafka's decision, just before the worker stops."""
        self._heuristics.inc()


class WorkerMetrics(_BranchFamilies):
    """Everything a worker measures: worker, records, commits, and here tasks and their stores."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a registry with every metric of the catalogue.

        Args:
            clock: monotonic seconds, for ages and shares that are computed at the scrape.
        """
        super().__init__(clock=clock)
        families = self._families
        self._tasks = families.gauges(catalogue.TASKS)
        self._restore = families.gauges(catalogue.RESTORE_REMAINING)
        self._store_bytes = families.gauges(catalogue.STORE_BYTES)
        self._memtables = families.gauges(catalogue.ROCKSDB_MEMTABLES)
        self._pending_compaction = families.gauges(catalogue.ROCKSDB_PENDING_COMPACTION)
        self._background_errors = families.gauges(catalogue.ROCKSDB_BACKGROUND_ERRORS)
        self._block_cache = families.gauges(catalogue.ROCKSDB_BLOCK_CACHE).child()
        for state in TaskState:
            self._tasks.child(ACTIVE_ROLE, state.value)

    def tasks(self, counts: Mapping[TaskState, int]) -> None:
        """Set the number of tasks in each state; states left out have none."""
        for state in TaskState:
            self._tasks.child(ACTIVE_ROLE, state.value).set(counts.get(state, 0))

    def restore(self, task: TaskId, table: str, remaining: int) -> None:
        """Set the changelog records that a table's restore has still to replay."""
        self._restore.child(task_name(task), table).set(remaining)

    def store(self, task: TaskId, sizes: Mapping[str, StoreSizes]) -> None:
        """Set what the stores of a task take, by table."""
        name = task_name(task)
        for table, size in sizes.items():
            self._store_bytes.child(name, table).set(size.disk_bytes)
            self._memtables.child(name, table).set(size.memtables_bytes)
            self._pending_compaction.child(name, table).set(size.pending_compaction_bytes)
            self._background_errors.child(name, table).set(size.background_errors)

    def block_cache(self, used_bytes: int) -> None:
        """Set the memory in the block cache of the process."""
        self._block_cache.set(used_bytes)

    def task_closed(self, task: TaskId) -> None:
        """Forget the gauges of a task that left: its new owner reports them."""
        name = task_name(task)
        for family in (
            self._restore,
            self._store_bytes,
            self._memtables,
            self._pending_compaction,
            self._background_errors,
            self._last_commit,
        ):
            family.remove_where(0, name)
