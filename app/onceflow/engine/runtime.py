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
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from onceflow.decisions.takeover import ResetPolicy
from onceflow.engine.clients import Clients
from onceflow.engine.declaring import Declarations, TopicPlan
from onceflow.engine.failures import Failures
from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.inflow import Inflow
from onceflow.engine.outbox_sinks import OutboxSinks
from onceflow.engine.participants import Participants
from onceflow.engine.pins import check_pins
from onceflow.engine.recording import start_records
from onceflow.engine.replica import Replicas
from onceflow.engine.replies import Replies
from onceflow.engine.sender import Sender
from onceflow.engine.tasks import Tasks
from onceflow.engine.telling import Telling, check_recorded
from onceflow.errors import InvariantViolation, OnceflowError
from onceflow.http.server import AddressOrigin, HttpAddress, HttpServer
from onceflow.ids import Incarnation, Stamp
from onceflow.kafka.configuration import librdkafka_version
from onceflow.limits import COORDINATOR_STOP_S, POLL_ALIVE_S, TRIM_INTERVAL_S
from onceflow.observe.events import LogEvent
from onceflow.observe.health import Health, Heartbeat, WorkerState
from onceflow.observe.logs import bind_process, get_logger
from onceflow.observe.metrics import WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from faust.types import AppT

    from onceflow.coordinator.records import Records
    from onceflow.decisions.crash_points import CrashPoint
    from onceflow.engine.epochs import Epochs
    from onceflow.engine.records import Batch
    from onceflow.engine.tables import Table
    from onceflow.settings import CrashAt, Settings

log = get_logger(__name__)


def runtime_of(app: AppT) -> Runtime:
    """Return the runtime of an app whose broker is ``onceflow://``."""
    return cast("Any", app).transport.runtime


class Runtime:
    """The engine of one app in this process.

    Fields:
        incarnation: random per process start; names our transactional ids and markers.
        partition_counts: of the subscribed topics, pinned when they are subscribed.
        aggregates: columnar state besides the tables.
        records: what the coordinator's group is told; None if the settings name none.
        check_recorded: refuses two-phase sinks of which nobody would keep a record.
        leave: ends the process because of an error, with its exit code.
        repartition_topics: made by ``group_by``; read by this app only, so trimmed behind it.
    """

    def __init__(self, app: AppT, bootstrap_servers: str, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.incarnation = Incarnation(secrets.token_urlsafe(9))
        self.clients = Clients(app, bootstrap_servers, settings, self.incarnation)
        self.gate = Gate(Stamp(0, 0))
        self.declarations = Declarations(self)
        self.sender = Sender(self.gate, self.clients.plain, self.declarations)
        self.failures = Failures(self)
        self.replies = Replies(self)
        self.tasks = Tasks(self)
        self.replicas = Replicas(self)
        self.inflow = Inflow(self)
        self.participants = Participants(self)
        self.outbox_sinks = OutboxSinks(self)
        self.telling = Telling(self)
        self.check_recorded: Callable[[Runtime], None] = check_recorded
        self.records: Records | None = None
        self.metrics = WorkerMetrics()
        self.health = Health()
        self.partition_counts: dict[str, int] = {}
        self.partition_counts_known: dict[str, int] = {}
        self.aggregates: list[Any] = []
        self.repartition_topics: set[str] = set()
        self._is_stopping = False
        self._trimmed_s = time.monotonic()
        self._epochs: Epochs | None = None
        self._http: HttpServer | None = None
        self.leave: Callable[[BaseException, int], None] = _leave
        self._crash: CrashAt | None = settings.crash_at
        self._crash_passings = 0

    # -- parts that exist only in a started process --

    @property
    def epochs(self) -> Epochs:
        """The driver of the commit protocol."""
        if self._epochs is None:
            message = "the commit protocol runs in workers only; start the worker first"
            raise RuntimeError(message)
        return self._epochs

    @property
    def is_worker(self) -> bool:
        """Whether this process consumes; clients and scripts only send."""
        return self._epochs is not None

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
        self.show(WorkerState.STARTING)
        self._serve()
        bind_process(worker_id=self.settings.worker_id or "-", incarnation=self.incarnation)
        self.metrics.build(version("onceflow"), librdkafka_version())
        await self.clients.start()
        self.records = await start_records(self)
        await self.participants.start()
        await self.outbox_sinks.open()
        self._epochs = epochs(self, self.incarnation)
        self.sender.in_worker = True
        self.sender.arrived = self._epochs.wake
        # Objects made at import time live as long as the process; leaving them out of collections
        # and collecting rarely keeps full collections out of the hot path.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        log.info(
            LogEvent.WORKER_STARTED,
            app=self.app.conf.id,
            brokers=self.clients.config.bootstrap_servers,
            version=version("onceflow"),
            librdkafka=librdkafka_version(),
            directory=str(self.tasks.directory),
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._is_stopping

    def show(self, state: WorkerState) -> None:
        """Tell health and metrics what the worker does."""
        self.health.worker(state)
        self.metrics.worker_state(state)

    def stopping(self) -> None:
        """Note that the worker was asked to stop; the first call counts."""
        if not self._is_stopping:
            self._is_stopping = True
            self.show(WorkerState.STOPPING)
            log.info(LogEvent.WORKER_STOPPING, partitions=len(self.inflow.assigned))

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
        """Make the topics that are missing; pin the subscribed ones and the changelogs.

        Raises:
            TopologyError: a subscribed topic is missing and may not be made.
            DataAtRisk: a topic or the cluster is not the one that the state was made from.
        """
        declarations = self.declarations
        declarations.plans[self.dead_letter_topic] = TopicPlan(1, None, {"retention.ms": "-1"})
        await declarations.declare_named()
        await declarations.require(names)
        for name in names:
            self.partition_counts[name] = self.partition_counts_known[name]
        outboxes = await self.outbox_sinks.declare()
        pinned = {*names, *outboxes, *(source.changelog_topic_name for source in self.sources())}
        check_pins(
            self.tasks.directory,
            self.app.conf.id,
            await self.clients.admin.cluster_id(),
            await self.clients.admin.topics(pinned),
        )
        self.outbox_sinks.start()

    def measure(self) -> None:
        """Update gauges that change slowly; called about once a second."""
        metrics, poll = self.metrics, self.inflow.poll
        if poll is not None:
            metrics.polled(poll.heartbeat_age_s)
            metrics.in_flight(poll.flight.records, poll.flight.size_bytes)
            if poll.heartbeat_age_s < POLL_ALIVE_S:
                self.health.beat(Heartbeat.POLL)
        self._trim()
        self.epochs.two_phase.measure()
        metrics.tasks(self.health.tasks_by_state())
        self.tasks.measure(metrics)

    def _trim(self) -> None:
        """Delete what was read of repartition topics: their retention is unlimited."""
        now_s = time.monotonic()
        if now_s - self._trimmed_s < TRIM_INTERVAL_S:
            return
        self._trimmed_s = now_s
        done = {
            partition: offset
            for partition, offset in self.epochs.machine.committed_offsets.items()
            if partition.topic in self.repartition_topics and offset > 0
        }
        if done:
            task = asyncio.ensure_future(self.clients.admin.delete_records(done))
            task.add_done_callback(_trimmed)

    async def stop(self) -> None:
        """End threads and clients; committed work is committed, the rest is the next owner's."""
        await self.replies.stop()
        await self.replicas.stop()
        await self.outbox_sinks.stop()
        await self.tasks.close_all()
        await self.participants.stop()
        if self.records is not None:
            await self.records.stop(COORDINATOR_STOP_S)
        await self.clients.stop()
        self.metrics.client_closed("consumer")
        if self._http is not None:
            self._http.stop()
        if self.is_worker:
            log.info(LogEvent.WORKER_STOPPED)

    def fail(self, error: BaseException | None) -> None:
        """Leave the process: the store is a prefix of the changelog at any moment, so it may."""
        if error is None:
            return
        self.health.fatal(error)
        self.show(WorkerState.FAILED)
        if isinstance(error, InvariantViolation):
            self.metrics.invariant_violation()
            log.critical(
                LogEvent.INVARIANT_VIOLATED,
                error=str(error),
                meaning="a bug of onceflow; nothing of the open epoch is committed",
                action="keep the log and the data directory, and report it",
            )
        known = isinstance(error, (OnceflowError, InvariantViolation))
        exit_code = error.exit_code if known else 1
        log.critical(LogEvent.WORKER_FAILED, error=str(error), exit_code=exit_code, exc_info=error)
        self.leave(error, exit_code)

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


def _trimmed(task: asyncio.Task[Any]) -> None:
    """Log a trim that failed: the topic stays longer than it need, nothing else."""
    if not task.cancelled() and task.exception() is not None:
        log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(task.exception()))


def _leave(error: BaseException, exit_code: int) -> None:
    """End the process at once."""
    del error
    os._exit(exit_code)
