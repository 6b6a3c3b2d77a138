"""Worker processes of small applications that tests write to a file.

The application's module is text; it finds the broker's URL in BROKER, an id of its own in APP and
names of its own by that. Workers have data directories of their own and end with their parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from onceflow.localkafka.guard import Tie, guarded

STOP_S = 30.0


class Program:
    """An application of a test: writes its module, starts workers of it, talks to its topics."""

    def __init__(self, directory, source, *, bootstrap, app_id):
        self.directory = Path(directory)
        self.bootstrap = bootstrap
        self.app_id = app_id
        self.workers = []
        (self.directory / "program.py").write_text(dedent(source))

    def start(self, name, *, scheme="onceflow", **environ):
        """Start a worker; ``name`` is its data directory's."""
        worker = Worker(self, name, scheme, environ)
        self.workers.append(worker)
        return worker

    def stop_all(self):
        """Kill what still runs."""
        for worker in self.workers:
            worker.kill()

    def send(self, topic, rows):
        """Produce rows of (key, value, partition, timestamp in ms or None); bytes or None."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
            }
        )
        for key, value, partition, timestamp in rows:
            more = {} if timestamp is None else {"timestamp": timestamp}
            producer.produce(topic, value, key, -1 if partition is None else partition, **more)
        assert producer.flush(60) == 0

    def read(self, topic, partitions=1, isolation="read_committed", timeout_s=20.0):
        """All records of a topic as (partition, key, value), in order of partition and offset."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.app_id}-reading",
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(partitions)])
        rows, ended, deadline = [], set(), time.monotonic() + timeout_s
        while len(ended) < partitions:
            assert time.monotonic() < deadline, f"the end of {topic} was not reached"
            for message in consumer.consume(1_000, 0.1):
                if message.error() is None:
                    row = message.partition(), message.offset(), message.key(), message.value()
                    rows.append(row)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
        consumer.close()
        return [(p, key, value) for p, _, key, value in sorted(rows, key=lambda row: row[:2])]

    def wait_values(self, topic, wanted, partitions=1, timeout_s=40.0):
        """Wait until a topic holds as many values, and return its rows."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self.read(topic, partitions)
            if len(rows) >= wanted:
                return rows
            assert time.monotonic() < deadline, (
                f"{topic} has {len(rows)} of {wanted} rows\n" + self.tails()
            )
            time.sleep(0.2)

    def tails(self):
        return "\n".join(f"--- {w.name}\n{w.tail()}" for w in self.workers)


class Worker:
    """One process of ``faust -A program worker``."""

    def __init__(self, program, name, scheme, environ):
        self.name = name
        self.log_path = program.directory / f"{name}.log"
        self._pid_file = program.directory / f"{name}.pid"
        self._pid_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "faust", "-A", "program"]
        command += ["--datadir", str(program.directory / name)]
        command += ["worker", "-l", "info"]
        # Faust's web server takes a fixed port, unless a test gives it one.
        command += (
            ["--web-port", environ["WEB_PORT"]] if "WEB_PORT" in environ else ["--without-web"]
        )
        broker = f"{scheme}://{program.bootstrap}"
        with self.log_path.open("ab") as log:
            self._guard = subprocess.Popen(
                guarded(command, self._pid_file, Tie.TIED),
                env={**os.environ, "BROKER": broker, "APP": program.app_id, **environ},
                cwd=program.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def running(self):
        return self._guard.poll() is None

    @property
    def pid(self):
        deadline = time.monotonic() + 20
        while not self._pid_file.exists() or not self._pid_file.read_text():
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.02)
        return int(self._pid_file.read_text())

    def kill(self):
        """SIGKILL."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            self._guard.wait(STOP_S)

    def stop(self):
        """SIGTERM, and wait for its end."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        return self._guard.wait(STOP_S)

    def wait(self, timeout_s=STOP_S):
        """Wait for its end; the exit code."""
        return self._guard.wait(timeout_s)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text, timeout_s=40.0, since=0):
        """Wait until the log has a text behind a position."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log()[since:]:
            assert time.monotonic() < deadline, f"no {text!r}\n{self.tail()}"
            assert self.running, self.tail()
            time.sleep(0.05)

    def tail(self, lines=30):
        return "\n".join(self.log().splitlines()[-lines:])


async def on_thread(call, *args, **options):
    """Run a blocking call of a `Program` without stopping the loop."""
    return await asyncio.to_thread(call, *args, **options)
