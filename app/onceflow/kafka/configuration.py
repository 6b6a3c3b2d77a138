"""Which librdkafka settings each client gets.

Decides the settings that exactly-once depends on, the ones that make it fast, and which of the
user's options would break it. Everything else of librdkafka's CONFIGURATION.md, SASL and TLS
included, is passed through. Values that may be secret never appear in a repr or a message.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import libversion

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Isolation = Literal["read_committed", "read_uncommitted"]
"""How a reading treats open transactions, as librdkafka calls it."""

Settings = dict[str, Any]
"""A finished configuration of one librdkafka client. It may hold secrets: never log it."""


class GroupProtocol(Enum):
    """Which group membership protocol the consumer speaks."""

    CLASSIC = "classic"
    CONSUMER = "consumer"
    """KIP-848: the broker assigns, incrementally; its session timeout is set on the broker."""


_OURS = "onceflow commits offsets inside its transactions"
_DENIED: dict[str, str] = {
    "enable.auto.commit": _OURS,
    "auto.commit.enable": _OURS,
    "auto.commit.interval.ms": _OURS,
    "enable.auto.offset.store": _OURS,
    "offset.store.method": _OURS,
    "isolation.level": "records of aborted transactions must never be read",
    "auto.offset.reset": "a lost position must stop the worker, never move it silently; where a"
    " new application starts is a setting of onceflow",
    "transactional.id": "it names the incarnation, which fencing depends on",
    "transaction.timeout.ms": "it follows from the record bound; set that",
    "enable.idempotence": "without it retries write records twice",
    "enable.gapless.guarantee": "it is experimental and stops a producer that can go on",
    "acks": "an acknowledged record must survive the loss of a broker",
    "request.required.acks": "an acknowledged record must survive the loss of a broker",
    "max.in.flight": "idempotence allows five at most and keeps their order",
    "max.in.flight.requests.per.connection": "idempotence allows five at most and keeps their"
    " order",
    "message.send.max.retries": "a record may be given up only with its transaction",
    "retries": "a record may be given up only with its transaction",
    "partitioner": "a key must land where Java's producer puts it",
    "partition.assignment.strategy": "tables need co-partitioned assignment, which is range",
    "group.protocol": "set onceflow's group_protocol",
    "group.remote.assignor": "tables need co-partitioned assignment, which is range",
    "group.id": "it is the application's id",
    "group.instance.id": "set ONCEFLOW_WORKER_ID, which names static members",
    "session.timeout.ms": "set onceflow's own setting, which the takeover bounds follow",
    "enable.partition.eof": "it is used inside",
    "delivery.report.only.error": "deliveries are counted",
    "allow.auto.create.topics": "a topic made by a mistyped name hides the mistake",
    "bootstrap.servers": "it is the broker URL",
    "metadata.broker.list": "it is the broker URL",
    "plugin.library.paths": "interceptors could change what is read or written",
}

_CONSUMER_ONLY = frozenset(
    {
        "fetch.max.bytes",
        "fetch.min.bytes",
        "fetch.wait.max.ms",
        "fetch.message.max.bytes",
        "max.partition.fetch.bytes",
        "fetch.error.backoff.ms",
        "fetch.queue.backoff.ms",
        "queued.min.messages",
        "queued.max.messages.kbytes",
        "check.crcs",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "group.protocol.type",
        "coordinator.query.interval.ms",
        "client.rack",
    }
)
_PRODUCER_ONLY = frozenset(
    {
        "linger.ms",
        "queue.buffering.max.ms",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "queue.buffering.backpressure.threshold",
        "batch.size",
        "batch.num.messages",
        "compression.type",
        "compression.codec",
        "compression.level",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "request.timeout.ms",
        "sticky.partitioning.linger.ms",
        "retry.backoff.ms",
        "retry.backoff.max.ms",
        "message.max.bytes",
        "message.copy.max.bytes",
        "msg_order_cmp",
        "queuing.strategy",
    }
)


_READING: Settings = {
    # The default of 1,000 stops a partition's fetches for a second whenever the local queue is
    # full; four partitions then end at some 267,000 records/s whatever the CPU does.
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 65_536,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
}
"""What every consumer needs, for exactness and for speed."""


@dataclass(frozen=True)
class ClientConfig:
    """Where Kafka is and how to reach it: the part of the settings that all clients share.

    Attributes:
        bootstrap_servers: ``host:port`` with commas between several.
        options: librdkafka's settings as the user gave them, checked at construction.
        client_id: shown in the brokers' logs and quotas.
        logger: receives librdkafka's own log lines.

    Raises:
        ConfigError: an option would break exactly-once; the message names it and the reason.
    """

    bootstrap_servers: str
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    client_id: str = "onceflow"
    logger: logging.Logger = field(
        default_factory=lambda: logging.getLogger("onceflow.librdkafka"), repr=False
    )

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ConfigError(
                "no Kafka address is given, so nothing can be read or written:"
                " use a broker URL such as onceflow://localhost:9092"
            )
        for name in self.options:
            if name in _DENIED:
                raise ConfigError(
                    f"the Kafka option {name!r} is not yours to set, because {_DENIED[name]}:"
                    " exactly-once would not hold. Remove it"
                )

    def __repr__(self) -> str:
        named = ", ".join(sorted(self.options))
        return f"ClientConfig({self.bootstrap_servers!r}, options named: [{named}])"


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks of a client; they run on the thread that polls it.

    Attributes:
        on_error: librdkafka's error callback (connections lost, brokers down, fatal errors).
        on_statistics: receives the statistics document every ``statistics_interval_ms``.
        statistics_interval_ms: 0 switches statistics off.
    """

    on_error: Callable[[Any], None] | None = None
    on_statistics: Callable[[str], None] | None = None
    statistics_interval_ms: int = 0


NO_HOOKS = Hooks()


def consumer_config(
    config: ClientConfig,
    group: str,
    *,
    worker_id: str | None = None,
    protocol: GroupProtocol = GroupProtocol.CLASSIC,
    session_timeout_ms: int = 10_000,
    hooks: Hooks = NO_HOOKS,
) -> Settings:
    """Settings of the consumer that owns the input partitions.

    Args:
        config: shared part.
        group: the application's id.
        worker_id: makes the member static (``group.instance.id``): a restart within the session
            timeout keeps its partitions.
        protocol: classic, or KIP-848, whose session timeout is set on the broker.
        session_timeout_ms: how long a dead worker keeps its partitions; classic only.
        hooks: callbacks.
    """
    settings: Settings = {
        "fetch.wait.max.ms": 10,
        "max.poll.interval.ms": 300_000,
        **_READING,
        **_shared(config, hooks, _PRODUCER_ONLY),
        "group.id": group,
        "group.protocol": protocol.value,
        "enable.partition.eof": False,
    }
    if worker_id is not None:
        settings["group.instance.id"] = worker_id
    if protocol is GroupProtocol.CLASSIC:
        settings["partition.assignment.strategy"] = "range"
        settings["session.timeout.ms"] = session_timeout_ms
        # A rebalance is noticed at the next heartbeat, so that it bounds how fast partitions move.
        settings.setdefault("heartbeat.interval.ms", min(500, session_timeout_ms // 5))
    else:
        settings["group.remote.assignor"] = "range"
        # The broker tells the interval; librdkafka refuses the setting under this protocol.
        settings.pop("heartbeat.interval.ms", None)
    return settings


def reader_config(config: ClientConfig, *, hooks: Hooks = NO_HOOKS) -> Settings:
    """Settings of a read_committed consumer that assigns itself: changelogs, reply topics."""
    return {
        "fetch.wait.max.ms": 20,
        **_READING,
        **_shared(config, hooks, _PRODUCER_ONLY),
        # Never joined and never committed to; librdkafka wants a name.
        "group.id": f"{config.client_id}-reader",
        "enable.partition.eof": True,
    }


def offsets_config(
    config: ClientConfig, group: str, isolation: Isolation, *, hooks: Hooks = NO_HOOKS
) -> Settings:
    """Settings of a consumer that only asks for committed offsets, and never joins its group.

    Args:
        config: shared part.
        group: whose offsets.
        isolation: whether offsets of open transactions hold the answer back (read_committed).
        hooks: callbacks.
    """
    return {
        **_shared(config, hooks, _PRODUCER_ONLY | _CONSUMER_ONLY),
        "group.id": group,
        "enable.auto.commit": False,
        "isolation.level": isolation,
        "allow.auto.create.topics": False,
        # How long after a transaction's end its offsets are noticed; by default up to a second.
        "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 100,
    }


def producer_config(
    config: ClientConfig,
    transactional_id: str | None,
    transaction_timeout_ms: int = 30_000,
    *,
    hooks: Hooks = NO_HOOKS,
) -> Settings:
    """Settings of a transactional producer; without an id, of a plain idempotent one."""
    settings: Settings = {
        "linger.ms": 5,
        "batch.size": 1_000_000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 2_000_000,
        "queue.buffering.max.kbytes": 1_000_000,
        **_shared(config, hooks, _CONSUMER_ONLY),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
    }
    if transactional_id is not None:
        settings["transactional.id"] = transactional_id
        settings["transaction.timeout.ms"] = transaction_timeout_ms
        # librdkafka lets no record outlive its transaction, and refuses a longer time.
        for name in ("message.timeout.ms", "delivery.timeout.ms"):
            settings.pop(name, None)
    return settings


def admin_config(config: ClientConfig, *, hooks: Hooks = NO_HOOKS) -> Settings:
    """Settings of the administration client."""
    return _shared(config, hooks, _PRODUCER_ONLY | _CONSUMER_ONLY)


def _shared(config: ClientConfig, hooks: Hooks, without: frozenset[str]) -> Settings:
    """The user's options that fit this kind of client, the address and the callbacks."""
    settings: Settings = {k: v for k, v in config.options.items() if k not in without}
    settings["bootstrap.servers"] = config.bootstrap_servers
    # By default a client whose connections all broke forgets its brokers and begins with the
    # bootstrap servers again; requests to a coordinator then wait for the forgotten broker, for
    # ever: sending offsets, reading them (librdkafka #5511, seen with 2.16 at every second cut).
    settings.setdefault("metadata.recovery.strategy", "none")
    # Ten seconds by default: after a broker's restart each client waited so long on its own.
    settings.setdefault("reconnect.backoff.max.ms", 1000)
    settings.setdefault("client.id", config.client_id)
    settings["logger"] = config.logger
    if hooks.on_error is not None:
        settings["error_cb"] = hooks.on_error
    if hooks.on_statistics is not None and hooks.statistics_interval_ms > 0:
        settings["stats_cb"] = hooks.on_statistics
        settings["statistics.interval.ms"] = hooks.statistics_interval_ms
    return settings


def librdkafka_version() -> str:
    """Version of the client library in use, for build information."""
    return libversion()[0]
