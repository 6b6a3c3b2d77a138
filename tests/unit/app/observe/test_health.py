"""Live and ready, as a table of what was reported and what is answered."""

from __future__ import annotations

import json
import threading

import pytest

from onceflow.errors import Fenced
from onceflow.ids import TaskId
from onceflow.observe.health import Health, Heartbeat, TaskState, WorkerState

A, B = TaskId(4, 0), TaskId(4, 1)


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(poll_bound_s=30.0, loop_bound_s=10.0, clock=clock)


def reasons(document: dict) -> list[str]:
    return [each["reason"] for each in document["reasons"]]


def test_a_starting_worker_lives_and_is_not_ready(health: Health) -> None:
    assert health.live().ok
    verdict = health.ready()
    assert not verdict.ok
    assert reasons(verdict.document) == ["no_assignment_yet"]


@pytest.mark.parametrize(
    ("beats", "after_s", "expected"),
    [
        ([], 10.0, []),
        ([], 10.1, ["event_loop_stalled"]),
        ([Heartbeat.POLL], 10.1, ["event_loop_stalled"]),
        ([Heartbeat.LOOP], 10.0, []),
        ([Heartbeat.LOOP, Heartbeat.POLL], 30.1, ["poll_thread_stalled", "event_loop_stalled"]),
    ],
)
def test_live_asks_only_for_signs_of_life(
    health: Health, clock: Clock, beats: list[Heartbeat], after_s: float, expected: list[str]
) -> None:
    for beat in beats:
        health.beat(beat)
    clock.at_s += after_s
    verdict = health.live()
    assert verdict.ok == (expected == [])
    assert reasons(verdict.document) == expected


def test_a_beat_revives(health: Health, clock: Clock) -> None:
    clock.at_s += 20.0
    assert not health.live().ok
    health.beat(Heartbeat.LOOP)
    assert health.live().ok


@pytest.mark.parametrize("state", [TaskState.TAKING_OVER, TaskState.RESTORING])
def test_one_task_that_does_not_run_keeps_the_worker_from_being_ready(
    health: Health, clock: Clock, state: TaskState
) -> None:
    health.assigned([A, B])
    health.task(A, TaskState.RUNNING)
    health.task(B, state, remaining_records=120)
    clock.at_s += 3.0
    verdict = health.ready()
    assert not verdict.ok
    (reason,) = verdict.document["reasons"]
    assert reason["what"] == "task 4_1"
    assert reason["why"] == f"{state.value} for 3.0 s, 120 changelog records remain"
    assert reason["do"]
    assert health.live().ok


def test_ready_when_all_assigned_tasks_run_also_when_none_is_assigned(health: Health) -> None:
    health.assigned([])
    assert health.ready().ok
    health.assigned([A])
    assert not health.ready().ok
    health.task(A, TaskState.RUNNING)
    assert health.ready().ok


def test_a_kept_task_keeps_running_and_a_lost_one_is_forgotten(health: Health) -> None:
    health.assigned([A, B])
    health.task(A, TaskState.RUNNING)
    health.task(B, TaskState.RUNNING)
    health.assigned([A])
    health.task(B, TaskState.RESTORING)
    assert health.ready().ok
    assert list(health.ready().document["tasks"]) == ["4_0"]


@pytest.mark.parametrize(
    ("state", "ready"),
    [(WorkerState.RUNNING, True), (WorkerState.STOPPING, False)],
)
def test_a_stopping_worker_is_not_ready(health: Health, state: WorkerState, *, ready: bool) -> None:
    health.assigned([])
    health.worker(state)
    assert health.ready().ok is ready
    assert health.live().ok


def test_the_first_fatal_error_is_told_without_its_secrets(health: Health) -> None:
    health.assigned([])
    health.fatal(Fenced("another incarnation, sasl.password=hunter2"))
    health.fatal(ValueError("a consequence"))
    document = health.ready().document
    assert reasons(document) == ["fatal_error"]
    assert "another incarnation" in document["reasons"][0]["why"]
    assert "hunter2" not in json.dumps(document)


def test_documents_are_json_and_tell_the_last_commits_age(health: Health, clock: Clock) -> None:
    assert health.ready().document["last_commit_age_s"] is None
    health.committed()
    clock.at_s += 1.5
    document = json.loads(json.dumps(health.ready().document))
    assert document["last_commit_age_s"] == 1.5
    assert document["heartbeats"]["poll"] == {"age_s": 1.5, "bound_s": 30.0}
    json.dumps(health.live().document)


def test_reports_and_questions_from_several_threads_do_not_disturb_each_other() -> None:
    health = Health()
    tasks = [TaskId(64, number) for number in range(64)]

    def report() -> None:
        for number in range(300):
            health.assigned(tasks[: number % 64])
            health.task(tasks[0], TaskState.RUNNING)

    threads = [threading.Thread(target=report) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        health.ready()
    assert health.live().ok
