"""Faust's consumer service over the poll thread, and the table manager beside it.

Faust tells the consumer what to subscribe to and asks it for its assignment; everything else (what
is fetched, committed, restored, and when) belongs to the epochs, so Faust's own fetcher, commit
handler and recovery have nothing to do here.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from faust.tables.manager import TableManager as FaustTableManager
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP
from mode import Service

from onceflow.decisions import epoch_events as ev
from onceflow.engine.epochs import Epochs
from onceflow.engine.global_tables import GlobalReads
from onceflow.engine.runtime import Runtime, runtime_of
from onceflow.engine.scanning import scan_for_ever
from onceflow.errors import OnceflowError
from onceflow.observe.events import LogEvent
from onceflow.observe.health import Heartbeat
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from faust.types import ConsumerMessage
    from faust.types.tables import CollectionT

    from onceflow.ids import Partition
    from onceflow.kafka.poll import Assignment

log = get_logger(__name__)


class Consumer(FaustConsumer):
    """The consumer that Faust's app sees.

    Attributes:
        runtime: the engine of the app.
        owned: partitions assigned by the group.
    """

    def __init__(self, transport: Any, *args: Any, **options: Any) -> None:
        self.runtime: Runtime = transport.runtime
        self.owned: frozenset[Partition] = frozenset()
        super().__init__(transport, *args, **options)

    def on_init_dependencies(self) -> Iterable[Any]:
        """Start nothing else: the producer is the transaction manager and a service of the app."""
        return []

    # -- start, subscription --

    async def on_start(self) -> None:
        """Make the protocol driver when this process consumes."""
        app = self.app
        # Only channels in memory heed Faust's flow control. They lose nothing at a rebalance: the
        # flow is never stopped and the generation of their values stays the same.
        app.flow_control.resume()
        if app.client_only or app.producer_only:
            return
        with _leaving_by_its_code(self.runtime):
            await self.runtime.start_worker(Epochs)
        self.runtime.epochs.start()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to all topics with a reader; missing ones are made."""
        if not self.runtime.is_worker:
            return
        changelogs = self.app.tables.changelog_topics
        names = [t for t in topics if t not in changelogs and t not in self.runtime.replies.names()]
        with _leaving_by_its_code(self.runtime):
            await self.runtime.describe_topics(names)
            if not names:
                log.info(LogEvent.NOTHING_SUBSCRIBED)
                return
            await self.runtime.inflow.subscribe(names)

    def assigned_by_group(self, assignment: Assignment) -> None:
        """Tell Faust's parts about a new assignment."""
        tps = {TP(p.topic, p.number) for p in assignment.partitions}
        self.owned = assignment.partitions
        if not self.app.rebalancing:
            self.app.on_rebalance_start()
        # The service keeps the task, and an error in a user's handler ends the worker.
        self.add_future(self._spread(tps))

    async def _spread(self, tps: set[TP]) -> None:
        app = cast("Any", self.app)
        before = app._assignment or set()  # noqa: SLF001 - Faust's own record of it
        app._assignment = tps  # noqa: SLF001
        app.unassigned = not tps
        await app.agents.on_rebalance(before - tps, tps - before)
        await app.topics.on_partitions_assigned(tps)
        await app.on_partitions_assigned.send(tps)
        app.on_rebalance_return()

    async def revoked_by_group(self, partitions: frozenset[Partition]) -> None:
        """Tell Faust's parts that partitions left, after they were committed and released."""
        tps = {TP(p.topic, p.number) for p in partitions}
        self.owned -= partitions
        self.app.on_rebalance_start()
        await self.app.on_partitions_revoked.send(tps)

    # -- what Faust asks --

    def assignment(self) -> set[TP]:
        """Return the assigned partitions."""
        return {TP(p.topic, p.number) for p in self.owned}

    def topic_partitions(self, topic: str) -> int | None:
        """Return a subscribed topic's partition count."""
        return self.runtime.partition_counts.get(topic)

    async def wait_empty(self) -> None:
        """Drain, commit and release everything: Faust calls it when the app stops."""
        if self.runtime.is_worker:
            self.runtime.stopping()
            # As long as one record may take; what is not done then is replayed by the next owner.
            await self.runtime.epochs.stop(self.runtime.settings.record_bound_s)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - Faust's signature
        """End the present epoch now; ``app.commit()`` of the user."""
        if self.runtime.is_worker and self.runtime.epochs.is_open:
            self.runtime.epochs.post(ev.CommitDue(ev.CommitReason.INTERVAL))
            return True
        return False

    async def on_stop(self) -> None:
        """Leave the group, then end threads and clients."""
        await self.wait_empty()
        await self.runtime.inflow.stop()
        await self.runtime.stop()

    async def _drain_messages(self, fetcher: Any) -> None:
        """Have nothing to fetch: the poll thread does."""
        await fetcher.wait_until_stopped()

    # -- the clock of the epochs --

    @Service.task
    async def _commit_handler(self) -> None:
        """Ask for a commit each interval after the last one."""
        if not self.runtime.is_worker:
            return
        epochs, health = self.runtime.epochs, self.runtime.health
        interval_s = self.runtime.settings.commit_interval_ms / 1000
        while not self.should_stop:
            due_s = epochs.due_in_s(interval_s)
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            health.beat(Heartbeat.LOOP)
            if epochs.is_open:
                epochs.post(ev.CommitDue(ev.CommitReason.INTERVAL))
                await epochs.wait_settled()
            else:
                await asyncio.sleep(interval_s)

    @Service.task
    async def _commit_livelock_detector(self) -> None:
        """Watch the poll thread and records that take too long."""
        while not self.should_stop and self.runtime.is_worker:
            await asyncio.sleep(1.0)
            # Here too: the commit handler waits while partitions are taken over.
            self.runtime.health.beat(Heartbeat.LOOP)
            self.runtime.failures.watch()
            self.runtime.measure()

    @Service.task
    async def _branch_scan(self) -> None:
        """Look for what is left in two-phase sinks, if there are any."""
        if self.runtime.is_worker and self.runtime.participants.seats:
            with _leaving_by_its_code(self.runtime):
                await scan_for_ever(self.runtime)

    # -- parts of Faust's interface that the epochs replace --

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        del offsets
        return False

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        del active_partitions, timeout
        return {}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise NotImplementedError

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Return nothing: positions are decided by the claim."""
        return {}

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError(_NO_SEEK)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Refuse: positions are committed with their effects."""
        raise NotImplementedError(_NO_SEEK)

    async def position(self, tp: TP) -> int | None:
        """Return the committed offset of a claimed partition."""
        return self.runtime.epochs.machine.committed_offsets.get(cast("Any", tp))

    def highwater(self, tp: TP) -> int:
        """Return the end offset that the statistics last told, or 0."""
        return self.runtime.inflow.end_offsets.get(cast("Any", tp), 0)

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return end offsets, asked from the brokers."""
        marks = await self.runtime.clients.admin.watermarks(cast("Any", partitions))
        return {TP(p.topic, p.number): mark.high for p, mark in marks.items()}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return log start offsets."""
        marks = await self.runtime.clients.admin.watermarks(cast("Any", partitions))
        return {TP(p.topic, p.number): mark.low for p, mark in marks.items()}

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int:
        """Return the partition that a key goes to."""
        if partition is not None:
            return partition
        return cast("Any", self.app.producer).key_partition(topic, key).partition

    async def create_topic(self, *args: Any, **options: Any) -> None:
        """Make a topic."""
        await self.app.producer.create_topic(*args, **options)

    def close(self) -> None:
        """Have nothing to do: the poll thread leaves the group in `on_stop`."""


@contextmanager
def _leaving_by_its_code(runtime: Runtime) -> Generator[None]:
    """Leave the process by an error's own exit code; Faust would make 1 of every error."""
    try:
        yield
    except OnceflowError as error:
        runtime.fail(error)


_NO_SEEK = (
    "Seeking is refused: an input position is committed together with its effects, so moving it "
    "by hand would lose or double them. Nothing was changed. To process again from an earlier "
    "offset use another application id, or reset the group's offsets while no worker runs."
)


class TableManager(FaustTableManager):
    """Faust's registry of tables; restoring is part of taking over partitions."""

    def add(self, table: CollectionT) -> CollectionT:
        """Register a table."""
        return super().add(table)

    async def on_start(self) -> None:
        """Start the tables (their changelog topics) and let the subscription begin."""
        self._tables_finalized.set()
        runtime = runtime_of(self.app)
        with _leaving_by_its_code(runtime):
            for table in self.values():
                await table.maybe_start()
            for aggregate in runtime.aggregates:
                await aggregate.changelog_topic.maybe_declare()
        if runtime.is_worker:
            await runtime.replicas.start([t for t in self.values() if isinstance(t, GlobalReads)])
        self._tables_registered.set()

    async def on_stop(self) -> None:
        """Stop the tables."""
        for table in self.values():
            await table.stop()

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Have nothing to do: the epochs close tasks after their last commit."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Have nothing to do: the takeover opens and restores tasks."""

    async def wait_until_recovery_completed(self) -> bool:
        """Wait until records are processed for the first time; True if the app stopped instead."""
        runtime = runtime_of(self.app)
        if not runtime.is_worker:
            return False
        waiter = asyncio.ensure_future(runtime.epochs.ready.wait())
        stopping = asyncio.ensure_future(self.wait_for_stopped(waiter))
        await stopping
        return self.should_stop
