"""Workers that die, freeze, come and go."""

from __future__ import annotations

import random
import shutil
import time

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

PROTOCOLS = ["classic", "consumer"]
CLASSIC_IN_CI = [pytest.param("classic", marks=pytest.mark.ci), "consumer"]
CONSUMER_IN_CI = ["classic", pytest.param("consumer", marks=pytest.mark.ci)]
ZOMBIE_S = 9.0
"""Longer than the session timeout of 6 s, and what the others need to take over."""


@pytest.mark.parametrize("protocol", CONSUMER_IN_CI)
def test_random_kills_of_two_workers_lose_and_double_nothing(run_app, protocol):
    chance = random.Random(protocol)
    with run_app(ONCEFLOW_GROUP_PROTOCOL=protocol) as run:
        run.feed(records=1_500, rate=150)
        run.worker("a")
        run.worker("b")
        for name in ("a", "b", "a"):
            run.wait_more(chance.randrange(100, 250), 60)
            run.workers[name].kill()
            run.worker(name)
        run.finish(60)


@pytest.mark.parametrize("protocol", CLASSIC_IN_CI)
def test_a_zombie_commits_nothing_after_its_partitions_moved(run_app, protocol):
    with run_app(ONCEFLOW_GROUP_PROTOCOL=protocol, allowed={"worker_failed", "Traceback"}) as run:
        run.feed(records=1_600, rate=120)
        zombie = run.worker("a")
        run.wait_echoed(100, 40)
        run.worker("b")
        run.wait_more(150, 40)
        zombie.freeze()
        frozen_at = time.monotonic()
        run.workers["b"].wait_log("incarnation_fenced", 30)
        time.sleep(max(0.0, ZOMBIE_S - (time.monotonic() - frozen_at)))
        run.wait_more(50, 40)
        zombie.thaw()
        run.wait_more(100, 60)
        if not zombie.running:
            # It saw its partitions in other hands: allowed to leave, by that code and no other.
            assert zombie.wait_ended(1) == 4, zombie.tail()
            run.worker("a")
        run.finish(60)


def test_a_pause_beyond_the_transaction_timeout_but_within_the_session_is_survived(run_app):
    # A transaction may last 2 s here, the session 12 s: Kafka aborts under the frozen worker.
    with run_app(ONCEFLOW_RECORD_BOUND_S="1", ONCEFLOW_SESSION_TIMEOUT_MS="12000") as run:
        run.feed(records=900, rate=150)
        worker = run.worker()
        for _ in range(2):
            run.wait_more(150, 40)
            worker.freeze()
            time.sleep(4.5)
            worker.thaw()
        run.finish(60)


@pytest.mark.ci
def test_an_agent_that_blocks_the_process_beyond_the_transaction_timeout_is_survived(run_app):
    with run_app(
        ONCEFLOW_RECORD_BOUND_S="1",
        ONCEFLOW_SESSION_TIMEOUT_MS="12000",
        FAULT_STALL_S="4.5",
        allowed={"Traceback"},
    ) as run:
        run.feed(records=700, special={300: "stall"})
        run.worker()
        run.finish(60)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rebalance_storm_loses_and_doubles_nothing(run_app, protocol):
    chance = random.Random(f"storm {protocol}")
    with run_app(ONCEFLOW_GROUP_PROTOCOL=protocol) as run:
        run.feed(records=2_400, rate=100)
        run.worker("a")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            name = chance.choice("abc")
            worker = run.workers.get(name)
            if worker is None or not worker.running:
                run.worker(name)
            elif chance.random() < 0.3:
                worker.kill()
            else:
                worker.stop()
            time.sleep(chance.uniform(0.5, 2.5))
        for name in "abc":
            if name not in run.workers or not run.workers[name].running:
                run.worker(name)
        run.finish(60)


@pytest.mark.parametrize("protocol", CONSUMER_IN_CI)
def test_scaling_from_one_to_three_and_back_loses_and_doubles_nothing(run_app, protocol):
    with run_app(ONCEFLOW_GROUP_PROTOCOL=protocol) as run:
        run.feed(records=1_500, rate=120)
        run.worker("a")
        run.wait_echoed(100, 40)
        run.worker("b")
        run.worker("c")
        run.wait_more(400, 60)
        run.workers["a"].stop()
        run.workers["b"].stop()
        run.wait_more(100, 60)
        run.finish(60)


def test_a_warm_restart_replays_nothing_and_a_lost_directory_everything(run_app):
    with run_app(static=True) as run:
        run.feed(records=800, rate=400)
        worker = run.worker()
        run.wait_echoed(500, 40)
        worker.stop()
        worker = run.worker()
        run.wait_echoed(800, 40)
        worker.stop()
        restored = run.restored_records(worker)
        assert restored[-1] == 0, restored
        shutil.rmtree(worker.directory)
        worker.directory.mkdir()
        worker = run.worker()
        run.finish()
        assert run.restored_records(worker)[-1] > 200


def test_a_killed_worker_replays_only_what_its_store_had_not_flushed(run_app):
    with run_app(static=True) as run:
        run.feed(records=1_500, rate=100)
        worker = run.worker()
        run.wait_echoed(1_400, 60)
        worker.kill()
        worker = run.worker()
        run.finish()
        changelog = sum(
            len(rows)
            for table in run.tables
            for rows in run.last_verification.changelogs[table].values()
        )
        # Stores flush every 5 s; the worker lived for more than 10.
        assert run.restored_records(worker)[-1] < 0.8 * changelog
