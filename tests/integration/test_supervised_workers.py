"""``onceflow worker --processes 2`` on a real Kafka: one command, a killed worker, nothing lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness.reading import read_all

PARTITIONS = 4
RECORDS = 8_000
"""Records of each half; 100 keys, so that each key counts to 160."""
KEYS = 100

PROGRAM = """
import os
import faust
import onceflow

app = onceflow.App(os.environ["TEST_APP"], broker="onceflow://" + os.environ["TEST_BROKER"],
                   topic_partitions=4, session_timeout_ms=6000)
words = app.topic(os.environ["TEST_IN"], key_type=str, value_type=bytes, value_serializer="raw")
counts = app.topic(os.environ["TEST_OUT"], key_type=str, value_type=str)
seen = app.Table("seen", default=int)

@app.agent(words)
async def count(stream):
    async for key, _ in stream.items():
        seen[key] += 1
        await counts.send(key=key, value=f"{key} {seen[key]}")
"""


class Command:
    """A supervisor under test; what it tells is kept in a file."""

    def __init__(self, folder, environ):
        self.log = folder / "supervisor.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from onceflow.cli import main; main()",
                    "worker",
                    "counting:app",
                    "--processes=2",
                    "--log-level=warning",
                ],
                cwd=folder,
                env=os.environ | environ,
                stdout=log,
                stderr=log,
            )

    def pids(self):
        """Process ids of the workers by number, the last start of each."""
        return dict(re.findall(r"worker (\d) started, process (\d+)", self.log.read_text()))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def command(tmp_path, kafka, unique):
    (tmp_path / "counting.py").write_text(PROGRAM)
    names = {name: unique(name.lower()) for name in ("TEST_APP", "TEST_IN", "TEST_OUT")}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    topics = [NewTopic(names[name], PARTITIONS, 1) for name in ("TEST_IN", "TEST_OUT")]
    for made in admin.create_topics(topics).values():
        made.result(30)
    started = Command(
        tmp_path, names | {"TEST_BROKER": kafka.bootstrap, "ONCEFLOW_HTTP": "127.0.0.1:0"}
    )
    started.names = names
    yield started
    started.process.kill()
    started.process.wait()


def feed(bootstrap, topic):
    """Produce ``RECORDS`` records; a key has a partition of its own."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    for number in range(RECORDS):
        key = number % KEYS
        producer.produce(topic, b"x", b"k%d" % key, key % PARTITIONS)
    assert producer.flush(60) == 0


async def counted(kafka, topic, expected):
    """What a read_committed reader sees, once ``expected`` rows are there."""
    deadline = time.monotonic() + 60
    while True:
        rows = await read_all(kafka.bootstrap, topic, PARTITIONS)
        if len(rows) >= expected or time.monotonic() > deadline:
            return rows
        await asyncio.sleep(0.5)


@pytest.mark.kafka
@pytest.mark.slow
async def test_a_killed_worker_is_replaced_and_every_record_counts_once(kafka, command, tmp_path):
    topic = command.names["TEST_OUT"]
    await asyncio.to_thread(feed, kafka.bootstrap, command.names["TEST_IN"])
    assert len(await counted(kafka, topic, RECORDS)) == RECORDS, command.log.read_text()

    first = command.pids()["0"]
    os.kill(int(first), signal.SIGKILL)
    await asyncio.to_thread(feed, kafka.bootstrap, command.names["TEST_IN"])
    outputs = await counted(kafka, topic, 2 * RECORDS)
    counts = defaultdict(list)
    for row in outputs:
        key, number = row.decode().strip('"').split()
        counts[key].append(int(number))
    expected = list(range(1, 2 * RECORDS // KEYS + 1))
    assert {key: sorted(seen) for key, seen in counts.items()} == {
        f"k{number}": expected for number in range(KEYS)
    }, command.log.read_text()
    assert command.pids()["0"] != first

    assert command.end() == 0, command.log.read_text()
    data = next(tmp_path.glob("*-data"))
    assert {path.name for path in data.iterdir()} == {"worker-0", "worker-1"}
