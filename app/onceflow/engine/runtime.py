"""What one application's parts in a process share, and the order in which they start and stop.

A `Runtime` belongs to one Faust app. It is made when the app's transport is (which may be at import
time, without a loop) and holds the gate, the sender and the registry of state; clients, threads and
stores are made when the worker starts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from onceflow.decisions.marker import CommittedOffset, parse
from onceflow.decisions.takeover import ResetPolicy
from onceflow.engine.failures import Failures
from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.inflow import Inflow
from onceflow.engine.replies import Replies
from onceflow.engine.sealing import Sealed, seal
from onceflow.engine.sender import Sender
from onceflow.engine.tasks import Tasks, wall_ms
from onceflow.errors import InvariantViolation, OnceflowError
from onceflow.http.server import AddressOrigin, HttpAddress, HttpServer
from onceflow.ids import Incarnation, Stamp
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig, librdkafka_version
from onceflow.kafka.offsets import CommittedOffsets, Stability
from onceflow.kafka.plain import PlainProducer
from onceflow.kafka.producer import TransactionalProducer
from onceflow.kafka.threads import TransactionThread
from onceflow.limits import FENCE_S_MAX, POLL_ALIVE_S
from onceflow.observe.events import LogEvent
from onceflow.observe.health import Health, Heartbeat, TaskState, WorkerState
from onceflow.observe.logs import bind_process, get_logger, librdkafka_logger
from onceflow.observe.metrics import TransactionOutcome, WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from faust.types import AppT

    from onceflow.decisions.crash_points import CrashPoint
    from onceflow.engine.epochs import Epochs
    from onceflow.engine.records import Batch
    from onceflow.engine.tables import Table
    from onceflow.ids import Partition
    from onceflow.settings import CrashAt, Settings

log = get_logger(__name__)

_OFFSETS_S = 5.0
PRODUCER_NUMBERS = (0, 1)
"""Ends of the two transactional ids of an incarnation; a takeover fences both."""


def runtime_of(app: AppT) -> Runtime:
    """Return the runtime of an app whose broker is ``onceflow://``."""
    return cast("Any", app).transport.runtime


class Runtime:
    """The engine of one app in this process.

    Fields:
        incarnation: random per process start; names our transactional ids and markers.
        partition_counts: of the subscribed topics, pinned when they are subscribed.
        sealed: the changes of the epoch being decided; None otherwise.
        aggregates: columnar state besides the tables.
    """

    def __init__(self, app: AppT, bootstrap_servers: str, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.client_config = ClientConfig(
            bootstrap_servers,
            {name: str(value) for name, value in settings.kafka.items()},
            client_id=cast("Any", app).conf.broker_client_id,
            logger=librdkafka_logger(),
        )
        self.incarnation = Incarnation(secrets.token_urlsafe(9))
        self.gate = Gate(Stamp(0, 0))
        self.sender = Sender(self.gate, self._plain_producer)
        self.failures = Failures(self)
        self.replies = Replies(self)
        self.tasks = Tasks(self)
        self.inflow = Inflow(self)
        self.metrics = WorkerMetrics()
        self.health = Health()
        self.partition_counts: dict[str, int] = {}
        self.partition_counts_known: dict[str, int] = {}
        self.aggregates: list[Any] = []
        self.sealed: Sealed | None = None
        self._admin: Admin | None = None
        self._committed_offsets: CommittedOffsets | None = None
        self._transactions: list[TransactionalProducer] = []
        self._turn = 0
        self._transaction_thread: TransactionThread | None = None
        self._plain: PlainProducer | None = None
        self._epochs: Epochs | None = None
        self._http: HttpServer | None = None
        self._crash: CrashAt | None = settings.crash_at
        self._crash_passings = 0

    # -- parts that exist only in a started process --

    @property
    def admin(self) -> Admin:
        """Administration of the cluster."""
        if self._admin is None:
            self._admin = Admin(self.client_config)
        return self._admin

    @property
    def transaction(self) -> TransactionalProducer:
        """The transactional producer of the present epoch."""
        return self._transactions[self._turn]

    def take_turns(self) -> None:
        """Let the other producer carry the next epoch.

        The first produce of a transaction waits until the markers of the same producer's last one
        are written (20 ms and more); with two in turn they are written meanwhile. There is still
        one transaction at a time: an epoch begins after the last one's outcome is known.
        """
        self._turn = (self._turn + 1) % len(self._transactions)

    @property
    def transaction_thread(self) -> TransactionThread:
        """The thread of blocking transaction calls."""
        return _started(self._transaction_thread, "transaction thread")

    @property
    def epochs(self) -> Epochs:
        """The driver of the commit protocol."""
        return _started(self._epochs, "epochs")

    @property
    def is_worker(self) -> bool:
        """Whether this process consumes; clients and scripts only send."""
        return self._epochs is not None

    def _plain_producer(self) -> PlainProducer:
        if self._plain is None:
            self._plain = PlainProducer(self.client_config, loop=asyncio.get_running_loop())
        return self._plain

    @property
    def reset_policy(self) -> ResetPolicy:
        """Where a partition without a committed offset starts."""
        return ResetPolicy(self.app.conf.consumer_auto_offset_reset)

    # -- start and stop --

    async def start_worker(self, epochs: type[Epochs]) -> None:
        """Make producer, threads and protocol driver. The first error is the user's to see.

        Raises:
            Unreachable: Kafka does not answer; exit 3.
            ConfigError: a setting or right is wrong; exit 2.
        """
        self.health.worker(WorkerState.STARTING)
        self._serve()
        bind_process(worker_id=self.settings.worker_id or "-", incarnation=self.incarnation)
        self.metrics.build(version("onceflow"), librdkafka_version())
        await self.admin.cluster_id()
        self._committed_offsets = CommittedOffsets(self.client_config)
        self._transaction_thread = TransactionThread()
        self._transactions = [await self._make_producer(number) for number in PRODUCER_NUMBERS]
        self._epochs = epochs(self, self.incarnation)
        self.sender.in_worker = True
        self.sender.arrived = self._epochs.wake
        # Objects made at import time live as long as the process; leaving them out of collections
        # and collecting rarely keeps full collections out of the hot path.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)

    def _serve(self) -> None:
        """Serve metrics and probes, unless the settings switch it off.

        Raises:
            ConfigError: an explicit address is taken; exit 2.
        """
        address = self.settings.http_address
        if address is None:
            return
        explicit = self.settings.is_explicit("http")
        origin = AddressOrigin.EXPLICIT if explicit else AddressOrigin.DEFAULT
        self._http = HttpServer(
            HttpAddress(address.host, address.port, origin), self.metrics, self.health
        )
        self._http.start()

    async def describe_topics(self, names: list[str]) -> None:
        """Pin the partition counts of the subscribed topics; make those that are missing.

        Raises:
            TopologyError: a table's partition count fits no source topic.
        """
        found = await self.admin.topics(names)
        for name in names:
            description = found.get(name)
            if description is None:
                description = await self.admin.create_topic(name, self._wanted_partitions(name))
            self.partition_counts[name] = description.partition_count
            self.partition_counts_known[name] = description.partition_count
        if self.app.conf.topic_allow_declare and self.dead_letter_topic not in found:
            await self.admin.create_topic(self.dead_letter_topic, 1, config={"retention.ms": "-1"})

    def _wanted_partitions(self, name: str) -> int:
        for channel in cast("Any", self.app.topics):
            if name in channel.topics and channel.partitions:
                return int(channel.partitions)
        return int(self.app.conf.topic_partitions)

    async def flush_plain(self, timeout_s: float) -> None:
        """Wait for sends outside of transactions."""
        if self._plain is not None:
            await self._plain.flush(timeout_s)

    def measure(self) -> None:
        """Update gauges that change slowly; called about once a second."""
        metrics, poll = self.metrics, self.inflow.poll
        if poll is not None:
            metrics.polled(poll.heartbeat_age_s)
            metrics.in_flight(poll.flight.records, poll.flight.size_bytes)
            if poll.heartbeat_age_s < POLL_ALIVE_S:
                self.health.beat(Heartbeat.POLL)
        metrics.tasks({TaskState.RUNNING: len(self.tasks.partitions)})
        self.tasks.measure(metrics)

    async def _make_producer(self, number: int) -> TransactionalProducer:
        transactional_id = f"{self.app.conf.id}.{self.incarnation}.{number}"
        producer = TransactionalProducer(
            self.client_config, transactional_id, self.settings.transaction_timeout_ms
        )
        await self.transaction_thread.run(producer.init, FENCE_S_MAX, timeout_s=FENCE_S_MAX * 2)
        return producer

    async def replace_producer(self) -> None:
        """Destroy a spent producer and make one with the same id, which fences the old one."""
        self.sender.close()
        await self.transaction_thread.run(self.transaction.destroy, timeout_s=FENCE_S_MAX)
        self._transactions[self._turn] = await self._make_producer(self._turn)

    async def stop(self) -> None:
        """End threads and clients; committed work is committed, the rest is the next owner's."""
        await self.replies.stop()
        self.tasks.close_all()
        if self._plain is not None:
            await self._plain.stop()
        if self._transaction_thread is not None:
            for transaction in self._transactions:
                await self._transaction_thread.run(transaction.destroy, timeout_s=FENCE_S_MAX)
            self._transaction_thread.stop()
        if self._admin is not None:
            self._admin.close()
        self.metrics.client_closed("consumer")
        if self._http is not None:
            self._http.stop()

    def fail(self, error: BaseException | None) -> None:
        """Leave the process: the store is a prefix of the changelog at any moment, so it may."""
        if error is None:
            return
        self.health.fatal(error)
        self.health.worker(WorkerState.FAILED)
        if isinstance(error, InvariantViolation):
            self.metrics.invariant_violation()
        known = isinstance(error, (OnceflowError, InvariantViolation))
        exit_code = error.exit_code if known else 1
        log.critical(LogEvent.WORKER_FAILED, error=str(error), exit_code=exit_code, exc_info=error)
        os._exit(exit_code)

    def crash(self, point: CrashPoint) -> None:
        """Kill this process if the settings name this crash point and it is passed often enough."""
        wanted = self._crash
        if wanted is None or wanted.name is not point:
            return
        self._crash_passings += 1
        if self._crash_passings >= wanted.passing:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- registry --

    def new_cursor(self) -> Cursor:
        """Make the reading place of a new subscription."""
        cursor = Cursor(self.gate, self._finished)
        self.gate.add(cursor)
        return cursor

    def _finished(self, batch: Batch) -> None:
        self.inflow.account(batch.run)

    def tables(self) -> list[Table]:
        """Return the tables of the app."""
        return cast("list[Table]", list(self.app.tables.values()))

    def sources(self) -> list[Any]:
        """Return everything that is sealed with an epoch: tables, then aggregates."""
        return [*self.tables(), *self.aggregates]

    @property
    def dead_letter_topic(self) -> str:
        """Where records go whose attempts are used up."""
        return f"{self.app.conf.id}-dead-letter"

    def partition_count(self, topic: str) -> int:
        """Return how many partitions a subscribed topic has."""
        return self.partition_counts[topic]

    # -- what the epochs ask for --

    async def read_offsets(
        self, partitions: Iterable[Partition], stability: Stability
    ) -> dict[Partition, CommittedOffset]:
        """Read committed offsets and markers of the app's group.

        Raises:
            Pending: a transaction holds them back (stable reads only).
            Unreachable: no answer within the bound.
            DataAtRisk: metadata that this version does not understand.
        """
        reader = _started(self._committed_offsets, "offset reader")
        found = await reader.committed(self.app.conf.id, partitions, stability, _OFFSETS_S)
        return {p: CommittedOffset(at.offset, parse(at.metadata)) for p, at in found.items()}

    def restamp(self, stamp: Stamp) -> None:
        """Let all live work belong to ``stamp`` from here on."""
        if stamp == self.gate.stamp:
            return
        self.gate.stamp = stamp
        for cursor in self.gate.cursors:
            for batch in [*cursor.batches, *([cursor.batch] if cursor.batch else [])]:
                batch.stamp = stamp

    def opened(self) -> None:
        """Note that records are processed from here on."""
        if self.app.rebalancing:
            self.health.worker(WorkerState.RUNNING)
            self.metrics.worker_state(WorkerState.RUNNING)
            self.app.on_rebalance_end()
        self.inflow.isolation.opened()

    def has_effects(self) -> bool:
        """Return whether the epoch changed state or sent anything."""
        return self.sender.has_effects() or any(s.is_dirty() for s in self.sources())

    async def seal(self) -> None:
        """Produce changelog records and per-commit outputs into the transaction."""
        for aggregate in self.aggregates:
            emitted = await aggregate.emit(self.transaction)
            if emitted:
                self.metrics.produced(aggregate.output.get_topic_name(), emitted)
        self.sealed = await seal(self.sources(), self.transaction)

    def apply(self, held: frozenset[Partition]) -> None:
        """Write the committed epoch into the stores, then let its sends resolve."""
        sealed, self.sealed = self.sealed, None
        if sealed is not None:
            sealed.placed()
            self.tasks.apply(sealed, held)
            for topic, records in sealed.records.items():
                self.metrics.produced(topic, records)
        for source in self.sources():
            source.settle()
        self.sender.committed()

    def committed(self, outcome: TransactionOutcome, phases: Mapping[str, float]) -> None:
        """Measure the end of an epoch."""
        for topic, records in self.sender.take_produced():
            self.metrics.produced(topic, records)
        durations = {name: s for name, s in phases.items() if name != "closed"}
        self.metrics.commit_finished(outcome, durations, phases.get("closed", 0.0))
        if outcome is TransactionOutcome.COMMITTED:
            if not self.failures.policy.quiet:
                machine = self.epochs.machine
                self.failures.policy.committed(
                    machine.committed_offsets, machine.committed_attempts
                )
            self.health.committed()
            self.metrics.tasks_committed(self.tasks.partitions, wall_ms() / 1000)

    async def drop_attempt(self, stamp: Stamp) -> None:
        """Throw the attempt away: overlay, caches, buffers; start fresh actors."""
        self.gate.closed = True
        self.gate.opened.clear()
        self.gate.stamp = stamp
        self.sealed = None
        for source in self.sources():
            source.drop()
        self.sender.aborted()
        self.inflow.drop_all()
        for cursor in self.gate.cursors:
            cursor.reset()
        for agent in list(cast("Any", self.app).agents.values()):
            await agent.replace_actors()

    async def start_at(self, offsets: Mapping[Partition, int]) -> None:
        """Position the consumer and all cursors: the next records come from there."""
        for partition, offset in offsets.items():
            for cursor in self.inflow.cursors(partition):
                cursor.start(partition, offset)
        await self.inflow.start_at(offsets)

    async def forget(self, partitions: frozenset[Partition]) -> None:
        """Close the tasks of partitions that are not ours any more; drop what was read of them."""
        self.inflow.forget(partitions)
        self.failures.policy.forget(partitions)
        for cursor in self.gate.cursors:
            cursor.forget(partitions)
        self.tasks.close(partitions)


def _started(part: Any, name: str) -> Any:
    if part is None:
        message = f"the {name} of this process is not started; start the worker first"
        raise RuntimeError(message)
    return part
