"""Every catalogued metric is set by a method that the worker's code calls.

A metric that nobody sets reads as "all is well" on a dashboard. That each is named in a test is
rule 5's business (``test_named_in_tests``).
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from codebase.sources import Module, expect_none, parse, production
from onceflow.ids import TaskId
from onceflow.observe.catalogue import CATALOGUE, SERIES_REFUSED
from onceflow.observe.health import TaskState, WorkerState
from onceflow.observe.metrics import StoreSizes, WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASK = TaskId(4, 1)

CALLS: dict[str, Callable[[WorkerMetrics], None]] = {
    "build": lambda m: m.build("0.1.0", "2.16.1"),
    "worker_state": lambda m: m.worker_state(WorkerState.RUNNING),
    "invariant_violation": lambda m: m.invariant_violation(),
    "polled": lambda m: m.polled(0.1),
    "in_flight": lambda m: m.in_flight(10, 1_000),
    "run_consumed": lambda m: m.run_consumed("t", 0, 10),
    "run_processed": lambda m: m.run_processed(0.01),
    "produced": lambda m: m.produced("t", 10),
    "dropped": lambda m: m.dropped("skipped"),
    "dead_letter": lambda m: m.dead_letter("t"),
    "lag": lambda m: m.lag("t", 0, 10, 1.0),
    "transaction_begun": lambda m: m.transaction_begun(),
    "commit_finished": lambda m: m.commit_finished("committed", {"flush": 0.1}, 0.1),
    "tasks_committed": lambda m: m.tasks_committed([TASK], 1.0),
    "rebalance": lambda m: m.rebalance("assigned", 0.1),
    "tasks": lambda m: m.tasks({TaskState.RUNNING: 1}),
    "restore": lambda m: m.restore(TASK, "table", 10),
    "store": lambda m: m.store(TASK, {"table": StoreSizes(1, 2, 3, 4)}),
    "block_cache": lambda m: m.block_cache(10),
    "in_doubt": lambda m: m.in_doubt(1, 0.1),
    "branch_prepared": lambda m: m.branch_prepared("p", 0.1),
    "branch_committed": lambda m: m.branch_committed("p", 0.1),
    "branches_resolved": lambda m: m.branches_resolved("committed", 1),
    "participant_failed": lambda m: m.participant_failed("p"),
    "outbox_lag": lambda m: m.outbox_lag("s", 3, 0.5),
    "outbox_applied": lambda m: m.outbox_applied("s", 3, 0.1),
    "outbox_refused": lambda m: m.outbox_refused("s"),
    "coordinator_told": lambda m: m.coordinator_told(3, is_connected=True),
    "coordinator_lost": lambda m: m.coordinator_lost(),
    "heuristic_outcome": lambda m: m.heuristic_outcome(),
}
"""One call of each method that measures."""

NOT_MEASURING = {
    "client_statistics": "librdkafka's metrics, which are not ours",
    "client_closed": "forgets",
    "partition_lost": "forgets",
    "task_closed": "forgets",
    "exposition": "reads",
}


class TickingClock:
    """Moves on at each reading, so that ages and shares are not zero."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        self.at_s += 0.25
        return self.at_s


def readings(metrics: WorkerMetrics) -> dict[str, str]:
    lines = metrics.exposition().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line.startswith("onceflow_"))


def metrics_set_by(call: Callable[[WorkerMetrics], None]) -> set[str]:
    """Names of the metrics whose readings a call changes."""
    metrics = WorkerMetrics(clock=TickingClock())
    before = readings(metrics)
    call(metrics)
    changed = {name for name, value in readings(metrics).items() if before.get(name) != value}
    return {
        spec.name
        for spec in CATALOGUE
        for name in changed
        if name.partition("{")[0].startswith(spec.name)
        and name.partition("{")[0].removeprefix(spec.name) in {"", "_sum", "_count", "_bucket"}
    }


def calls_on_metrics(module: Module) -> Iterator[str]:
    """Methods that a module calls on something named like the worker's metrics."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name.lstrip("_").endswith("metrics"):
                yield node.attr


def test_each_method_is_probed_or_excused() -> None:
    methods = {
        name
        for name in dir(WorkerMetrics)
        if not name.startswith("_") and callable(getattr(WorkerMetrics, name))
    }
    assert methods == set(CALLS) | set(NOT_MEASURING)


def test_each_metric_is_set_by_a_method() -> None:
    settable = set().union(*(metrics_set_by(call) for call in CALLS.values()))
    expect_none({spec.name for spec in CATALOGUE} - settable - {SERIES_REFUSED.name})


@pytest.mark.parametrize("method", CALLS)
def test_each_method_sets_something(method: str) -> None:
    assert metrics_set_by(CALLS[method])


def test_each_method_is_called_by_the_worker() -> None:
    called = {
        name
        for module in production()
        if module.room != "observe"
        for name in calls_on_metrics(module)
    }
    expect_none((set(CALLS) | set(NOT_MEASURING)) - called)


def test_calls_on_metrics_are_recognised() -> None:
    sample = parse("self._metrics.lag(1)\nworker_metrics.store(2)\nother.produced(3)\n")
    assert set(calls_on_metrics(sample)) == {"lag", "store"}
