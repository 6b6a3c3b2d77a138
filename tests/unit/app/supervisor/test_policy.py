"""The supervisor's decisions, on events alone."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onceflow.errors import InvariantViolation
from onceflow.limits import (
    RESTART_BACKOFF_S,
    RESTART_BACKOFF_S_MAX,
    RESTART_WINDOW_S,
    RESTARTS_MAX,
)
from onceflow.supervisor.policy import (
    TRANSITIONS,
    BackoffOver,
    DrainBoundOver,
    Event,
    Finish,
    Kill,
    Phase,
    Policy,
    Restart,
    Start,
    Step,
    StopRequested,
    Terminate,
    WorkerExited,
)


def started(processes: int = 2) -> Policy:
    policy = Policy(processes)
    assert policy.start() == [Start(part) for part in range(processes)]
    return policy


def test_every_phase_knows_every_event():
    events = Event.__args__
    assert set(TRANSITIONS) == {(phase, event) for phase in Phase for event in events}


@pytest.mark.parametrize("code", [0, 1, 3, 77, -9, -11])
def test_a_worker_that_ends_is_restarted_after_a_wait(code: int):
    policy = started()
    assert policy.handle(WorkerExited(1, code, 5.0)) == [Restart(1, code, RESTART_BACKOFF_S)]
    assert policy.handle(BackoffOver(1)) == [Start(1)]
    assert policy.alive == {0, 1}


def test_waits_double_up_to_a_bound_and_start_anew_after_the_window():
    policy = started(1)
    delays: list[float] = []
    for at_s in range(RESTARTS_MAX):
        (restart,) = policy.handle(WorkerExited(0, 1, float(at_s)))
        assert isinstance(restart, Restart)
        delays.append(restart.delay_s)
        policy.handle(BackoffOver(0))
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    later = RESTARTS_MAX + RESTART_WINDOW_S
    assert policy.handle(WorkerExited(0, 1, later)) == [Restart(0, 1, RESTART_BACKOFF_S)]


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (0, 1), (-9, 1), (7, 7)])
def test_too_many_restarts_of_one_worker_stop_all(code: int, expected: int):
    policy = started(2)
    for _ in range(RESTARTS_MAX):
        policy.handle(WorkerExited(0, code, 1.0))
        policy.handle(BackoffOver(0))
    (terminate,) = policy.handle(WorkerExited(0, code, 2.0))
    assert isinstance(terminate, Terminate)
    assert terminate.parts == {1}
    assert f"restarted {RESTARTS_MAX} times" in terminate.reason
    assert policy.handle(WorkerExited(1, 0, 3.0)) == [Finish(expected)]


def test_restarts_of_different_workers_count_apart():
    policy = started(RESTARTS_MAX + 1)
    for part in range(RESTARTS_MAX + 1):
        assert policy.handle(WorkerExited(part, 1, 1.0)) == [Restart(part, 1, RESTART_BACKOFF_S)]


def test_an_unreachable_kafka_is_waited_for_without_a_bound():
    policy = started(1)
    for _ in range(RESTARTS_MAX * 3):
        (restart,) = policy.handle(WorkerExited(0, 3, 1.0))
        assert isinstance(restart, Restart)
        policy.handle(BackoffOver(0))
    assert restart.delay_s == RESTART_BACKOFF_S_MAX


@pytest.mark.parametrize("code", [2, 4])
def test_a_worker_that_must_not_be_restarted_stops_all_with_its_code(code: int):
    policy = started(3)
    (terminate,) = policy.handle(WorkerExited(1, code, 1.0))
    assert isinstance(terminate, Terminate)
    assert terminate.parts == {0, 2}
    assert policy.handle(WorkerExited(0, 0, 2.0)) == []
    assert policy.handle(WorkerExited(2, 0, 2.0)) == [Finish(code)]
    assert policy.phase is Phase.STOPPED


def test_data_at_risk_while_draining_is_not_hidden_by_a_clean_stop():
    policy = started(2)
    policy.handle(StopRequested())
    policy.handle(WorkerExited(0, 4, 1.0))
    assert policy.handle(WorkerExited(1, 1, 1.0)) == [Finish(4)]


@pytest.mark.parametrize("code", [0, -15])
def test_a_clean_stop_drains_all_and_ends_with_0(code: int):
    policy = started(2)
    assert policy.handle(StopRequested()) == [Terminate(frozenset({0, 1}), "asked to stop")]
    assert policy.handle(WorkerExited(1, code, 1.0)) == []
    assert policy.handle(WorkerExited(0, 0, 1.0)) == [Finish(0)]


@pytest.mark.parametrize("impatience", [StopRequested(), DrainBoundOver()])
def test_workers_that_do_not_drain_are_killed(impatience: StopRequested | DrainBoundOver):
    policy = started(2)
    policy.handle(StopRequested())
    policy.handle(WorkerExited(0, 0, 1.0))
    assert policy.handle(impatience) == [Kill(frozenset({1}))]
    assert policy.handle(DrainBoundOver()) == []
    assert policy.handle(WorkerExited(1, -9, 2.0)) == [Finish(1)]


def test_a_worker_waiting_to_be_restarted_is_not_started_while_stopping():
    policy = started(2)
    policy.handle(WorkerExited(0, 1, 1.0))
    policy.handle(StopRequested())
    assert policy.handle(BackoffOver(0)) == []
    assert policy.handle(WorkerExited(1, 0, 1.0)) == [Finish(0)]


def test_stopping_while_every_worker_waits_ends_at_once():
    policy = started(1)
    policy.handle(WorkerExited(0, 1, 1.0))
    assert policy.handle(StopRequested()) == [Finish(0)]


def test_an_end_reported_twice_is_a_bug():
    policy = started(1)
    policy.handle(WorkerExited(0, 1, 1.0))
    with pytest.raises(InvariantViolation, match="INV-SUPERVISOR-1"):
        policy.handle(WorkerExited(0, 1, 1.0))


def test_a_second_start_of_a_living_worker_is_a_bug():
    with pytest.raises(InvariantViolation, match="INV-SUPERVISOR-1"):
        started(1).handle(BackoffOver(0))


class SupervisedFleet(RuleBasedStateMachine):
    """Plays the processes: whatever happens, the supervisor ends once and with nobody left."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(3)
        self.running: set[int] = set()
        self.waiting: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.now_s = 0.0
        self.risked = False
        self.perform(self.policy.start())

    def perform(self, effects: list[object]) -> None:
        for effect in effects:
            self.seen[type(effect).__name__] += 1
            match effect:
                case Start(part):
                    assert part not in self.running
                    self.running.add(part)
                case Restart(part, _, delay_s):
                    assert 0 < delay_s <= RESTART_BACKOFF_S_MAX
                    self.waiting.add(part)
                case Terminate(parts, _) | Kill(parts):
                    assert parts == self.running
                case Finish(code):
                    assert not self.running
                    assert not self.risked or code == 4
                case _:
                    raise AssertionError(effect)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 2, 3, 4, -9]), later_s=st.floats(0, 30))
    def worker_ends(self, data: st.DataObject, code: int, later_s: float) -> None:
        part = data.draw(st.sampled_from(sorted(self.running)))
        self.now_s += later_s
        self.running.discard(part)
        self.risked = self.risked or code == 4
        self.perform(self.policy.handle(WorkerExited(part, code, self.now_s)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def wait_is_over(self, data: st.DataObject) -> None:
        part = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(part)
        self.perform(self.policy.handle(BackoffOver(part)))

    @precondition(lambda self: self.policy.phase is not Phase.RUNNING)
    @rule()
    def drain_bound_is_over(self) -> None:
        self.perform(self.policy.handle(DrainBoundOver()))

    @rule()
    def stop_is_asked(self) -> None:
        self.perform(self.policy.handle(StopRequested()))

    @invariant()
    def it_finishes_exactly_when_it_stopped_and_once(self) -> None:
        assert self.policy.alive == self.running
        assert self.seen["Finish"] == (self.policy.phase is Phase.STOPPED)
        assert self.seen["Kill"] <= 1


TestSupervisedFleet = SupervisedFleet.TestCase


def test_only_running_starts_workers():
    assert {phase for (phase, _), step in TRANSITIONS.items() if step is Step.START} == {
        Phase.RUNNING
    }
