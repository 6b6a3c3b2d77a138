"""Topics that the application writes to: made before the first record goes there.

A record for a topic that does not exist holds its whole transaction up, and where the brokers make
topics by themselves, they choose the partition count. So every topic that the app names is made
when the worker starts, and a name first seen in a send is made at that send, with a log line.
``topic_allow_declare=False`` makes none: a missing topic is then an error that names it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from mode.utils.times import want_seconds

from onceflow.engine.faust_settings import is_explicit
from onceflow.errors import TopologyError
from onceflow.limits import TIMESTAMP_AHEAD_MAX_MS
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from faust.types import AppT

    from onceflow.engine.runtime import Runtime
    from onceflow.engine.topic import Topic
    from onceflow.kafka.admin import TopicDescription

log = get_logger(__name__)

_AFTER_MAX = "message.timestamp.after.max.ms"


class TopicPlan(NamedTuple):
    """How a topic is made if it is missing; None leaves it to the app's settings."""

    partitions: int | None
    replicas: int | None
    config: Mapping[str, str]
    is_internal: bool = False


_plans: WeakKeyDictionary[Any, dict[str, TopicPlan]] = WeakKeyDictionary()
"""Per app, because topics are named at import time, before the app has a runtime."""


def note_topic(topic: Topic) -> None:
    """Remember the topics of a description; one that says more replaces one that says less."""
    plans = _plans.setdefault(topic.app, {})
    plan = TopicPlan(
        topic.partitions, topic.replicas, topic_config(topic), is_internal=topic.internal
    )
    for name in topic.topics:
        known = plans.get(name)
        if known is None or (known.partitions is None and plan.partitions is not None):
            plans[name] = plan


class TopicArguments(NamedTuple):
    """The arguments of a Faust topic that become Kafka's settings for it."""

    config: Mapping[str, Any]
    compacting: bool | None
    deleting: bool | None
    retention: Any


def topic_config(topic: TopicArguments | Topic) -> dict[str, str]:
    """Return Kafka's settings for a topic, from Faust's arguments."""
    config = {name: str(value) for name, value in (topic.config or {}).items()}
    policies = [
        policy
        for policy, wanted in (("compact", topic.compacting), ("delete", topic.deleting))
        if wanted
    ]
    if policies:
        config.setdefault("cleanup.policy", ",".join(policies))
    if topic.retention:
        config.setdefault("retention.ms", str(int(want_seconds(topic.retention) * 1000)))
    return config


def replication_factor(app: AppT, wanted: int | None = None) -> int:
    """Return how many replicas a new topic gets: as said, else the brokers' default (-1).

    Faust's own default of 1 would lose the state with one broker, so it counts only if it was set.
    """
    if is_explicit(app, "topic_replication_factor"):
        return wanted or int(app.conf.topic_replication_factor)
    if wanted is None or wanted == app.conf.topic_replication_factor:
        return -1
    return wanted


class Declarations:
    """Which topics are known to exist.

    Fields:
        existing: names seen on the brokers; read by every send.
        ahead_max_ms: how far ahead of the clock a topic's timestamps may be.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.existing: set[str] = set()
        self.ahead_max_ms: dict[str, int] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    @property
    def plans(self) -> dict[str, TopicPlan]:
        """The topics that the app names."""
        return _plans.setdefault(self.runtime.app, {})

    async def declare_named(self) -> None:
        """Make what is missing of the topics that the app names, before records flow.

        Internal topics (changelogs, repartition topics) are left out: who owns them makes them.

        Raises:
            Unreachable: Kafka does not answer.
        """
        plans = self.plans
        await self._look([name for name, plan in plans.items() if not plan.is_internal])

    async def ensure(self, name: str) -> None:
        """Return when ``name`` exists, making it on its first use.

        Raises:
            TopologyError: it does not exist and ``topic_allow_declare`` is off.
            Unreachable: Kafka does not answer.
        """
        if name in self.existing:
            return
        await asyncio.shield(self.ensure_soon(name))

    def ensure_soon(self, name: str) -> asyncio.Task[None]:
        """Begin to make ``name`` if it is missing, for callers that cannot await."""
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.ensure_future(self.require([name]))
            task.add_done_callback(lambda done: self._ensured(name, done))
        return task

    def _ensured(self, name: str, task: asyncio.Task[None]) -> None:
        del self._under_way[name]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error(LogEvent.TOPIC_MISSING, topic=name, error=str(error))

    async def require(self, names: Iterable[str]) -> None:
        """Return when all of ``names`` exist, making what is missing.

        Raises:
            TopologyError: some do not exist and ``topic_allow_declare`` is off; it names them all.
            Unreachable: Kafka does not answer.
        """
        await self._look(names)
        missing = [name for name in names if name not in self.existing]
        if missing:
            raise TopologyError(
                f"Topic {', '.join(missing)} does not exist, and topic_allow_declare is off, so "
                "it was not made. Nothing was read from it or sent to it. Create it, or correct "
                "its name."
            )

    async def _look(self, names: Iterable[str]) -> None:
        """Describe topics, make the missing ones if that is allowed, and read their bounds."""
        wanted = [name for name in names if name not in self.existing]
        if not wanted:
            return
        found = await self.runtime.clients.admin.topics(wanted)
        for name, description in found.items():
            self.seen(name, description)
        missing = [name for name in wanted if name not in found]
        if self.runtime.app.conf.topic_allow_declare:
            await asyncio.gather(*(self._create_missing(name) for name in missing))
        elif missing:
            log.warning(LogEvent.TOPIC_MISSING, topics=missing)
        await self._read_bounds([name for name in wanted if name in self.existing])

    async def declare_own(self, name: str) -> None:
        """Make a topic that belongs to the app, such as a changelog; its count has to fit.

        Raises:
            TopologyError: it exists with another number of partitions.
            Unreachable: Kafka does not answer.
        """
        if name not in self.existing:
            found = await self.runtime.clients.admin.topics([name])
            if name in found:
                self.seen(name, found[name])
        if self.runtime.partition_counts_known.get(name) != self.partitions(name):
            await self._create(name)

    def partitions(self, name: str) -> int:
        """Return with how many partitions a topic is made."""
        plan = self.plans.get(name)
        return int((plan.partitions if plan else None) or self.runtime.app.conf.topic_partitions)

    async def _create_missing(self, name: str) -> None:
        try:
            await self._create(name)
        except TopologyError:
            # Somebody else made it meanwhile, with a count of their own; that is theirs to say.
            found = await self.runtime.clients.admin.topics([name])
            self.seen(name, found[name])

    async def _create(self, name: str) -> None:
        plan = self.plans.get(name)
        partitions = self.partitions(name)
        description = await self.runtime.clients.admin.create_topic(
            name,
            partitions,
            replication_factor=replication_factor(self.runtime.app, plan and plan.replicas),
            config=plan.config if plan else {},
        )
        log.info(LogEvent.TOPIC_CREATED, topic=name, partitions=partitions)
        self.seen(name, description)

    def seen(self, name: str, description: TopicDescription) -> None:
        """Note that a topic exists."""
        self.existing.add(name)
        self.runtime.partition_counts_known[name] = description.partition_count

    async def _read_bounds(self, names: list[str]) -> None:
        if not names:
            return
        for name, config in (await self.runtime.clients.admin.topic_configs(names)).items():
            if config.get("message.timestamp.type") == "LogAppendTime":
                self.ahead_max_ms[name] = 2**63 - 1
            elif _AFTER_MAX in config:
                self.ahead_max_ms[name] = int(config[_AFTER_MAX])

    def timestamp_ahead_ms(self, name: str) -> int:
        """Return how far ahead of the clock a record's timestamp may be, in milliseconds."""
        bound_ms = self.ahead_max_ms.get(name)
        if bound_ms is None:
            return TIMESTAMP_AHEAD_MAX_MS
        # The broker's clock decides; a minute covers the difference between the clocks.
        return max(bound_ms - _CLOCK_SKEW_MS, bound_ms // 2)


_CLOCK_SKEW_MS = 60_000
