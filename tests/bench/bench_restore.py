"""Restores a table from its changelog and measures the rate and the memory of the whole process.

    python tests/bench/bench_restore.py [--broker HOST:PORT] [--records N] [--runs N]

Without a broker it starts a local Kafka. A worker of a one-table application is started on an empty
data directory; it restores four partitions of 60-byte records (24-byte keys, 36-byte values) and is
stopped. Each run prints a JSON line: records per second of wall time and per CPU-second of the
process, its start included, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from textwrap import dedent

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from onceflow.localkafka import LocalKafka

PARTITIONS = 4
STARTED_S_MAX = 300.0

PROGRAM = """
    import os
    import faust

    app = faust.App(os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4)
    source = app.topic(app.conf.id + "-in", value_serializer="json")
    state = app.Table("state", partitions=4)

    @app.agent(source)
    async def agent(stream):
        async for value in stream:
            state[value] = value
"""


def fill(bootstrap: str, topic: str, records: int) -> None:
    """Make the changelog: distinct keys, spread evenly."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)]).values():
        made.result(30)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    for start in range(0, records, 10_000):
        for number in range(PARTITIONS):
            rows = [
                {
                    "key": b'"key-%018d"' % (start + i),
                    "value": b'"value-%028d"' % (start + i),
                    "partition": number,
                }
                for i in range(number, min(10_000, records - start), PARTITIONS)
            ]
            producer.produce_batch(topic, rows, number)
        producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the changelog was not written within two minutes")


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def cpu_s(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(bootstrap: str, app: str, records: int) -> dict[str, object]:
    """Start a worker on an empty data directory and wait until it has restored."""
    directory = Path(tempfile.mkdtemp(prefix="restore-"))
    (directory / "program.py").write_text(dedent(PROGRAM))
    log_path = directory / "log"
    environ = {**os.environ, "APP": app, "BROKER": f"onceflow://{bootstrap}"}
    environ["ONCEFLOW_HTTP"] = "off"
    command = [sys.executable, "-m", "faust", "-A", "program", "--datadir", str(directory / "data")]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "worker", "-l", "info", "--without-web"],
            cwd=directory,
            env=environ,
            stdout=log,
            stderr=log,
        )
    deadline_s = time.monotonic() + STARTED_S_MAX
    while "task_restored" not in (text := log_path.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            raise SystemExit(f"the worker did not restore:\n{text[-4000:]}")
        time.sleep(0.02)
    used_s, peak = cpu_s(process.pid), peak_mb(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    found = re.search(r"elapsed_s\W+([0-9.]+)", log_path.read_text(errors="replace"))
    elapsed_s = float(found[1])
    shutil.rmtree(directory)
    return {
        "bench": "restore",
        "records": records,
        "elapsed_s": round(elapsed_s, 2),
        "records_per_s": round(records / elapsed_s),
        "records_per_cpu_s": round(records / used_s),
        "cpu_s": round(used_s, 2),
        "peak_mb": round(peak),
    }


def main() -> None:
    """Fill once, restore several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker")
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--app", help="an application id whose changelog is filled already")
    options = parser.parse_args()
    kafka = None if options.broker else LocalKafka()
    if kafka is not None:
        kafka.start()
    try:
        bootstrap = options.broker or kafka.bootstrap
        app = options.app or f"restore-{uuid.uuid4().hex[:8]}"
        if not options.app:
            fill(bootstrap, f"{app}-state-changelog", options.records)
        for _ in range(options.runs):
            print(json.dumps({**run(bootstrap, app, options.records), "app": app}), flush=True)
    finally:
        if kafka is not None:
            kafka.stop()


if __name__ == "__main__":
    main()
