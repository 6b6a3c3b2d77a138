"""Whether this worker lives and whether it is ready, each with the reasons.

Live means that the process does its work at all: the poll thread and the event loop gave a sign of
life within their bounds. It never depends on Kafka, because restarting workers does not mend a
broker. Ready means that every assigned task runs; a restoring worker lives and is not ready.

The engine feeds it from its threads; the HTTP thread asks. Must not import anything of Kafka.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from onceflow.observe.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onceflow.ids import TaskId


class WorkerState(StrEnum):
    """What the worker as a whole does."""

    STARTING = "starting"
    REBALANCING = "rebalancing"
    RESTORING = "restoring"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class TaskState(StrEnum):
    """Steps of a task from its assignment on, in this order."""

    TAKING_OVER = "taking_over"
    RESTORING = "restoring"
    RUNNING = "running"


class Heartbeat(StrEnum):
    """What gives signs of life."""

    POLL = "poll"
    LOOP = "loop"


class Reason(StrEnum):
    """Why a verdict is negative; the values are an interface for scripts."""

    POLL_STALLED = "poll_thread_stalled"
    LOOP_STALLED = "event_loop_stalled"
    FATAL = "fatal_error"
    NOT_ASSIGNED = "no_assignment_yet"
    TASK_NOT_RUNNING = "task_not_running"
    STOPPING = "stopping"


_ADVICE = {
    Reason.POLL_STALLED: "the process is stuck or starved of CPU: take a stack dump, restart it",
    Reason.LOOP_STALLED: (
        "an agent blocks the event loop: make its call asynchronous or move it to a thread"
    ),
    Reason.FATAL: "read the error in the log; exit code 4 means: do not restart blindly",
    Reason.NOT_ASSIGNED: (
        "the group has not given this worker its partitions: check that the broker answers"
    ),
    Reason.TASK_NOT_RUNNING: "wait; see restore progress in onceflow_restore_remaining_records",
    Reason.STOPPING: "none: the worker drains, commits and leaves",
}
_STALLED = {Heartbeat.POLL: Reason.POLL_STALLED, Heartbeat.LOOP: Reason.LOOP_STALLED}

POLL_BOUND_S = 300.0
"""Default of librdkafka's ``max.poll.interval.ms``: past it the group has expelled us anyway."""

LOOP_BOUND_S = 60.0
"""Four times the default record bound: until then the engine itself can still act."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer and the JSON-able document that explains it."""

    ok: bool
    document: dict[str, object]


@dataclass(slots=True)
class _TaskHealth:
    """State of one task, since when, and changelog records still to be replayed."""

    state: TaskState
    since_s: float
    remaining_records: int | None = None


@dataclass(slots=True)
class _Facts:
    """What the engine reported last; guarded by the health's lock."""

    worker_state: WorkerState = WorkerState.STARTING
    assigned: bool = False
    tasks: dict[TaskId, _TaskHealth] = field(default_factory=dict["TaskId", _TaskHealth])
    last_commit_s: float | None = None
    fatal: str | None = None


def task_name(task: TaskId) -> str:
    """Name a task as metrics, logs and health do: partition count, then partition number."""
    return f"{task.partition_count}_{task.number}"


class Health:
    """The worker's health; every method may be called from any thread."""

    def __init__(
        self,
        *,
        poll_bound_s: float = POLL_BOUND_S,
        loop_bound_s: float = LOOP_BOUND_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with both heartbeats fresh, so that a start gets the whole bound as patience.

        Args:
            poll_bound_s: oldest acceptable sign of life of the poll thread.
            loop_bound_s: oldest acceptable sign of life of the event loop.
            clock: monotonic seconds.
        """
        self._clock = clock
        self._bounds_s = {Heartbeat.POLL: poll_bound_s, Heartbeat.LOOP: loop_bound_s}
        begun_s = clock()
        self._beats_s = dict.fromkeys(Heartbeat, begun_s)
        self._lock = threading.Lock()
        self._facts = _Facts()

    def beat(self, source: Heartbeat) -> None:
        """Note a sign of life. One dictionary store: cheap enough for every poll."""
        self._beats_s[source] = self._clock()

    def worker(self, state: WorkerState) -> None:
        """Note what the worker as a whole does."""
        with self._lock:
            self._facts.worker_state = state

    def assigned(self, tasks: Iterable[TaskId]) -> None:
        """Replace the set of tasks: kept ones keep their state, others begin by taking over."""
        at_s = self._clock()
        with self._lock:
            known = self._facts.tasks
            self._facts.tasks = {
                task: known.get(task) or _TaskHealth(TaskState.TAKING_OVER, at_s) for task in tasks
            }
            self._facts.assigned = True

    def task(self, task: TaskId, state: TaskState, remaining_records: int | None = None) -> None:
        """Note a task's state. A task that is not assigned is ignored: it has just been lost."""
        at_s = self._clock()
        with self._lock:
            health = self._facts.tasks.get(task)
            if health is None:
                return
            if health.state is not state:
                health.state, health.since_s = state, at_s
            health.remaining_records = remaining_records

    def tasks_by_state(self) -> dict[TaskState, int]:
        """Return how many tasks are in each state; states without a task are left out."""
        with self._lock:
            return Counter(health.state for health in self._facts.tasks.values())

    def committed(self) -> None:
        """Note that a transaction was committed."""
        at_s = self._clock()
        with self._lock:
            self._facts.last_commit_s = at_s

    def fatal(self, error: BaseException) -> None:
        """Note the error that ends this worker; the first one is kept."""
        with self._lock:
            if self._facts.fatal is None:
                self._facts.fatal = redact_text(f"{type(error).__name__}: {error}")
            self._facts.worker_state = WorkerState.FAILED

    def live(self) -> Verdict:
        """Say whether the process should be left running. Independent of Kafka's state."""
        reasons = self._stalled()
        return Verdict(
            not reasons,
            {
                "status": "live" if not reasons else "not_live",
                "reasons": reasons,
                "heartbeats": self._heartbeats(),
            },
        )

    def ready(self) -> Verdict:
        """Say whether every assigned task runs; a worker assigned no task is ready."""
        at_s = self._clock()
        with self._lock:
            reasons = self._stalled() + self._not_ready(at_s)
            facts = self._facts
            document: dict[str, object] = {
                "status": "ready" if not reasons else "not_ready",
                "worker": facts.worker_state.value,
                "reasons": reasons,
                "tasks": {
                    task_name(task): _task_document(health, at_s)
                    for task, health in sorted(facts.tasks.items())
                },
                "last_commit_age_s": (
                    None if facts.last_commit_s is None else round(at_s - facts.last_commit_s, 3)
                ),
                "heartbeats": self._heartbeats(),
            }
        return Verdict(not reasons, document)

    def _heartbeats(self) -> dict[str, dict[str, float]]:
        at_s = self._clock()
        return {
            source.value: {
                "age_s": round(at_s - self._beats_s[source], 3),
                "bound_s": self._bounds_s[source],
            }
            for source in Heartbeat
        }

    def _stalled(self) -> list[dict[str, str]]:
        at_s = self._clock()
        reasons: list[dict[str, str]] = []
        for source, bound_s in self._bounds_s.items():
            age_s = at_s - self._beats_s[source]
            if age_s > bound_s:
                why = f"no sign of life for {age_s:.1f} s, bound {bound_s:.1f} s"
                reasons.append(_reason(source.value, _STALLED[source], why))
        return reasons

    def _not_ready(self, at_s: float) -> list[dict[str, str]]:
        """Collect what keeps the worker from being ready; the lock is held."""
        facts = self._facts
        reasons: list[dict[str, str]] = []
        if facts.fatal is not None:
            reasons.append(_reason("worker", Reason.FATAL, facts.fatal))
        if facts.worker_state is WorkerState.STOPPING:
            reasons.append(_reason("worker", Reason.STOPPING, "the worker was asked to stop"))
        if not facts.assigned:
            why = f"no partitions assigned yet, worker is {facts.worker_state.value}"
            reasons.append(_reason("worker", Reason.NOT_ASSIGNED, why))
        for task, health in sorted(facts.tasks.items()):
            if health.state is not TaskState.RUNNING:
                why = f"{health.state.value} for {at_s - health.since_s:.1f} s"
                if health.remaining_records is not None:
                    why += f", {health.remaining_records} changelog records remain"
                reasons.append(_reason(f"task {task_name(task)}", Reason.TASK_NOT_RUNNING, why))
        return reasons


def _reason(what: str, reason: Reason, why: str) -> dict[str, str]:
    return {"what": what, "reason": reason.value, "why": why, "do": _ADVICE[reason]}


def _task_document(health: _TaskHealth, at_s: float) -> dict[str, object]:
    return {
        "state": health.state.value,
        "for_s": round(at_s - health.since_s, 3),
        "remaining_records": health.remaining_records,
    }
