"""Random faults from a seed: ``make faults RUNS=100 SEED=7``.

Results are appended to a file as JSON lines; a run that passed is not repeated with the same seed.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest

from harness.fault_plan import SESSION_S, make_plan
from harness.fault_run import FaultRun
from harness.kafka_wire import Api
from harness.proxy import Fault, KafkaProxy

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(300)]

WAIT_S = 90.0
STOP_S = 40.0
STOPPED = (0, 15)
UNREACHABLE = 3
AT_RISK = 4


class Performer:
    """Performs the steps of a plan on a run."""

    def __init__(self, run, proxy, kafka, plan):
        self.run, self.proxy, self.kafka, self.plan = run, proxy, kafka, plan

    def perform(self, step):
        self.wait_more(step.after_outputs)
        getattr(self, step.kind)(self.run.workers[step.worker], step)
        self.revive()

    def finish(self):
        """Keep the workers up until all input is reflected, stop them in order, verify."""
        self.run.feeder.finish()
        deadline = time.monotonic() + WAIT_S
        while not self.run.reflected and time.monotonic() < deadline:
            self.revive()
            time.sleep(0.1)
        self.run.finish(40)

    def wait_more(self, count):
        """Wait for so many outputs more; a worker that has left for a reason is started again."""
        reached = self.run.echoed + count
        deadline = time.monotonic() + WAIT_S
        while self.run.echoed < reached and not self.run.reflected and time.monotonic() < deadline:
            self.revive()
            time.sleep(0.1)
        if not self.run.reflected:
            self.run.wait_echoed(reached, 1.0)

    def revive(self):
        """Start every worker of the plan that does not run; none may have left without a reason."""
        for name in self.plan.workers:
            worker = self.run.workers[name]
            if worker.running:
                continue
            if worker.started:
                self._check(worker, worker.wait_ended(1))
            self.run.worker(name)

    def _check(self, worker, code):
        reasons = {UNREACHABLE} | ({AT_RISK} if self.plan.fences else set())
        assert code in reasons, f"{worker.name} left with {code}:\n{worker.tail()}"

    def crash(self, worker, step):
        worker.kill()
        self.run.worker(step.worker, ONCEFLOW_CRASH_POINT=f"{step.point}:{step.passing}")
        # A point that is not passed here (nothing is fenced, nothing restored) is an ordinary kill.
        with suppress(AssertionError):
            worker.wait_ended(12)
        if worker.started:
            worker.kill()

    def kill(self, worker, _):
        worker.kill()

    def kill_all(self, _, step):
        for each in self.run.workers.values():
            if each.running:
                each.kill()

    def zombie(self, worker, step):
        worker.freeze()
        time.sleep(SESSION_S + step.seconds)
        worker.thaw()
        time.sleep(1.0)

    def short_stop(self, worker, step):
        worker.freeze()
        time.sleep(step.seconds)
        worker.thaw()

    def join(self, _, step):
        self.run.worker("d")
        self.wait_more(20)
        self.leave(self.run.workers["d"], step)

    def leave(self, worker, _):
        worker.terminate()
        code = worker.wait_ended(STOP_S)
        if code not in STOPPED:
            self._check(worker, code)

    def end_txn(self, _, step):
        self.proxy.rule(
            Api.END_TXN,
            Fault[step.fault],
            where=lambda request: bool(request.is_commit),
            times=step.times,
            delay_s=step.seconds,
        )
        self.wait_more(20)

    def request(self, _, step):
        self.proxy.rule(Api(step.api), Fault[step.fault], times=step.times, delay_s=step.seconds)
        self.wait_more(20)

    def late_commit(self, _, step):
        late = self.proxy.rule(
            Api.END_TXN, Fault.HOLD_REQUEST, where=lambda request: bool(request.is_commit)
        )
        with suppress(AssertionError):
            late.wait_hit(1, 10)
        self.proxy.cut()
        self.wait_more(10)
        late.release()

    def cut(self, _, step):
        for _ in range(step.times):
            self.proxy.cut()
            time.sleep(0.5)

    def end_broker(self, _, step):
        broker = 1 + step.passing % len(self.kafka.brokers)
        try:
            self.kafka.kill(broker) if step.times > 1 else self.kafka.stop_broker(broker)
            self.wait_more(20)
        finally:
            # Also when the run has failed: the cluster serves those that follow.
            self.kafka.start_broker(broker)


@pytest.fixture(scope="session")
def results(pytestconfig):
    """Where results go; ``passed`` holds the seeds that need not run again."""
    path = Path(pytestconfig.getoption("fault_file"))
    path.parent.mkdir(parents=True, exist_ok=True)
    return Results(path)


class Results:
    """The file of results."""

    def __init__(self, path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.passed = {
            result["plan"]["seed"] for result in map(json.loads, lines) if result["passed"]
        }

    def append(self, plan, started_s, failure):
        result = {
            "passed": failure is None,
            "seconds": round(time.monotonic() - started_s, 1),
            "failure": failure,
            "plan": plan.describe(),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(result) + "\n")


def test_random_faults_lose_and_double_nothing(
    random_run, request, tmp_path, pytestconfig, results
):
    plan = make_plan(pytestconfig.getoption("fault_seed"), random_run)
    if plan.seed in results.passed:
        pytest.skip("passed already, as the file of results says")
    started_s = time.monotonic()
    # Only a group of brokers bears the loss of one in the middle of a commit.
    kafka = request.getfixturevalue("three_brokers" if plan.ends_brokers else "fault_kafka")
    try:
        perform(plan, kafka, tmp_path)
    except BaseException as error:
        results.append(plan, started_s, f"{type(error).__name__}: {str(error)[:4000]}")
        raise
    results.append(plan, started_s, None)


def perform(plan, kafka, directory):
    with (
        KafkaProxy(kafka.bootstrap) as proxy,
        FaultRun(
            kafka,
            directory,
            seed=plan.seed,
            broker=proxy.bootstrap,
            static=plan.static,
            replicas=len(kafka.brokers),
            # A zombie that saw its partitions in other hands leaves, and is started again.
            allowed={"worker_failed", "Traceback"},
            ONCEFLOW_GROUP_PROTOCOL=plan.protocol,
        ) as run,
    ):
        run.feed(records=1_000, rate=80)
        for name in plan.workers:
            run.worker(name)
        performer = Performer(run, proxy, kafka, plan)
        for step in plan.steps:
            performer.perform(step)
        proxy.clear()
        performer.finish()
