"""Random faults for workers with two-phase sinks and for their database, from a seed.

Part of ``make faults RUNS=n SEED=s``: which fault meets which worker is decided before a run.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from harness.fault_plan import SESSION_S
from harness.postgres_server import PostgresPlace
from harness.sink_run import PostgresStore, SinkRun, SqliteStore
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(600)]

WORKER_FAULTS = {"crash": 6, "kill": 3, "kill_all": 1, "leave": 2, "short_stop": 1, "zombie": 2}
DATABASE_FAULTS = {"end_database": 2, "stop_database": 1}
"""Kinds of faults with their weights."""
RECORDS = 300
LEFT = {1, 3, 4}
"""A worker that was stopped, or whose sink was, may find its partitions in other hands."""


class Chaos:
    """One run's faults.

    Args:
        server: the database, or None.
    """

    def __init__(self, run, server, chance):
        self.run, self.server, self.chance = run, server, chance
        self.names = "ab"[: chance.choice((1, 2, 2))]
        self.told = []

    def start(self):
        self.run.feed(RECORDS)
        for name in self.names:
            self.run.worker(name)
        self.wait_more(50)

    def step(self):
        """Let one fault happen in the middle of the work, then see that the work goes on."""
        kinds = WORKER_FAULTS | (DATABASE_FAULTS if self.server is not None else {})
        kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
        self.told.append(kind)
        self.run.feed(RECORDS)
        self.wait_more(self.chance.randrange(20, 150))
        getattr(self, kind)(self.run.workers[self.chance.choice(self.names)])
        self.wait_more(50)

    def wait_more(self, rows, timeout_s=120.0):
        """Wait for so many rows more; who has left is started again."""
        wanted = min(len(self.run.store.log()) + rows, len(self.run.sent))
        deadline_s = time.monotonic() + timeout_s
        while len(self.run.store.log()) < wanted:
            self.revive()
            if time.monotonic() > deadline_s:
                self.run.wait_rows(wanted, 1)
            time.sleep(0.1)

    def finish(self):
        self.wait_more(len(self.run.sent))
        self.revive()
        for name in self.names:
            self.run.workers[name].wait_ready()
        self.run.finish(60)

    def revive(self):
        """Start every worker that does not run; none may have left without a reason."""
        for name in self.names:
            worker = self.run.workers[name]
            if worker.running:
                continue
            if worker.started:
                code = worker.wait_ended(1)
                assert code in LEFT, f"{name} left with {code}:\n{worker.tail()}"
            self.run.worker(name)

    def crash(self, worker):
        point = self.chance.choice(list(CrashPoint)).value
        passing = self.chance.randrange(1, 6)
        self.told.append(f"{point}:{passing}")
        worker.kill()
        self.run.worker(worker.name, ONCEFLOW_CRASH_POINT=f"{point}:{passing}")
        # A point that is not passed here is an ordinary kill.
        with suppress(AssertionError):
            worker.wait_ended(10)
        if worker.started:
            worker.kill()

    def kill(self, worker):
        worker.kill()

    def kill_all(self, _):
        for name in self.names:
            if self.run.workers[name].running:
                self.run.workers[name].kill()

    def leave(self, worker):
        worker.terminate()
        assert worker.wait_ended(40) in {0, 15} | LEFT

    def short_stop(self, worker):
        worker.freeze()
        time.sleep(self.chance.uniform(0.3, 3.0))
        worker.thaw()

    def zombie(self, worker):
        worker.freeze()
        time.sleep(SESSION_S + self.chance.uniform(0.5, 3.0))
        worker.thaw()

    def end_database(self, _):
        self.server.process.kill()
        time.sleep(self.chance.uniform(0.0, 3.0))
        self.server.start()

    def stop_database(self, _):
        with self.server.process.stopped():
            time.sleep(self.chance.uniform(0.5, 12.0))


def test_random_faults_around_two_phase_sinks_lose_and_double_nothing(
    random_run, request, fault_kafka, tmp_path, pytestconfig
):
    chance = random.Random(f"sinks {pytestconfig.getoption('fault_seed')}/{random_run}")
    server = None
    if chance.random() < 0.7:
        server = request.getfixturevalue("postgres")
        place = PostgresPlace(server, f"random_{random_run}_{tmp_path.name}")
        request.addfinalizer(place.drop)
        store = PostgresStore(place)
    else:
        store = SqliteStore(tmp_path)
    allowed = ("worker_failed", "Traceback")
    with SinkRun(fault_kafka, tmp_path, store, allowed=allowed) as run:
        chaos = Chaos(run, server, chance)
        try:
            chaos.start()
            for _ in range(chance.choice((2, 3, 4))):
                chaos.step()
            chaos.finish()
        finally:
            print("faults:", *chaos.told)
