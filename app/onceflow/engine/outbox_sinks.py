"""The outbox sinks of a worker: their topics, and the rows that agents yield to them.

A yield becomes messages in the open epoch's Kafka transaction, in the partition with the number of
its record's, so that they commit or abort with it and keep its order. An `Applier` per sink does
the rest, after the commit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from onceflow.engine.applier import Applier
from onceflow.engine.configured import sinks_by_name
from onceflow.engine.declaring import TopicPlan
from onceflow.engine.rows import record_of
from onceflow.errors import ConfigError
from onceflow.limits import OUTBOX_STOP_S
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.sinks.gid import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.engine.agent import Agent
    from onceflow.engine.runtime import Runtime
    from onceflow.engine.stream import Stream
    from onceflow.sinks.outbox import OutboxSink

log = get_logger(__name__)

_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""Of an outbox topic: what is applied is deleted by its applier, and nothing else ever."""


class _Source(NamedTuple):
    """Whose partitions say who applies which partition of an outbox."""

    topic: str
    partition_count: int


def _outbox_sinks_of(agent: Agent) -> Iterable[OutboxSink]:
    return agent.outbox_sinks


class OutboxSinks:
    """All outbox sinks of this worker.

    Fields:
        appliers: by the sink's name; empty in an app without such sinks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.appliers: dict[str, Applier] = {}
        self._topics: dict[str, set[str]] = {}

    # -- start and stop --

    async def open(self) -> None:
        """Open the sinks of all agents.

        Raises:
            ConfigError: what `OutboxSink.open` found wrong, or two sinks of one name; exit 2.
            Unreachable: one does not answer; exit 3.
        """
        found, self._topics = sinks_by_name(self.runtime.app, _outbox_sinks_of)
        if not found:
            return
        app_id = self.runtime.app.conf.id
        scope = Scope.of(await self.runtime.clients.admin.cluster_id(), app_id)
        self.appliers = {
            name: Applier(self.runtime, sink, f"{app_id}-{name}-outbox")
            for name, sink in found.items()
        }
        opening = [applier.open(scope) for applier in self.appliers.values()]
        for error in await asyncio.gather(*opening, return_exceptions=True):
            if error is not None:
                raise error
        for applier in self.appliers.values():
            log.info(
                LogEvent.OUTBOX_OPENED,
                sink=applier.sink.name,
                where=applier.sink.where,
                topic=applier.topic,
            )

    async def declare(self) -> list[str]:
        """Make the topics that are missing; returns the names of all.

        Raises:
            TopologyError: one exists with another number of partitions.
            ConfigError: one exists that Kafka may delete from.
        """
        declarations = self.runtime.declarations
        for applier in self.appliers.values():
            source = self._source(applier.sink.name)
            applier.follow(source.topic, source.partition_count)
            plan = TopicPlan(source.partition_count, None, _CONFIG, is_internal=True)
            declarations.plans[applier.topic] = plan
            await declarations.declare_own(applier.topic)
        names = [applier.topic for applier in self.appliers.values()]
        if names:
            for name, config in (await self.runtime.clients.admin.topic_configs(names)).items():
                check_config(name, config)
        return names

    def _source(self, name: str) -> _Source:
        """Return the topic with the most partitions among those that are read for a sink."""
        counts = self.runtime.partition_counts
        known = [_Source(topic, counts[topic]) for topic in self._topics[name] if topic in counts]
        if not known:
            raise ConfigError(
                f"No topic is read for the sink {name}. Nothing was consumed. Let its agent read "
                "one by name."
            )
        return min(known, key=lambda source: (-source.partition_count, source.topic))

    def start(self) -> None:
        """Begin to apply what is committed. Idempotent."""
        for applier in self.appliers.values():
            applier.start()

    async def stop(self) -> None:
        """Apply what is committed, within a bound, and close; the next owner applies the rest."""
        stopping = [applier.stop(OUTBOX_STOP_S) for applier in self.appliers.values()]
        await asyncio.gather(*stopping)

    # -- rows --

    def add(self, sink: OutboxSink, value: object, stream: Stream) -> None:
        """Send what an agent yielded, in the epoch of its record.

        Raises:
            SerializationError: it cannot become rows.
            OutsideRecord: the record it was made of is finished already.
            StaleAttempt: the attempt it belongs to was aborted; it is dropped.
            ConfigError: the sink was added to a worker that runs already.
        """
        applier = self.appliers.get(sink.name)
        if applier is None or applier.sink is not sink:
            raise ConfigError(
                f"The sink {sink.name} was added while the worker runs, and it must be opened "
                "before any record is taken. Nothing of this epoch is committed. Give it to the "
                "agent as sink=[...], and start again."
            )
        batch, _ = record_of(stream, sink.name, self.runtime.gate)
        number = batch.partition.number % applier.partition_count
        for message in sink.encode(value).payload:
            self.runtime.sender.send(applier.topic, applier.identity, message, number)


def check_config(name: str, config: dict[str, str]) -> None:
    """Refuse a topic from which Kafka may delete what is not applied.

    Raises:
        ConfigError: with the settings that it should have.
    """
    wrong = {key: config.get(key) for key, value in _CONFIG.items() if config.get(key) != value}
    if wrong:
        wanted = ",".join(f"{key}={value}" for key, value in _CONFIG.items())
        raise ConfigError(
            f"The topic {name} has {wrong}, with which Kafka deletes rows before they are applied. "
            f"Nothing was consumed. Run kafka-configs --alter --entity-type topics --entity-name "
            f"{name} --add-config {wanted}"
        )
