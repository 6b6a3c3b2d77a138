"""The statistics document of librdkafka becomes a small value."""

from __future__ import annotations

import json

import pytest

from onceflow.ids import Partition
from onceflow.kafka.statistics import parse

DOCUMENT = {
    "name": "onceflow#producer-1",
    "replyq": 2,
    "msg_cnt": 3,
    "msg_size": 40,
    "tx_bytes": 100,
    "rx_bytes": 200,
    "brokers": {
        "b:1/1": {
            "nodeid": 1,
            "nodename": "b:1",
            "state": "UP",
            "rtt": {"avg": 1_500, "p99": 4_000},
            "txretries": 1,
            "req_timeouts": 2,
            "txerrs": 3,
            "rxerrs": 4,
            "disconnects": 5,
        },
        "b:1/bootstrap": {"nodeid": -1},
    },
    "topics": {
        "t": {
            "topic": "t",
            "partitions": {
                "0": {
                    "partition": 0,
                    "desired": True,
                    "consumer_lag": -1,
                    "app_offset": 83,
                    "next_offset": 88,
                    "ls_offset": 90,
                    "hi_offset": 95,
                    "fetchq_cnt": 6,
                    "fetchq_size": 600,
                },
                "1": {"partition": 1, "desired": False},
                "-1": {"partition": -1, "desired": False},
            },
        }
    },
    "eos": {
        "idemp_state": "Assigned",
        "txn_state": "InTransaction",
        "txn_stateage": 12,
        "txn_may_enq": True,
        "producer_id": 4,
        "producer_epoch": 1,
        "epoch_cnt": 2,
    },
}


def test_brokers_partitions_and_the_transaction_are_kept():
    found = parse(json.dumps(DOCUMENT))
    assert (found.client, found.queued_messages, found.queued_bytes) == (
        "onceflow#producer-1",
        3,
        40,
    )
    assert list(found.brokers) == [1]
    broker = found.brokers[1]
    assert (broker.connected, broker.round_trip_average_s) == (True, 0.0015)
    assert found.transport_faults == 1 + 2 + 3 + 4 + 5
    assert list(found.partitions) == [Partition("t", 0)]
    assert found.partitions[Partition("t", 0)].offset_lag == 7
    assert found.partitions[Partition("t", 0)].last_stable_offset == 90
    assert found.transactions is not None
    assert found.transactions.transaction_state == "InTransaction"


@pytest.mark.parametrize(
    ("delivered", "fetched", "stable", "lag"),
    [(83, 90, 90, 7), (90, 90, 90, 0), (-1001, 90, 95, 5), (-1001, -1001, 95, -1), (3, 3, -1, -1)],
)
def test_lag_is_from_the_delivered_position_to_the_last_stable_offset(
    delivered, fetched, stable, lag
):
    document = json.loads(json.dumps(DOCUMENT))
    document["topics"]["t"]["partitions"]["0"] |= {
        "app_offset": delivered,
        "next_offset": fetched,
        "ls_offset": stable,
    }
    assert parse(json.dumps(document)).partitions[Partition("t", 0)].offset_lag == lag


def test_a_consumer_has_no_transaction():
    without = {key: value for key, value in DOCUMENT.items() if key != "eos"}
    assert parse(json.dumps(without)).transactions is None
