"""The catalogue keeps Prometheus' naming rules, and the names that operators were promised."""

from __future__ import annotations

import re

import pytest

from onceflow.observe.catalogue import CATALOGUE, MetricKind, MetricSpec, Unit
from onceflow.observe.statistics import STATISTICS_CATALOGUE

PROMISED = {
    "onceflow_build_info",
    "onceflow_worker_state",
    "onceflow_poll_interval_seconds",
    "onceflow_invariant_violations_total",
    "onceflow_tasks",
    "onceflow_records_consumed_total",
    "onceflow_records_produced_total",
    "onceflow_records_dropped_total",
    "onceflow_dead_letters_total",
    "onceflow_record_latency_seconds",
    "onceflow_time_lag_seconds",
    "onceflow_offset_lag",
    "onceflow_transactions_total",
    "onceflow_transaction_duration_seconds",
    "onceflow_transaction_open_age_seconds",
    "onceflow_last_commit_timestamp_seconds",
    "onceflow_rebalances_total",
    "onceflow_rebalance_duration_seconds",
    "onceflow_restore_remaining_records",
    "onceflow_store_bytes",
    "onceflow_gate_closed_ratio",
    "onceflow_gate_closed_seconds_total",
    "onceflow_records_in_flight",
    "onceflow_batches_consumed_total",
    "onceflow_commit_epoch_duration_seconds",
}

EVERY = pytest.mark.parametrize(
    "spec", [*CATALOGUE, *STATISTICS_CATALOGUE], ids=lambda spec: spec.name
)


def test_every_promised_metric_is_catalogued() -> None:
    assert {spec.name for spec in CATALOGUE} >= PROMISED


def test_no_name_occurs_twice() -> None:
    names = [spec.name for spec in (*CATALOGUE, *STATISTICS_CATALOGUE)]
    assert len(names) == len(set(names))


def test_our_metrics_carry_our_prefix_and_librdkafkas_its_own() -> None:
    assert all(re.fullmatch(r"onceflow_[a-z0-9_]+", spec.name) for spec in CATALOGUE)
    assert all(re.fullmatch(r"rdkafka_[a-z0-9_]+", s.name) for s in STATISTICS_CATALOGUE)


@EVERY
def test_a_name_ends_in_its_base_unit_and_a_counter_in_total(spec: MetricSpec) -> None:
    assert (spec.kind is MetricKind.COUNTER) == spec.name.endswith("_total")
    stem = spec.name.removesuffix("_total")
    if spec.unit is not Unit.COUNT:
        assert stem.endswith(f"_{spec.unit.value}")
    else:
        assert not stem.endswith(tuple(f"_{unit.value}" for unit in Unit if unit.value))
    assert not re.search(r"_(ms|us|milliseconds|minutes|kb|mb|percent)(_|$)", spec.name)


@EVERY
def test_a_help_text_is_a_sentence(spec: MetricSpec) -> None:
    assert spec.meaning.endswith(".")
    assert len(spec.meaning.split()) >= 2


@EVERY
def test_only_histograms_have_buckets_and_they_rise(spec: MetricSpec) -> None:
    assert bool(spec.buckets) == (spec.kind is MetricKind.HISTOGRAM)
    assert list(spec.buckets) == sorted(set(spec.buckets))


@EVERY
def test_labels_are_few_and_none_names_something_unbounded(spec: MetricSpec) -> None:
    bounded = {
        *("topic", "partition", "task", "store", "role", "state", "reason", "outcome", "phase"),
        *("participant", "sink"),
        *("kind", "metric", "client", "broker", "version", "python", "librdkafka"),
    }
    assert set(spec.labels) <= bounded
    assert len(spec.labels) <= 3
