"""Local state that must not be trusted, changelogs made anew, and records that kill."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from harness.fault_input import read_back
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import StoreIdentity, TaskStore

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

AT_RISK = 4
DEATHS_MAX = 12
"""Two owners lost at one offset, then shorter and shorter epochs up to the record, at most two
owners for each halving of some twenty records, then RETRIES_MAX + 1 attempts of it alone."""
LONG_AGO_MS = 13 * 3_600_000
"""More than half of the changelogs' delete.retention.ms, which is a day."""


async def identity_of(run):
    admin = Admin(ClientConfig(run.bootstrap))
    try:
        names = {table: run.name(f"{table}-changelog") for table in run.tables}
        topics = await admin.topics(names.values())
        return StoreIdentity(
            run.app_id,
            await admin.cluster_id(),
            {table: topics[name].topic_id for table, name in names.items()},
        )
    finally:
        admin.close()


def age_stores(run, worker):
    """Make the stores of a stopped worker look as if nobody had used them for long."""
    identity = asyncio.run(identity_of(run))
    past_ms = time.time_ns() // 1_000_000 - LONG_AGO_MS
    aged = 0
    for marker in worker.directory.rglob("onceflow-store.json"):
        store = TaskStore.open(
            marker.parent,
            identity,
            run.tables,
            MemoryBudget(64 << 20),
            now_ms=past_ms + LONG_AGO_MS,
            trusted_for_ms=3_600_000,
        )
        store.apply({}, now_ms=past_ms)
        store.close()
        aged += 1
    assert aged == 4


def test_a_store_that_may_have_missed_tombstones_is_rebuilt_and_that_is_said(run_app):
    with run_app(static=True, allowed={"store_rebuilt"}) as run:
        run.feed(records=900, rate=200)
        worker = run.worker()
        run.wait_echoed(700, 60)
        worker.stop()
        age_stores(run, worker)
        worker = run.worker()
        run.finish(60)
        rebuilt = [line for line in worker.log().splitlines() if "store_rebuilt" in line]
        assert len(rebuilt) == 4 * len(run.tables), rebuilt
        assert all("TOO_OLD" in line or "delete.retention.ms" in line for line in rebuilt)


@pytest.mark.ci
def test_a_changelog_that_was_deleted_and_created_anew_is_refused(run_app):
    with run_app(static=True, allowed={"worker_failed", "Traceback", "store_rebuilt"}) as run:
        run.feed(records=500, rate=200)
        worker = run.worker()
        run.wait_echoed(300, 60)
        worker.stop()
        admin = AdminClient({"bootstrap.servers": run.bootstrap})
        topic = run.name("totals-changelog")
        admin.delete_topics([topic])[topic].result(30)
        recreated = NewTopic(topic, 4, 1, config={"cleanup.policy": "compact"})
        deadline = time.monotonic() + 20
        while True:
            try:
                admin.create_topics([recreated])[topic].result(30)
                break
            except KafkaException:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        before = run.echoed
        worker = run.worker()
        assert worker.wait_ended(60) == AT_RISK, worker.tail()
        assert topic in worker.log()
        assert run.echoed == before


@pytest.mark.ci
def test_a_record_that_kills_the_process_each_time_ends_as_a_dead_letter(run_app, tmp_path):
    with run_app(static=True, ONCEFLOW_RETRIES_MAX="2") as run:
        run.feed(records=200, rate=200, special={40: "poison"})
        deaths = 0
        worker = run.worker(datadir=tmp_path / "place-0")
        while run.echoed < 199 and deaths < DEATHS_MAX:
            if not worker.running:
                assert worker.wait_ended(5) == 9, worker.tail()
                deaths += 1
                # Each restart on another machine: attempts must not be counted on the disk.
                worker = run.worker(datadir=tmp_path / f"place-{deaths % 3}")
            time.sleep(0.05)
        assert 3 <= deaths < DEATHS_MAX, deaths
        run.finish(60)
        dead = read_back(run.bootstrap, {run.name("dead-letter"): 1})[run.name("dead-letter")][0]
        assert [json.loads(each.value)["n"] for each in dead] == [40] * len(dead)
        assert len(dead) == 1, [each.value for each in dead]
