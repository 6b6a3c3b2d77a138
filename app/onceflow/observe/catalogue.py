"""The catalogue of metrics, as data: what exists, in which unit, and what it tells.

Rules of this file, checked by the catalogue's tests: the prefix is ``onceflow_``; units are base
units and end the name (``_seconds``, ``_bytes``, ``_ratio``); counters end in ``_total``; every
label's values are bounded by something that is small by nature (topics, partitions, tasks, tables,
members of an enum). Dashboards and alerts may name only what stands here. The metrics of
librdkafka itself stand in ``statistics.py``, because their names are foreign.

Naming: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """How a metric moves: only up, up and down, as a distribution, or never."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Unit(StrEnum):
    """Base unit, and the suffix that a name with it carries; counts have none."""

    SECONDS = "seconds"
    BYTES = "bytes"
    RATIO = "ratio"
    COUNT = ""


class TransactionOutcome(StrEnum):
    """How a commit epoch ended."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    FENCED = "fenced"


class RebalanceKind(StrEnum):
    """What a rebalance did to this worker."""

    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"


class DropReason(StrEnum):
    """Why a record had no effect although it was read."""

    SKIPPED = "skipped"


class BranchEnd(StrEnum):
    """What a worker made of a branch that another incarnation left in a two-phase sink."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric of the catalogue.

    Attributes:
        name: full name, as scraped.
        kind: how it moves.
        meaning: the help text: what it says, and what to compare it with.
        labels: names of its labels, in the order in which values are given.
        unit: base unit; its suffix is part of ``name``.
        buckets: upper bounds of a histogram, in ``unit``.
    """

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()
    unit: Unit = Unit.COUNT
    buckets: tuple[float, ...] = ()


EPOCH_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""From the cheapest step of a commit (about 1 ms) to the default transaction timeout (30 s)."""

LONG_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""For what Kafka's timeouts bound: rebalances, and polls up to ``max.poll.interval.ms``."""

BUILD_INFO = MetricSpec(
    "onceflow_build_info",
    MetricKind.INFO,
    "Which build of onceflow and which Kafka client run here.",
    ("version", "python", "librdkafka"),
)
WORKER_STATE = MetricSpec(
    "onceflow_worker_state",
    MetricKind.GAUGE,
    "1 for the worker's present state, 0 for every other.",
    ("state",),
)
POLL_INTERVAL = MetricSpec(
    "onceflow_poll_interval_seconds",
    MetricKind.HISTOGRAM,
    "Time between two polls of the consumer; max.poll.interval.ms ends the membership.",
    unit=Unit.SECONDS,
    buckets=LONG_BUCKETS_S,
)
INVARIANT_VIOLATIONS = MetricSpec(
    "onceflow_invariant_violations_total",
    MetricKind.COUNTER,
    "Invariants of onceflow found broken: bugs; the worker stops at each.",
)
SERIES_REFUSED = MetricSpec(
    "onceflow_metric_series_refused_total",
    MetricKind.COUNTER,
    "Measurements folded into the series named other, because a metric had its most series.",
    ("metric",),
)
TASKS = MetricSpec(
    "onceflow_tasks",
    MetricKind.GAUGE,
    "Tasks of this worker by role and state.",
    ("role", "state"),
)
RECORDS_CONSUMED = MetricSpec(
    "onceflow_records_consumed_total",
    MetricKind.COUNTER,
    "Records handed to agents, replays of aborted attempts included.",
    ("topic", "partition"),
)
RUNS_CONSUMED = MetricSpec(
    "onceflow_batches_consumed_total",
    MetricKind.COUNTER,
    "Batches (runs of consecutive records of one partition) handed to agents.",
    ("topic", "partition"),
)
RECORDS_PRODUCED = MetricSpec(
    "onceflow_records_produced_total",
    MetricKind.COUNTER,
    "Records given to the producer, those of aborted attempts included.",
    ("topic",),
)
RECORDS_DROPPED = MetricSpec(
    "onceflow_records_dropped_total",
    MetricKind.COUNTER,
    "Records read that had no effect, by reason.",
    ("reason",),
)
DEAD_LETTERS = MetricSpec(
    "onceflow_dead_letters_total",
    MetricKind.COUNTER,
    "Records given up and written to the dead-letter topic, by the topic they came from.",
    ("topic",),
)
RECORD_LATENCY = MetricSpec(
    "onceflow_record_latency_seconds",
    MetricKind.HISTOGRAM,
    "From taken in to processed; one observation a batch, of its oldest record.",
    unit=Unit.SECONDS,
    buckets=EPOCH_BUCKETS_S,
)
RECORDS_IN_FLIGHT = MetricSpec(
    "onceflow_records_in_flight",
    MetricKind.GAUGE,
    "Records polled and not yet processed; back-pressure pauses partitions by it.",
)
IN_FLIGHT_BYTES = MetricSpec(
    "onceflow_in_flight_bytes",
    MetricKind.GAUGE,
    "Keys and values polled and not yet processed; back-pressure pauses partitions by it.",
    unit=Unit.BYTES,
)
OFFSET_LAG = MetricSpec(
    "onceflow_offset_lag",
    MetricKind.GAUGE,
    "Offsets between the next unprocessed record and the partition's last stable offset.",
    ("topic", "partition"),
)
TIME_LAG = MetricSpec(
    "onceflow_time_lag_seconds",
    MetricKind.GAUGE,
    "Age of the next unprocessed record by its Kafka timestamp; 0 where nothing waits.",
    ("topic", "partition"),
    Unit.SECONDS,
)
TRANSACTIONS = MetricSpec(
    "onceflow_transactions_total",
    MetricKind.COUNTER,
    "Kafka transactions (commit epochs) by outcome.",
    ("outcome",),
)
TRANSACTION_DURATION = MetricSpec(
    "onceflow_transaction_duration_seconds",
    MetricKind.HISTOGRAM,
    "Time a commit epoch spends in each of its consecutive phases.",
    ("phase",),
    Unit.SECONDS,
    EPOCH_BUCKETS_S,
)
COMMIT_EPOCH_DURATION = MetricSpec(
    "onceflow_commit_epoch_duration_seconds",
    MetricKind.HISTOGRAM,
    "Length of whole commit epochs: the sum of their phases.",
    unit=Unit.SECONDS,
    buckets=EPOCH_BUCKETS_S,
)
TRANSACTION_OPEN_AGE = MetricSpec(
    "onceflow_transaction_open_age_seconds",
    MetricKind.GAUGE,
    "Age of the oldest open Kafka transaction; transaction.timeout.ms ends it by force.",
    unit=Unit.SECONDS,
)
LAST_COMMIT = MetricSpec(
    "onceflow_last_commit_timestamp_seconds",
    MetricKind.GAUGE,
    "When the task's work was last committed, in Unix time.",
    ("task",),
    Unit.SECONDS,
)
GATE_CLOSED_RATIO = MetricSpec(
    "onceflow_gate_closed_ratio",
    MetricKind.GAUGE,
    "Share of the last ten seconds in which the gate was closed and no record was processed.",
    unit=Unit.RATIO,
)
GATE_CLOSED_SECONDS = MetricSpec(
    "onceflow_gate_closed_seconds_total",
    MetricKind.COUNTER,
    "Time with the gate closed for the end of commit epochs.",
    unit=Unit.SECONDS,
)
REBALANCES = MetricSpec(
    "onceflow_rebalances_total",
    MetricKind.COUNTER,
    "Changes of this worker's assignment, by what they did to it.",
    ("kind",),
)
REBALANCE_DURATION = MetricSpec(
    "onceflow_rebalance_duration_seconds",
    MetricKind.HISTOGRAM,
    "From the group protocol's call until this worker's part of it was done.",
    unit=Unit.SECONDS,
    buckets=LONG_BUCKETS_S,
)
RESTORE_REMAINING = MetricSpec(
    "onceflow_restore_remaining_records",
    MetricKind.GAUGE,
    "Changelog records still to be replayed before the task can run.",
    ("task", "store"),
)
STORE_BYTES = MetricSpec(
    "onceflow_store_bytes",
    MetricKind.GAUGE,
    "Size of a table's data on disk.",
    ("task", "store"),
    Unit.BYTES,
)
ROCKSDB_MEMTABLES = MetricSpec(
    "onceflow_rocksdb_memtables_bytes",
    MetricKind.GAUGE,
    "Memory in a table's write buffers.",
    ("task", "store"),
    Unit.BYTES,
)
ROCKSDB_PENDING_COMPACTION = MetricSpec(
    "onceflow_rocksdb_pending_compaction_bytes",
    MetricKind.GAUGE,
    "Bytes that compaction has still to rewrite; writes stall when it grows without end.",
    ("task", "store"),
    Unit.BYTES,
)
ROCKSDB_BACKGROUND_ERRORS = MetricSpec(
    "onceflow_rocksdb_background_errors",
    MetricKind.GAUGE,
    "Errors of RocksDB's flushes and compactions since the store was opened; any is a disk fault.",
    ("task", "store"),
)
ROCKSDB_BLOCK_CACHE = MetricSpec(
    "onceflow_rocksdb_block_cache_bytes",
    MetricKind.GAUGE,
    "Memory in the block cache that all stores of the process share.",
    unit=Unit.BYTES,
)
BRANCHES_IN_DOUBT = MetricSpec(
    "onceflow_branches_in_doubt",
    MetricKind.GAUGE,
    "Commit epochs of this worker that are prepared in two-phase sinks, or may be, and not ended.",
)
BRANCH_OLDEST_AGE = MetricSpec(
    "onceflow_branch_oldest_age_seconds",
    MetricKind.GAUGE,
    "Age of the oldest of them; above some seconds a sink does not answer.",
    unit=Unit.SECONDS,
)
BRANCH_PREPARE_DURATION = MetricSpec(
    "onceflow_branch_prepare_seconds",
    MetricKind.HISTOGRAM,
    "Time that a two-phase sink takes to write and prepare the rows of an epoch.",
    ("participant",),
    Unit.SECONDS,
    EPOCH_BUCKETS_S,
)
BRANCH_COMMIT_DURATION = MetricSpec(
    "onceflow_branch_commit_seconds",
    MetricKind.HISTOGRAM,
    "Time from the decision until a two-phase sink shows the rows, repetitions included.",
    ("participant",),
    Unit.SECONDS,
    EPOCH_BUCKETS_S,
)
BRANCHES_RESOLVED = MetricSpec(
    "onceflow_branches_resolved_total",
    MetricKind.COUNTER,
    "Branches that dead workers, or late PREPAREs, left in two-phase sinks, by what they came to.",
    ("outcome",),
)
PARTICIPANT_FAILURES = MetricSpec(
    "onceflow_participant_failures_total",
    MetricKind.COUNTER,
    "Calls that a two-phase sink did not answer, or not for sure; they are tried again.",
    ("participant",),
)
HEURISTIC_OUTCOMES = MetricSpec(
    "onceflow_heuristic_outcomes_total",
    MetricKind.COUNTER,
    "Branches found lost, or ended against what Kafka decided; the worker stops at each.",
)
OUTBOX_LAG = MetricSpec(
    "onceflow_outbox_lag",
    MetricKind.GAUGE,
    "Messages that are committed in Kafka and not applied by this worker's outbox sinks; an epoch's"
    " marker counts as one.",
    ("sink",),
)
OUTBOX_TIME_LAG = MetricSpec(
    "onceflow_outbox_lag_seconds",
    MetricKind.GAUGE,
    "Age of the oldest message that an outbox sink could not apply yet; 0 where nothing waits.",
    ("sink",),
    Unit.SECONDS,
)
OUTBOX_APPLY_DURATION = MetricSpec(
    "onceflow_outbox_apply_seconds",
    MetricKind.HISTOGRAM,
    "Time that the target of an outbox sink takes for one local transaction.",
    ("sink",),
    Unit.SECONDS,
    EPOCH_BUCKETS_S,
)
OUTBOX_APPLIED = MetricSpec(
    "onceflow_outbox_applied_total",
    MetricKind.COUNTER,
    "Messages applied by outbox sinks, a yield each unless it is long.",
    ("sink",),
)
OUTBOX_REFUSED = MetricSpec(
    "onceflow_outbox_refused_total",
    MetricKind.COUNTER,
    "Messages that the target of an outbox sink refused for their data, and that were kept aside.",
    ("sink",),
)
COORDINATOR_CONNECTED = MetricSpec(
    "onceflow_coordinator_connected",
    MetricKind.GAUGE,
    "1 if the coordinator's group answered what it was told last, 0 if not.",
)
COORDINATOR_WAITING = MetricSpec(
    "onceflow_coordinator_waiting",
    MetricKind.GAUGE,
    "Changes of two-phase epochs that the coordinator's group was not told yet.",
)
COORDINATOR_LOST = MetricSpec(
    "onceflow_coordinator_lost_total",
    MetricKind.COUNTER,
    "Changes that its record will lack: no room was left for them, or the group refused them.",
)

CATALOGUE: tuple[MetricSpec, ...] = (
    BUILD_INFO,
    WORKER_STATE,
    POLL_INTERVAL,
    INVARIANT_VIOLATIONS,
    SERIES_REFUSED,
    TASKS,
    RECORDS_CONSUMED,
    RUNS_CONSUMED,
    RECORDS_PRODUCED,
    RECORDS_DROPPED,
    DEAD_LETTERS,
    RECORD_LATENCY,
    RECORDS_IN_FLIGHT,
    IN_FLIGHT_BYTES,
    OFFSET_LAG,
    TIME_LAG,
    TRANSACTIONS,
    TRANSACTION_DURATION,
    COMMIT_EPOCH_DURATION,
    TRANSACTION_OPEN_AGE,
    LAST_COMMIT,
    GATE_CLOSED_RATIO,
    GATE_CLOSED_SECONDS,
    REBALANCES,
    REBALANCE_DURATION,
    RESTORE_REMAINING,
    STORE_BYTES,
    ROCKSDB_MEMTABLES,
    ROCKSDB_PENDING_COMPACTION,
    ROCKSDB_BACKGROUND_ERRORS,
    ROCKSDB_BLOCK_CACHE,
    BRANCHES_IN_DOUBT,
    BRANCH_OLDEST_AGE,
    BRANCH_PREPARE_DURATION,
    BRANCH_COMMIT_DURATION,
    BRANCHES_RESOLVED,
    PARTICIPANT_FAILURES,
    OUTBOX_LAG,
    OUTBOX_TIME_LAG,
    OUTBOX_APPLY_DURATION,
    OUTBOX_APPLIED,
    OUTBOX_REFUSED,
    HEURISTIC_OUTCOMES,
    COORDINATOR_CONNECTED,
    COORDINATOR_WAITING,
    COORDINATOR_LOST,
)
"""Every metric with our prefix; what is not here cannot be measured."""
