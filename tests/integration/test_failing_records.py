"""Records that fail: what becomes of them, and of everything around them, on a real Kafka."""

from __future__ import annotations

import json
import time

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.app_workers import Program

pytestmark = pytest.mark.kafka

APP = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=1,
        consumer_auto_offset_reset="earliest",
    )
    source = app.topic(f"{app.conf.id}-in", value_serializer="json", partitions=1)
    echo = app.topic(f"{app.conf.id}-out", value_serializer="json", partitions=1)
    count = app.Table("count", default=int, partitions=1)
    OFTEN = {}

    def check(value):
        if value == os.environ.get("POISON_JSON"):
            raise ValueError(f"cannot process {value}")
        if value == "twice" and OFTEN.setdefault(value, 0) < 2:
            OFTEN[value] += 1
            raise ValueError("not yet")
"""

ONE_BY_ONE = (
    APP
    + """
    @app.agent(source)
    async def work(stream):
        async for value in stream:
            count["seen"] += 1
            await echo.send(value=[value, count["seen"]])
            check(value)
"""
)

BATCHES = (
    APP
    + """
    import json

    @app.agent(source)
    async def work(stream):
        async for batch in stream.batches():
            for raw in batch.values:
                value = json.loads(raw)
                count["seen"] += 1
                await echo.send(value=[value, count["seen"]])
                check(value)
"""
)

VALUES = [f"v{i}" for i in range(20)]


@pytest.fixture
def program(tmp_path, kafka, unique):
    programs = []

    def make(source):
        made = Program(tmp_path, source, bootstrap=kafka.bootstrap, app_id=unique("fail"))
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_topics([NewTopic(f"{made.app_id}-in", 1, 1)])[f"{made.app_id}-in"].result(20)
        programs.append(made)
        return made

    yield make
    for each in programs:
        each.stop_all()


def send(program, values):
    rows = [(b"k", v if isinstance(v, bytes) else json.dumps(v).encode(), 0, None) for v in values]
    program.send(f"{program.app_id}-in", rows)


def outputs(program, wanted):
    rows = program.wait_values(f"{program.app_id}-out", wanted)
    return [json.loads(value) for _, _, value in rows]


def dead_letters(program):
    """(value, headers) of the dead letters, as a read_committed reader sees them."""
    consumer = Consumer(
        {
            "bootstrap.servers": program.bootstrap,
            "group.id": f"{program.app_id}-dead",
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(f"{program.app_id}-dead-letter", 0, OFFSET_BEGINNING)])
    found, deadline = [], time.monotonic() + 5
    while time.monotonic() < deadline:
        found += [
            (m.value(), dict(m.headers() or ()))
            for m in consumer.consume(100, 0.5)
            if m.error() is None
        ]
        if found:
            break
    consumer.close()
    return found


def expected(values):
    return [[value, number] for number, value in enumerate(values, 1)]


@pytest.mark.parametrize("source", [ONE_BY_ONE, BATCHES], ids=["records", "batches"])
def test_a_poisonous_record_becomes_one_dead_letter_and_the_others_count_once(program, source):
    running = program(source)
    send(running, [*VALUES[:7], "poison", *VALUES[7:]])
    running.start("w", POISON_JSON="poison", ONCEFLOW_RETRY_BACKOFF_MS="10")
    assert outputs(running, len(VALUES)) == expected(VALUES)
    [(value, headers)] = dead_letters(running)
    assert value == b'"poison"'
    assert headers["onceflow-topic"] == f"{running.app_id}-in".encode()
    assert headers["onceflow-partition"] == b"0"
    assert headers["onceflow-offset"] == b"7"
    assert b"cannot process poison" in headers["onceflow-error"]
    assert b"Traceback" in headers["onceflow-stack"]


@pytest.mark.parametrize("source", [ONE_BY_ONE, BATCHES], ids=["records", "batches"])
def test_a_record_that_succeeds_at_a_retry_counts_once(program, source):
    running = program(source)
    values = [*VALUES[:5], "twice", *VALUES[5:]]
    send(running, values)
    running.start("w", ONCEFLOW_RETRY_BACKOFF_MS="10")
    assert outputs(running, len(values)) == expected(values)
    assert dead_letters(running) == []


def test_an_undecodable_record_becomes_a_dead_letter_with_its_bytes(program):
    running = program(ONE_BY_ONE)
    send(running, [*VALUES[:3], b"{not json", *VALUES[3:]])
    running.start("w")
    assert outputs(running, len(VALUES)) == expected(VALUES)
    [(value, headers)] = dead_letters(running)
    assert value == b"{not json"
    assert headers["onceflow-offset"] == b"3"


def test_skipping_leaves_the_record_out_and_no_dead_letter(program):
    running = program(ONE_BY_ONE)
    send(running, [*VALUES[:3], "poison", *VALUES[3:]])
    running.start("w", POISON_JSON="poison", ONCEFLOW_ON_ERROR="skip")
    assert outputs(running, len(VALUES)) == expected(VALUES)
    assert dead_letters(running) == []


def test_stopping_leaves_the_record_first_for_the_next_start(program):
    running = program(ONE_BY_ONE)
    send(running, [*VALUES[:3], "poison", *VALUES[3:]])
    worker = running.start("w", POISON_JSON="poison", ONCEFLOW_ON_ERROR="stop")
    assert worker.wait(40) != 0
    assert "comes first at the next start" in worker.tail()
    running.start("w")
    assert outputs(running, len(VALUES) + 1) == expected([*VALUES[:3], "poison", *VALUES[3:]])


KILLED = (
    APP
    + """
    import signal

    @app.agent(source)
    async def work(stream):
        async for value in stream:
            count["seen"] += 1
            await echo.send(value=[value, count["seen"]])
            if value == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
"""
)
DEATHS_MAX = 6


def test_a_record_that_kills_its_process_ends_by_policy_although_nobody_saw_an_error(program):
    """Attempts are counted in Kafka before they begin, so that no crash loop lasts for ever."""
    running = program(KILLED)
    send(running, ["kill", *VALUES])
    environ = {"ONCEFLOW_RETRIES_MAX": "0", "ONCEFLOW_WORKER_ID": "w"}
    ends = []
    while not ends or ends[-1] != 1:
        assert len(ends) < DEATHS_MAX, running.tails()
        worker = running.start("w", ONCEFLOW_ON_RETRIES_EXHAUSTED="stop", **environ)
        ends.append(worker.wait(40))
    assert len(ends) == 4, running.tails()
    assert "killed the process on" in worker.tail()
    assert "comes first at the next start" in worker.tail()
    running.start("w", ONCEFLOW_ON_RETRIES_EXHAUSTED="dead_letter", **environ)
    assert outputs(running, len(VALUES)) == expected(VALUES)
    [(value, headers)] = dead_letters(running)
    assert value == b'"kill"'
    assert headers["onceflow-error"] == b"the process died while processing it"
