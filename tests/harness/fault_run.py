"""One run of the fault application: topics, input, workers, and at the end the verification."""

from __future__ import annotations

import os
import re
import time
import uuid

from confluent_kafka.admin import AdminClient, NewTopic

from harness.fault_input import Feeder, Watcher
from harness.fault_verify import TABLES, Verification
from harness.fault_workers import Worker
from onceflow.decisions.marker import parse
from onceflow.ids import Partition
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.offsets import CommittedOffsets, Stability

PARTITIONS = 4
SESSION_MS = 6_000
DEFAULTS = {
    "ONCEFLOW_SESSION_TIMEOUT_MS": str(SESSION_MS),
    "ONCEFLOW_HTTP": "off",
    "ONCEFLOW_LOG_FORMAT": "json",
    # The transaction timeout is twice this: what a half-way claim leaves open ends in 10 s.
    "ONCEFLOW_RECORD_BOUND_S": "5",
    "ONCEFLOW_REVOKE_BOUND_S": "3",
    "ONCEFLOW_STATE_MEMORY_BYTES": str(32 << 20),
    # Small epochs: a backlog takes many of them, on a machine of any speed.
    "ONCEFLOW_RUN_RECORDS": "10",
    "ONCEFLOW_COMMIT_RECORDS": "60",
}
NEVER = ("store_rebuilt", "INV-", "Traceback", "never retrieved", "worker_failed")
"""What no log may show, unless a case is about it."""


class FaultRun:
    """The application under test on ``kafka``; a context manager.

    Args:
        broker: the addresses that the workers use, where they differ from Kafka's own (a proxy).
        static: whether workers are static members, which come back without waiting for a session.
        allowed: parts of ``NEVER`` that this case is about.
    """

    def __init__(
        self,
        kafka,
        directory,
        *,
        seed=1,
        broker=None,
        static=False,
        allowed=(),
        replicas=1,
        **environ,
    ):
        self.kafka = kafka
        self.bootstrap = kafka.bootstrap
        self.directory = directory
        self.seed = seed
        self.static = static
        self.allowed = set(allowed)
        self.app_id = f"f{uuid.uuid4().hex[:8]}"
        urls = ";".join(f"onceflow://{each}" for each in (broker or self.bootstrap).split(","))
        self.environ = {
            **DEFAULTS,
            "FAULT_APP": self.app_id,
            "FAULT_BROKER": urls,
            "FAULT_PARTITIONS": str(PARTITIONS),
            "FAULT_STALL_FILE": str(directory / "stalled"),
            **environ,
        }
        self.workers = {}
        self.feeder = None
        self._replicas = replicas
        self._extra_directories = []
        self.last_verification = None
        self._offsets = CommittedOffsets(ClientConfig(self.bootstrap))

    def __enter__(self):
        self._make_topics()
        identity = {
            self.name("echo"): lambda value: (value["p"], value["o"]),
            self.name("audit"): lambda value: (value["p"], value["o"]),
            self.name("grouped"): lambda value: value["n"],
        }
        self.watcher = Watcher(self.bootstrap, identity, PARTITIONS).start()
        return self

    def __exit__(self, kind, *_):
        if self.feeder is not None:
            self.feeder.abandon()
        for worker in self.workers.values():
            if worker.running:
                worker.thaw()
                worker.kill()
        self.watcher.stop()
        self._offsets.close()
        if kind is not None and "FAULT_KEEP" in os.environ:
            print(f"kept: app {self.app_id} in {self.directory}")

    def name(self, topic):
        return f"{self.app_id}-{topic}"

    def _make_topics(self):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        new = [
            NewTopic(self.name(topic), PARTITIONS, self._replicas)
            for topic in ("in", "echo", "audit", "grouped")
        ]
        for made in admin.create_topics(new).values():
            made.result(30)

    # Workers and input.

    def worker(self, name="a", **environ):
        """Start worker ``name``; a second time it is the same one, on its data, started again."""
        if name not in self.workers:
            self.workers[name] = Worker(name, self.directory, self.environ)
        if self.static:
            environ.setdefault("ONCEFLOW_WORKER_ID", name)
        if "datadir" in environ:
            self._extra_directories.append(environ["datadir"])
        return self.workers[name].start(**environ)

    def feed(self, records=1_200, rate=300, special=None):
        """Begin to produce the input."""
        self.feeder = Feeder(
            self.bootstrap,
            self.name("in"),
            PARTITIONS,
            seed=self.seed,
            records=records,
            rate=rate,
            special=special,
        ).start()
        return self.feeder

    @property
    def echoed(self):
        """How many inputs have a committed output."""
        return self.watcher.count(self.name("echo"))

    @property
    def reflected(self):
        """Whether every input has its outputs."""
        return all(len(found) >= self._expected() for found in self.watcher.outputs.values())

    def wait_echoed(self, count, timeout_s=25.0):
        """Wait until so many inputs have a committed output."""
        self._until(lambda: self.echoed >= count, timeout_s, f"{count} outputs")

    def wait_more(self, count=50, timeout_s=25.0):
        """Wait until the application goes on: so many outputs more than at present."""
        self.wait_echoed(min(self.echoed + count, self._expected()), timeout_s)

    def wait_idle(self, timeout_s=25.0):
        """Wait until everything sent so far is reflected, and its commits are over."""
        self._until(
            lambda: all(len(found) >= self.feeder.sent for found in self.watcher.outputs.values()),
            timeout_s,
            "outputs of what was sent",
        )
        time.sleep(1.0)

    def _expected(self):
        poisoned = sum(word == "poison" for word in self.feeder._special.values())
        return self.feeder.records - poisoned

    def _until(self, reached, timeout_s, what):
        deadline = time.monotonic() + timeout_s
        while not reached():
            dead = self.workers and not any(worker.running for worker in self.workers.values())
            if dead or time.monotonic() > deadline:
                logs = "\n".join(f"--- {w.name}\n{w.tail()}" for w in self.workers.values())
                counts = {t: self.watcher.count(t) for t in self.watcher.outputs}
                why = "no worker runs" if dead else f"not within {timeout_s} s"
                raise AssertionError(f"{why}: {what}; {counts}\n{logs}")
            time.sleep(0.02)

    # The end.

    def finish(self, timeout_s=40.0):
        """Wait until all input is reflected, stop all workers in order, verify."""
        self.feeder.finish()
        self._until(lambda: self.reflected, timeout_s, f"{self._expected()} outputs of each kind")
        # Who was started last may not have claimed anything yet, and then has nothing to release.
        self._until(lambda: not self._unowned(), timeout_s, "a living owner of all partitions")
        self.stop_workers()
        self.verify()

    def _unowned(self):
        """Partitions whose marker names nobody who lives."""
        wanted = [
            Partition(topic, number)
            for topic in (self.name("in"), f"grouping-{self.name('in')}-g-repartition")
            for number in range(PARTITIONS)
        ]
        living = {worker.incarnation() for worker in self.workers.values() if worker.running}
        found = self._offsets.read(self.app_id, frozenset(wanted), Stability.LATEST)
        markers = {partition: parse(at.metadata) for partition, at in found.items()}
        return {p for p, marker in markers.items() if marker and marker.incarnation not in living}

    def stop_workers(self):
        for worker in self.workers.values():
            if worker.running:
                worker.terminate()
        for worker in self.workers.values():
            if worker.started:
                worker.wait_stopped()

    def verify(self):
        """Fail with everything that is not exactly-once."""
        directories = [worker.directory for worker in self.workers.values()]
        verification = Verification(
            self.bootstrap, self.app_id, PARTITIONS, [*directories, *self._extra_directories]
        )
        self.last_verification = verification
        problems = verification.run()
        problems += [f"the watcher saw a second output {each}" for each in self.watcher.doubled[:5]]
        problems += self.log_problems()
        assert not problems, "\n".join([f"app {self.app_id}, seed {self.seed}:", *problems])

    def log_problems(self):
        """Lines that no worker may log in this case."""
        forbidden = [word for word in NEVER if word not in self.allowed]
        found = [
            f"log of {worker.name}: {line[:600]}"
            for worker in self.workers.values()
            for line in worker.log().splitlines()
            if any(word in line for word in forbidden)
        ]
        return found[:10]

    def restored_records(self, worker):
        """Changelog records that each restore of a worker replayed, oldest first."""
        return [int(n) for n in re.findall(r"records\W+(\d+)\W+changelogs", worker.log())]

    @property
    def tables(self):
        return TABLES
