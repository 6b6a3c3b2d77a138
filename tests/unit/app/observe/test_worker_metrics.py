"""Each measurement arrives in the metric that it belongs to, and the exposition parses."""

from __future__ import annotations

import json
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from onceflow.ids import TaskId
from onceflow.observe import series
from onceflow.observe.catalogue import CATALOGUE
from onceflow.observe.health import TaskState, WorkerState
from onceflow.observe.metrics import StoreSizes, WorkerMetrics

TASK = TaskId(4, 1)


class Clock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def samples(metrics: WorkerMetrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_records_and_batches_are_counted_per_partition() -> None:
    metrics = WorkerMetrics()
    metrics.run_consumed("flights", 3, 500)
    metrics.run_consumed("flights", 3, 20)
    metrics.produced("totals", 7)
    metrics.run_processed(0.02)
    seen = samples(metrics)
    assert seen["onceflow_records_consumed_total", "partition=3", "topic=flights"] == 520
    assert seen["onceflow_batches_consumed_total", "partition=3", "topic=flights"] == 2
    assert seen["onceflow_records_produced_total", "topic=totals"] == 7
    assert seen["onceflow_record_latency_seconds_count",] == 1


def test_dropped_and_dead_records_are_counted_apart() -> None:
    metrics = WorkerMetrics()
    metrics.dropped("skipped", 2)
    metrics.dead_letter("flights")
    seen = samples(metrics)
    assert seen["onceflow_records_dropped_total", "reason=skipped"] == 2
    assert seen["onceflow_dead_letters_total", "topic=flights"] == 1
    with pytest.raises(ValueError, match="boredom"):
        metrics.dropped("boredom")


def test_lag_is_shown_until_the_partition_is_lost() -> None:
    metrics = WorkerMetrics()
    metrics.lag("flights", 0, 40, 1.5)
    seen = samples(metrics)
    assert seen["onceflow_offset_lag", "partition=0", "topic=flights"] == 40
    assert seen["onceflow_time_lag_seconds", "partition=0", "topic=flights"] == 1.5
    metrics.partition_lost("flights", 0)
    metrics.partition_lost("flights", 0)
    assert ("onceflow_offset_lag", "partition=0", "topic=flights") not in samples(metrics)


def test_a_commit_counts_its_outcome_phases_and_gate_time() -> None:
    clock = Clock()
    metrics = WorkerMetrics(clock=clock)
    metrics.transaction_begun()
    clock.at_s += 2.0
    assert samples(metrics)["onceflow_transaction_open_age_seconds",] == 2.0
    metrics.commit_finished("committed", {"process": 1.9, "flush": 0.1}, 0.5)
    metrics.tasks_committed([TASK], 1_700_000_000.0)
    seen = samples(metrics)
    assert seen["onceflow_transactions_total", "outcome=committed"] == 1
    assert seen["onceflow_transactions_total", "outcome=fenced"] == 0
    assert seen["onceflow_transaction_duration_seconds_sum", "phase=flush"] == 0.1
    assert seen["onceflow_commit_epoch_duration_seconds_sum",] == 2.0
    assert seen["onceflow_gate_closed_seconds_total",] == 0.5
    assert seen["onceflow_gate_closed_ratio",] == 0.25
    assert seen["onceflow_transaction_open_age_seconds",] == 0
    assert seen["onceflow_last_commit_timestamp_seconds", "task=4_1"] == 1_700_000_000.0


def test_the_closed_share_forgets_what_is_older_than_its_window() -> None:
    clock = Clock()
    metrics = WorkerMetrics(clock=clock)
    clock.at_s += 50.0
    metrics.commit_finished("aborted", {}, 1.0)
    assert samples(metrics)["onceflow_gate_closed_ratio",] == pytest.approx(0.1)
    clock.at_s += 10.1
    assert samples(metrics)["onceflow_gate_closed_ratio",] == 0


def test_rebalances_are_counted_by_kind_and_timed() -> None:
    metrics = WorkerMetrics()
    metrics.rebalance("revoked", 0.4)
    seen = samples(metrics)
    assert seen["onceflow_rebalances_total", "kind=revoked"] == 1
    assert seen["onceflow_rebalance_duration_seconds_sum",] == 0.4


def test_the_gauges_of_a_task_go_with_it() -> None:
    metrics = WorkerMetrics()
    metrics.restore(TASK, "counts", 900)
    metrics.store(TASK, {"counts": StoreSizes(10, 20, 30, 1)})
    metrics.restore(TaskId(4, 2), "counts", 5)
    metrics.block_cache(64)
    seen = samples(metrics)
    assert seen["onceflow_restore_remaining_records", "store=counts", "task=4_1"] == 900
    assert seen["onceflow_store_bytes", "store=counts", "task=4_1"] == 10
    assert seen["onceflow_rocksdb_memtables_bytes", "store=counts", "task=4_1"] == 20
    assert seen["onceflow_rocksdb_pending_compaction_bytes", "store=counts", "task=4_1"] == 30
    assert seen["onceflow_rocksdb_background_errors", "store=counts", "task=4_1"] == 1
    assert seen["onceflow_rocksdb_block_cache_bytes",] == 64
    metrics.task_closed(TASK)
    left = [key for key in samples(metrics) if "task=4_1" in key]
    assert left == []
    assert samples(metrics)["onceflow_restore_remaining_records", "store=counts", "task=4_2"] == 5


def test_worker_and_task_states_are_one_hot() -> None:
    metrics = WorkerMetrics()
    metrics.worker_state(WorkerState.RUNNING)
    metrics.tasks({TaskState.RUNNING: 3})
    metrics.tasks({TaskState.RUNNING: 1, TaskState.RESTORING: 2})
    seen = samples(metrics)
    states = {k: v for k, v in seen.items() if k[0] == "onceflow_worker_state"}
    assert {k for k, v in states.items() if v} == {("onceflow_worker_state", "state=running")}
    assert len(states) == len(WorkerState)
    assert seen["onceflow_tasks", "role=active", "state=running"] == 1
    assert seen["onceflow_tasks", "role=active", "state=restoring"] == 2
    assert seen["onceflow_tasks", "role=active", "state=taking_over"] == 0


def test_worker_wide_measurements() -> None:
    metrics = WorkerMetrics()
    metrics.build("0.1.0", "2.16.1")
    metrics.polled(0.2)
    metrics.in_flight(5_000, 320_000)
    metrics.invariant_violation()
    seen = samples(metrics)
    build = next(key for key in seen if key[0] == "onceflow_build_info")
    assert {"version=0.1.0", "librdkafka=2.16.1"} < set(build)
    assert seen["onceflow_poll_interval_seconds_count",] == 1
    assert seen["onceflow_records_in_flight",] == 5_000
    assert seen["onceflow_in_flight_bytes",] == 320_000
    assert seen["onceflow_invariant_violations_total",] == 1


def test_a_metric_with_its_most_series_folds_the_rest_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(series, "METRIC_SERIES_MAX", 2)
    metrics = WorkerMetrics()
    for number in range(5):
        metrics.produced(f"customer-{number}", 10)
    seen = samples(metrics)
    assert seen["onceflow_records_produced_total", "topic=customer-1"] == 10
    assert seen["onceflow_records_produced_total", "topic=other"] == 30
    refused = ("onceflow_metric_series_refused_total", "metric=onceflow_records_produced_total")
    assert seen[refused] == 3


def test_every_catalogued_metric_is_in_the_exposition_with_its_help() -> None:
    metrics = WorkerMetrics()
    metrics.build("0.1.0", "2.16.1")
    families = {f.name: f for f in text_string_to_metric_families(metrics.exposition().decode())}
    for spec in CATALOGUE:
        family = families.get(spec.name) or families[spec.name.removesuffix("_total")]
        assert family.documentation == spec.meaning
    assert not any(name.endswith("_created") for name in families)
    assert "process_cpu_seconds" in families


def test_scrapes_meanwhile_neither_lose_counts_nor_fail() -> None:
    metrics = WorkerMetrics()

    def count() -> None:
        for number in range(2_000):
            metrics.run_consumed("flights", number % 50, 1)
            metrics.commit_finished("committed", {"flush": 0.001}, 0.001)
            metrics.partition_lost("flights", number % 50)

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.exposition()
    seen = samples(metrics)
    consumed = [v for k, v in seen.items() if k[0] == "onceflow_records_consumed_total"]
    assert sum(consumed) == 4_000


STATISTICS = json.loads("""
{"type": "producer", "msg_cnt": 3, "msg_size": 99, "replyq": 0, "tx": 11, "rx": 10,
 "brokers": {"h:1/1": {"state": "UP", "rtt": {"avg": 1500, "p99": 4000}, "req_timeouts": 2,
                       "throttle": {"avg": 20}}},
 "topics": {"flights": {"partitions": {"-1": {"msgq_cnt": 5}, "0": {"consumer_lag": 17}}}},
 "cgrp": {"state": "up", "rebalance_cnt": 4, "rebalance_age": 2500},
 "eos": {"idemp_state": "Assigned", "txn_state": "InTransaction", "txn_stateage": 1200,
         "txn_may_enq": true, "producer_id": 7, "producer_epoch": 3, "epoch_cnt": 1}}
""")


@pytest.mark.parametrize("document", [STATISTICS, json.dumps(STATISTICS)])
def test_librdkafkas_statistics_become_metrics_in_base_units(document: dict | str) -> None:
    metrics = WorkerMetrics()
    metrics.client_statistics(document, "producer-0")
    seen = samples(metrics)
    client = "client=producer-0"
    assert seen["rdkafka_eos_transaction_state", client, "state=InTransaction"] == 1
    assert seen["rdkafka_eos_transaction_state_age_seconds", client] == 1.2
    assert seen["rdkafka_eos_may_produce", client] == 1
    assert seen["rdkafka_eos_producer_epoch", client] == 3
    assert seen["rdkafka_group_rebalances_total", client] == 4
    assert seen["rdkafka_broker_rtt_p99_seconds", "broker=h:1/1", client] == pytest.approx(0.004)
    assert seen["rdkafka_broker_timeouts_total", "broker=h:1/1", client] == 2
    assert seen["rdkafka_partition_lag", client, "partition=0", "topic=flights"] == 17
    assert not any("partition=-1" in key for key in seen)


def test_a_closed_clients_statistics_vanish() -> None:
    metrics = WorkerMetrics()
    metrics.client_statistics(STATISTICS, "producer-0")
    metrics.client_statistics({}, "consumer")
    metrics.client_closed("producer-0")
    metrics.client_closed("producer-0")
    assert not any(key[0].startswith("rdkafka_") for key in samples(metrics))
