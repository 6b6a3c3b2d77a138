"""The part of librdkafka's statistics that is watched, as a small typed value.

Decides which of the several hundred numbers of STATISTICS.md are kept. Parsing is one call of a C
parser and a walk over brokers and assigned partitions; it runs once per statistics interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from onceflow.ids import Partition


@dataclass(frozen=True, slots=True)
class TransactionStatistics:
    """librdkafka's ``eos`` block: the idempotent and transactional producer's own state."""

    idempotence_state: str
    transaction_state: str
    transaction_state_age_ms: int
    may_enqueue: bool
    producer_id: int
    producer_epoch: int
    producer_epoch_count: int


@dataclass(frozen=True, slots=True)
class PartitionStatistics:
    """One assigned partition as the consumer sees it; -1 and -1001 mean not known yet.

    Attributes:
        offset_lag: from the next offset to deliver to the last stable offset, control records
            passed. librdkafka's own ``consumer_lag`` stays -1, because it is taken from offsets
            that the consumer commits or stores, and ours are in the transactions.
        last_stable_offset: end of the log for committed readers.
        high_watermark: end of the log, open transactions included.
        queued_records, queued_bytes: fetched and not yet polled.
    """

    offset_lag: int
    last_stable_offset: int
    high_watermark: int
    queued_records: int
    queued_bytes: int


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """One broker connection. Counts grow for ever; round trip times are of the last interval."""

    name: str
    connected: bool
    round_trip_average_s: float
    round_trip_p99_s: float
    request_retries: int
    request_timeouts: int
    transmit_errors: int
    receive_errors: int
    disconnects: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """One report of one client.

    Attributes:
        client: librdkafka's name of the client.
        reply_queue: operations waiting to be served by ``poll``.
        queued_messages: produced, not yet delivered.
        queued_bytes: the same in bytes.
        sent_bytes, received_bytes: of all requests and responses since the start.
        brokers: by broker id, bootstrap connections left out.
        partitions: assigned partitions of a consumer.
        transactions: only of a transactional or idempotent producer.
    """

    client: str
    reply_queue: int
    queued_messages: int
    queued_bytes: int
    sent_bytes: int
    received_bytes: int
    brokers: dict[int, BrokerStatistics] = field(default_factory=dict[int, BrokerStatistics])
    partitions: dict[Partition, PartitionStatistics] = field(
        default_factory=dict[Partition, PartitionStatistics]
    )
    transactions: TransactionStatistics | None = None

    @property
    def transport_faults(self) -> int:
        """Sum of retries, timeouts, errors and disconnects; growth means a disturbed connection."""
        return sum(
            broker.request_retries
            + broker.request_timeouts
            + broker.transmit_errors
            + broker.receive_errors
            + broker.disconnects
            for broker in self.brokers.values()
        )


def parse(document: str | bytes) -> Statistics:
    """Read one statistics document of librdkafka (STATISTICS.md of librdkafka 2.x)."""
    data = cast("dict[str, Any]", orjson.loads(document))
    return Statistics(
        client=data["name"],
        reply_queue=data["replyq"],
        queued_messages=data["msg_cnt"],
        queued_bytes=data["msg_size"],
        sent_bytes=data["tx_bytes"],
        received_bytes=data["rx_bytes"],
        brokers={b["nodeid"]: _broker(b) for b in data["brokers"].values() if b["nodeid"] >= 0},
        partitions={
            Partition(topic["topic"], row["partition"]): _partition(row)
            for topic in data["topics"].values()
            for row in topic["partitions"].values()
            if row["partition"] >= 0 and row["desired"]
        },
        transactions=_transactions(data["eos"]) if "eos" in data else None,
    )


def _broker(data: dict[str, Any]) -> BrokerStatistics:
    return BrokerStatistics(
        name=data["nodename"],
        connected=data["state"] == "UP",
        round_trip_average_s=data["rtt"]["avg"] / 1e6,
        round_trip_p99_s=data["rtt"]["p99"] / 1e6,
        request_retries=data["txretries"],
        request_timeouts=data["req_timeouts"],
        transmit_errors=data["txerrs"],
        receive_errors=data["rxerrs"],
        disconnects=data["disconnects"],
    )


def _partition(data: dict[str, Any]) -> PartitionStatistics:
    return PartitionStatistics(
        offset_lag=_offset_lag(data),
        last_stable_offset=data["ls_offset"],
        high_watermark=data["hi_offset"],
        queued_records=data["fetchq_cnt"],
        queued_bytes=data["fetchq_size"],
    )


def _offset_lag(data: dict[str, Any]) -> int:
    # The delivered position is unset from a seek to the first record after it.
    position = data["app_offset"] if data["app_offset"] >= 0 else data["next_offset"]
    if position < 0 or data["ls_offset"] < 0:
        return -1
    return max(0, data["ls_offset"] - position)


def _transactions(data: dict[str, Any]) -> TransactionStatistics:
    return TransactionStatistics(
        idempotence_state=data["idemp_state"],
        transaction_state=data["txn_state"],
        transaction_state_age_ms=data["txn_stateage"],
        may_enqueue=data["txn_may_enq"],
        producer_id=data["producer_id"],
        producer_epoch=data["producer_epoch"],
        producer_epoch_count=data["epoch_cnt"],
    )
