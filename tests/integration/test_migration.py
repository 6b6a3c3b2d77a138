"""An application moves from stock Faust to onceflow and back: only its broker's URL changes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

SOURCE = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], store=os.environ.get("STORE", "memory://"),
        topic_partitions=2, topic_replication_factor=1, consumer_auto_offset_reset="earliest",
        broker_commit_interval=0.5,
    )
    inputs = app.topic(app.conf.id + "-in", key_type=str, value_serializer="json")
    reports = app.topic(app.conf.id + "-out", value_serializer="json", partitions=1)
    YEARS = 10 * 365 * 86_400
    plain = app.Table("plain", default=int)
    tumbling = app.Table("tumbling", default=int).tumbling(10, expires=YEARS)
    hopping = app.Table("hopping", default=int).hopping(20, 10)
    members = app.SetTable("members")

    @app.agent(inputs)
    async def count(stream):
        async for key, value in stream.items():
            plain[key] += 1
            tumbling[key] += 1
            hopping[key] += 1
            members[key].add(value)
            if value % 3 == 2:
                members[key].discard(value - 1)
            await reports.send(value=[
                key, value, plain[key], tumbling[key].current(), hopping[key].current(),
                sorted(members[key]),
            ])
"""

KEYS = ("a", "b", "c", "d")


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("moving"))
    make_topics(kafka.bootstrap, {f"{made.app_id}-in": 2, f"{made.app_id}-out": 1})
    yield made
    made.stop_all()


def make_topics(bootstrap, counts, **config):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = [NewTopic(name, count, 1, config=config) for name, count in counts.items()]
    for made in admin.create_topics(topics).values():
        made.result(30)


class Model:
    """What the agent's tables hold, one record after another."""

    def __init__(self):
        self.plain, self.windows, self.sets = {}, {}, {}

    def report(self, key, value, second):
        self.plain[key] = self.plain.get(key, 0) + 1
        start = second // 10 * 10
        for kind, starts in (("t", [start]), ("h", [start - 10, start])):
            for each in starts:
                name = (kind, key, each)
                self.windows[name] = self.windows.get(name, 0) + 1
        members = self.sets.setdefault(key, set())
        members.add(value)
        if value % 3 == 2:
            members.discard(value - 1)
        current = self.windows["t", key, start], self.windows["h", key, start]
        return [key, value, self.plain[key], *current, sorted(members)]


def feed(program, model, first, number_of):
    """Send records; returns the reports that must come."""
    begun_s = 1_700_000_000
    rows, expected = [], []
    for value in range(first, first + number_of):
        key, second = KEYS[value % len(KEYS)], begun_s + value
        rows.append((key.encode(), b"%d" % value, None, second * 1000))
        expected.append(model.report(key, value, second))
    program.send(f"{program.app_id}-in", rows)
    return expected


def reports(program, wanted):
    rows = program.wait_values(f"{program.app_id}-out", wanted, timeout_s=60)
    return sorted((json.loads(value) for _, _, value in rows), key=lambda report: report[1])


def files_of(directory):
    """Contents of all files below, by path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def step(program, model, expected, scheme, **environ):
    """Run a worker over the next records, check all reports so far, and stop it."""
    # Stock Faust's client reads lz4 only with another library installed.
    environ = {"ONCEFLOW_KAFKA__COMPRESSION_TYPE": "none", **environ}
    worker = program.start("w", scheme=scheme, **environ)
    if scheme == "kafka":
        # Records that come while stock Faust restores are processed before, and again after it.
        begun = len(worker.log())
        worker.wait_log("Worker ready", since=begun)
        time.sleep(1.0)
    expected += feed(program, model, len(expected), 40)
    assert reports(program, len(expected)) == expected, program.tails()
    time.sleep(1.5)  # stock Faust commits by time
    worker.stop()
    return worker


def test_state_and_offsets_carry_over_and_back(program):
    model, expected = Model(), []
    step(program, model, expected, "kafka")
    step(program, model, expected, "onceflow")
    leave_an_aborted_transaction(program)
    told = hand_back(program)
    assert "plain-changelog[0]: 1 records added" in told
    assert "members-changelog[0]: 1 records added" in told
    step(program, model, expected, "kafka")
    step(program, model, expected, "onceflow")


def test_a_stock_data_directory_is_left_untouched_and_its_state_rebuilt(program):
    model, expected = Model(), []
    step(program, model, expected, "kafka", STORE="rocksdb://")
    stock = program.directory / "w" / "v1" / "tables"
    before = files_of(stock)
    assert before
    ours = step(program, model, expected, "onceflow", STORE="rocksdb://")
    assert files_of(stock) == before
    assert "changelog_config" in ours.log(), "no warning about changelogs made by stock Faust"
    assert "cleanup.policy=compact" in ours.log()


def leave_an_aborted_transaction(program):
    """Write rows that do not count at the end of all changelogs."""
    producer = Producer(
        {"bootstrap.servers": program.bootstrap, "transactional.id": program.app_id}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in (0, 1):
        producer.produce(f"{program.app_id}-plain-changelog", b"9999", b'"a"', number)
        producer.produce(f"{program.app_id}-members-changelog", b"9999", b'[1,"a"]', number)
    producer.flush(30)
    producer.abort_transaction(30)


def hand_back(program):
    """Run ``onceflow handback`` as a user does."""
    command = [sys.executable, "-c", "from onceflow.cli import main; main()"]
    environ = {
        **os.environ,
        "BROKER": f"onceflow://{program.bootstrap}",
        "APP": program.app_id,
        "ONCEFLOW_KAFKA__COMPRESSION_TYPE": "none",
    }
    done = subprocess.run(
        [*command, "handback", "program:app"],
        cwd=program.directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_changelog_with_another_partition_count_is_refused(program):
    make_topics(program.bootstrap, {f"{program.app_id}-plain-changelog": 3})
    worker = program.start("w")
    assert worker.wait(60) != 0
    assert "exists with 3 partitions" in worker.log(), worker.tail()


def test_a_compacted_log_of_set_operations_is_refused(program):
    config = {"cleanup.policy": "compact"}
    make_topics(program.bootstrap, {f"{program.app_id}-members-changelog": 2}, **config)
    worker = program.start("w")
    assert worker.wait(60) == 2, worker.tail()
    assert "is compacted, but it is a log of operations" in worker.log(), worker.tail()
