"""librdkafka's own statistics as metrics, ``rdkafka_*``: read at the scrape, not when they come.

The engine hands over each statistics document (``stats_cb``) whole; only the newest of each client
is kept, and parsed at a scrape, so a statistics interval costs one dictionary store. The fields are
those of librdkafka's STATISTICS.md; a field that a version does not report leaves its metric out.
The table below decides what is exported: what tells a broker's fault from the network's or from
ours, and the whole of the ``eos`` block.

Internal names of partitions (number -1) are left out: they are librdkafka's queue for messages
whose partition is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from onceflow.limits import METRIC_SERIES_MAX
from onceflow.observe.catalogue import MetricKind, MetricSpec, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

Statistics = Mapping[str, object]
"""One parsed statistics document, or a block of it."""

Document = Statistics | str | bytes
"""A statistics document, parsed or as librdkafka wrote it."""

_MILLISECONDS = 1e-3
_MICROSECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class StatisticsField:
    """Where a number stands within its block, and the metric that it becomes.

    A field whose value is a word becomes the label ``state`` of a metric that is 1.
    """

    spec: MetricSpec
    path: tuple[str, ...]
    scale: float = 1.0


def _count(name: str, meaning: str, labels: tuple[str, ...], *path: str) -> StatisticsField:
    spec = MetricSpec(f"rdkafka_{name}_total", MetricKind.COUNTER, meaning, labels)
    return StatisticsField(spec, path)


def _level(name: str, meaning: str, labels: tuple[str, ...], *path: str) -> StatisticsField:
    spec = MetricSpec(f"rdkafka_{name}", MetricKind.GAUGE, meaning, labels)
    return StatisticsField(spec, path)


def _bytes(name: str, meaning: str, labels: tuple[str, ...], *path: str) -> StatisticsField:
    full = f"rdkafka_{name}_bytes"
    spec = MetricSpec(full, MetricKind.GAUGE, meaning, labels, Unit.BYTES)
    return StatisticsField(spec, path)


def _seconds(
    name: str, meaning: str, labels: tuple[str, ...], path: tuple[str, ...], scale: float
) -> StatisticsField:
    full = f"rdkafka_{name}_seconds"
    spec = MetricSpec(full, MetricKind.GAUGE, meaning, labels, Unit.SECONDS)
    return StatisticsField(spec, path, scale)


_CLIENT = ("client",)
_STATE = ("client", "state")
_BROKER = ("client", "broker")
_BROKER_STATE = ("client", "broker", "state")
_PARTITION = ("client", "topic", "partition")

CLIENT_FIELDS: tuple[StatisticsField, ...] = (
    _level("queued_messages", "Messages in the producer's queues.", _CLIENT, "msg_cnt"),
    _bytes("queued", "Size of the messages in the producer's queues.", _CLIENT, "msg_size"),
    _level("queued_events", "Events waiting for the application.", _CLIENT, "replyq"),
    _count("requests_sent", "Requests sent to brokers.", _CLIENT, "tx"),
    _count("responses_received", "Responses received from brokers.", _CLIENT, "rx"),
    _count("messages_sent", "Messages sent to brokers.", _CLIENT, "txmsgs"),
    _count("messages_received", "Messages received from brokers.", _CLIENT, "rxmsgs"),
)
GROUP_FIELDS: tuple[StatisticsField, ...] = (
    _level("group_state", "1 for the group client's state.", _STATE, "state"),
    _level("group_join_state", "1 for the state of joining the group.", _STATE, "join_state"),
    _count("group_rebalances", "Rebalances seen by the client.", _CLIENT, "rebalance_cnt"),
    _level("group_assigned_partitions", "Partitions assigned.", _CLIENT, "assignment_size"),
    _seconds(
        "group_rebalance_age",
        "Since the last rebalance.",
        _CLIENT,
        ("rebalance_age",),
        _MILLISECONDS,
    ),
)
EOS_FIELDS: tuple[StatisticsField, ...] = (
    _level("eos_idempotence_state", "1 for the producer id's state.", _STATE, "idemp_state"),
    _seconds(
        "eos_idempotence_state_age",
        "Time in that state.",
        _CLIENT,
        ("idemp_stateage",),
        _MILLISECONDS,
    ),
    _level("eos_transaction_state", "1 for the transaction's state.", _STATE, "txn_state"),
    _seconds(
        "eos_transaction_state_age",
        "Time in that state.",
        _CLIENT,
        ("txn_stateage",),
        _MILLISECONDS,
    ),
    _level("eos_may_produce", "1 while the transaction accepts messages.", _CLIENT, "txn_may_enq"),
    _level("eos_producer_id", "Producer id; -1 while there is none.", _CLIENT, "producer_id"),
    _level("eos_producer_epoch", "Producer epoch; fencing raises it.", _CLIENT, "producer_epoch"),
    _count("eos_producer_ids", "Producer ids acquired, one at the start.", _CLIENT, "epoch_cnt"),
)
BROKER_FIELDS: tuple[StatisticsField, ...] = (
    _level("broker_state", "1 for the connection's state.", _BROKER_STATE, "state"),
    _level("broker_requests_waiting", "Requests waiting to be sent.", _BROKER, "outbuf_cnt"),
    _level("broker_responses_awaited", "Requests in flight.", _BROKER, "waitresp_cnt"),
    _count("broker_send_errors", "Transmission errors.", _BROKER, "txerrs"),
    _count("broker_receive_errors", "Reception errors.", _BROKER, "rxerrs"),
    _count("broker_retries", "Requests sent again.", _BROKER, "txretries"),
    _count("broker_timeouts", "Requests that timed out.", _BROKER, "req_timeouts"),
    _count("broker_connects", "Connection attempts.", _BROKER, "connects"),
    _count("broker_disconnects", "Connections lost.", _BROKER, "disconnects"),
    _seconds("broker_rtt_avg", "Mean round trip.", _BROKER, ("rtt", "avg"), _MICROSECONDS),
    _seconds("broker_rtt_p99", "Round trip, p99.", _BROKER, ("rtt", "p99"), _MICROSECONDS),
    _seconds(
        "broker_queue_p99",
        "Wait in the output queue, p99.",
        _BROKER,
        ("outbuf_latency", "p99"),
        _MICROSECONDS,
    ),
    _seconds(
        "broker_throttle_avg",
        "Mean throttling by quota.",
        _BROKER,
        ("throttle", "avg"),
        _MILLISECONDS,
    ),
)
PARTITION_FIELDS: tuple[StatisticsField, ...] = (
    _level("partition_lag", "To the last stable offset; -1: unknown.", _PARTITION, "consumer_lag"),
    _level("partition_fetched", "Fetched messages not yet consumed.", _PARTITION, "fetchq_cnt"),
    _bytes("partition_fetched", "Size of those messages.", _PARTITION, "fetchq_size"),
    _level("partition_queued", "Messages waiting to be sent.", _PARTITION, "msgq_cnt"),
    _level("partition_in_flight", "Messages sent, not acknowledged.", _PARTITION, "msgs_inflight"),
)

STATISTICS_CATALOGUE: tuple[MetricSpec, ...] = tuple(
    field.spec
    for fields in (CLIENT_FIELDS, GROUP_FIELDS, EOS_FIELDS, BROKER_FIELDS, PARTITION_FIELDS)
    for field in fields
)
"""Every metric with librdkafka's prefix."""


class StatisticsCollector(Collector):
    """Renders the newest statistics of each client at every scrape."""

    def __init__(self) -> None:
        """Start with no client."""
        self._latest: dict[str, Document] = {}

    def update(self, client: str, document: Document) -> None:
        """Keep the document as the newest one of ``client``; it must not be changed after."""
        self._latest[client] = document

    def forget(self, client: str) -> None:
        """Drop a client that was closed; nothing happens if it is not known."""
        self._latest.pop(client, None)

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each field that any client reports."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for client, latest in self._latest.copy().items():
            document = _mapping(orjson.loads(latest) if isinstance(latest, str | bytes) else latest)
            _add(families, CLIENT_FIELDS, document, client)
            _add(families, GROUP_FIELDS, _block(document, "cgrp"), client)
            _add(families, EOS_FIELDS, _block(document, "eos"), client)
            for name, broker in _block(document, "brokers").items():
                _add(families, BROKER_FIELDS, _mapping(broker), client, name)
            for topic, block in _block(document, "topics").items():
                for number, partition in _block(_mapping(block), "partitions").items():
                    if number != "-1":
                        _add(families, PARTITION_FIELDS, _mapping(partition), client, topic, number)
        yield from families.values()


def _mapping(value: object) -> Statistics:
    return cast("Statistics", value) if isinstance(value, Mapping) else {}


def _block(statistics: Statistics, name: str) -> Statistics:
    return _mapping(statistics.get(name))


def _add(
    families: dict[str, CounterMetricFamily | GaugeMetricFamily],
    fields: tuple[StatisticsField, ...],
    block: Statistics,
    *labels: str,
) -> None:
    """Add the samples of one block, within the bound on series."""
    for field in fields:
        value: object = block
        for step in field.path:
            value = _mapping(value).get(step)
        if value is None:
            continue
        spec = field.spec
        family = families.get(spec.name)
        if family is None:
            make = CounterMetricFamily if spec.kind is MetricKind.COUNTER else GaugeMetricFamily
            family = families[spec.name] = make(spec.name, spec.meaning, labels=spec.labels)
        if len(family.samples) >= METRIC_SERIES_MAX:
            continue
        if isinstance(value, str):
            family.add_metric([*labels, value], 1)
        elif isinstance(value, int | float):
            family.add_metric(labels, value * field.scale)
