"""One run of the sink application: input, workers, and at the end what the sinks must hold."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections import Counter

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness.fault_input import STEADY
from harness.fault_run import DEFAULTS, NEVER
from harness.fault_workers import Worker
from onceflow.sinks.gid import Scope

PARTITIONS = 4
KEYS = 24


def read_sqlite(path, query):
    """Answer a query about a file; nothing while the worker has not made its tables."""
    if not path.exists():
        return []
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        connection.close()


class SqliteStore:
    """The sinks are participants over a SQLite file."""

    def __init__(self, directory):
        self.path = directory / "sinks.db"
        self.environ = {"SINK_SQLITE": str(self.path)}

    def log(self):
        """Rows of the appending sink: (partition, offset, key, count, total)."""
        found = read_sqlite(self.path, "SELECT row FROM appended WHERE name = 'log'")
        rows = [json.loads(row) for (row,) in found]
        return [(row["p"], row["o"], row["k"], row["c"], row["t"]) for row in rows]

    def latest(self):
        """The table of the upserting sink: key to count."""
        rows = [json.loads(row) for (row,) in read_sqlite(self.path, "SELECT row FROM upserted")]
        return {row["k"]: row["c"] for row in rows}

    def prepared(self):
        """Names of branches that are prepared."""
        return read_sqlite(self.path, "SELECT name, incarnation, commit_epoch FROM prepared")

    def close(self):
        """Have nothing to end."""


class PostgresStore:
    """The sinks are tables in a place of a real server."""

    def __init__(self, place):
        self._place = place
        self.environ = {"SINK_POSTGRES": place.dsn()}

    def _rows(self, table, columns):
        if self._place.sql("SELECT to_regclass(%s)", table)[0][0] is None:
            return []
        return self._place.sql(f"SELECT {columns} FROM {table}")

    def log(self):
        """As for SQLite."""
        return self._rows("log", "p, o, k, c, t")

    def latest(self):
        """As for SQLite."""
        return dict(self._rows("latest", "k, c"))

    def prepared(self):
        """Names of branches of this run that are prepared."""
        return self._place.sql(
            "SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, %s)", self.scope.gid_prefix
        )


class SinkRun:
    """The application with its sinks in ``store``; a context manager.

    Args:
        allowed: parts of ``NEVER`` that this case is about.
    """

    def __init__(self, kafka, directory, store, *, allowed=(), **environ):
        self.bootstrap = kafka.bootstrap
        self.directory = directory
        self.store = store
        self.allowed = set(allowed)
        self.app_id = f"s{uuid.uuid4().hex[:8]}"
        urls = ";".join(f"onceflow://{each}" for each in self.bootstrap.split(","))
        self.environ = {
            **DEFAULTS,
            "ONCEFLOW_COMMIT_RECORDS": "30",
            # Nobody is there: what is exactly-once may not hang on the record of it.
            "ONCEFLOW_COORDINATOR": "127.0.0.1:9",
            "FAULT_APP": self.app_id,
            "FAULT_BROKER": urls,
            "FAULT_PARTITIONS": str(PARTITIONS),
            **store.environ,
            **environ,
        }
        self.workers = {}
        self.sent = []

    def __enter__(self):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        made = admin.create_topics([NewTopic(f"{self.app_id}-in", PARTITIONS, 1)])
        for each in made.values():
            each.result(30)
        self.store.scope = Scope.of(admin.list_topics(timeout=10).cluster_id, self.app_id)
        return self

    def __exit__(self, *_):
        for worker in self.workers.values():
            if worker.running:
                worker.thaw()
                worker.kill()

    def feed(self, records=600):
        """Produce the input, at once; the epochs are small, so that it takes many of them."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, **STEADY})
        for _ in range(records):
            number = len(self.sent)
            key = f"k{number % KEYS}"
            partition = number % KEYS % PARTITIONS
            value = {"k": key, "v": number}
            self.sent.append((partition, key, number))
            producer.produce(
                f"{self.app_id}-in", json.dumps(value), json.dumps(key), partition=partition
            )
        assert producer.flush(30) == 0

    def worker(self, name="a", **environ):
        """Start worker ``name``; a second time it is the same one, on its data, started again."""
        if name not in self.workers:
            self.workers[name] = Worker(
                name, self.directory, self.environ, program="harness.sinkapp"
            )
        environ.setdefault("ONCEFLOW_WORKER_ID", name)
        return self.workers[name].start(**environ)

    def wait_rows(self, count=None, timeout_s=60.0):
        """Wait until the sinks show the rows of so many inputs; of all by default."""
        count = len(self.sent) if count is None else count
        deadline_s = time.monotonic() + timeout_s
        while len(self.store.log()) < count or sum(self.store.latest().values()) < count:
            dead = not any(worker.running for worker in self.workers.values())
            if dead or time.monotonic() > deadline_s:
                logs = "\n".join(f"--- {w.name}\n{w.tail()}" for w in self.workers.values())
                why = "no worker runs" if dead else f"not within {timeout_s} s"
                raise AssertionError(f"{why}: {count} rows; {len(self.store.log())}\n{logs}")
            time.sleep(0.2)

    def finish(self, timeout_s=60.0):
        """Wait for all rows, stop the workers in order, verify."""
        self.wait_rows(timeout_s=timeout_s)
        for worker in self.workers.values():
            if worker.running:
                worker.terminate()
        for worker in self.workers.values():
            if worker.started:
                worker.wait_stopped()
        problems = self.problems()
        assert not problems, "\n".join([f"app {self.app_id}:", *problems])

    def problems(self):
        """Everything in sinks and logs that is not exactly-once."""
        counts, totals, offsets, expected = Counter(), Counter(), Counter(), []
        for partition, key, number in self.sent:
            counts[key] += 1
            totals[key] += number
            expected.append((partition, offsets[partition], key, counts[key], totals[key]))
            offsets[partition] += 1
        found = Counter(self.store.log())
        problems = [f"row {row} is there {n} times" for row, n in found.items() if n > 1]
        problems += [f"row {row} is missing" for row in Counter(expected) - found]
        problems += [f"row {row} should not be" for row in found - Counter(expected)]
        if self.store.latest() != counts:
            problems.append(f"latest is {self.store.latest()} and not {dict(counts)}")
        problems += [f"branch {branch} is left prepared" for branch in self.store.prepared()]
        forbidden = [word for word in NEVER if word not in self.allowed]
        problems += [
            f"log of {worker.name}: {line[:600]}"
            for worker in self.workers.values()
            for line in worker.log().splitlines()
            if any(word in line for word in forbidden)
        ]
        return problems[:20]

    def resolved(self, name="a"):
        """What worker ``name`` did with branches of others: (committed, rolled back)."""
        lines = [
            json.loads(line)
            for line in self.workers[name].log().splitlines()
            if re.search(r'"event": ?"branches_resolved"', line) and line.startswith("{")
        ]
        return (
            sum(len(line.get("committed", ())) for line in lines),
            sum(len(line.get("rolled_back", ())) for line in lines),
        )
