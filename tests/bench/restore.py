"""Restoring a table from its changelog into an empty data directory.

The worker starts once and makes its topics; then the changelog is filled with records of 60 bytes,
each of another key; then the worker starts with an empty directory. What remains is read from its
metrics: the rate counts from the first look that shows a restore under way to the look that shows
none left. At the end it is asked for rows at random, which must be those of the changelog.
"""

from __future__ import annotations

import random
import re
import shutil
import time
import urllib.error
import urllib.request

import orjson
from confluent_kafka import Producer

from bench.load import fill
from bench.places import RunFailed
from bench.topics import PARTITIONS, make_topics, read_columns
from bench.watch import LOOK_S, CommittedOffsets, ProcessTree
from onceflow.localkafka.ports import free_ports

RECORDS = 5_000_000
CLAIM_S = 60.0
RESTORE_S = 240.0
ANSWER_S = 30.0
PROBES = 1_000
REMAINING = re.compile(r"^onceflow_restore_remaining_records\{[^}]*\} (\S+)$", re.MULTILINE)


def row(number):
    """The changelog record of an account, as a table writes it: 60 bytes of JSON strings."""
    return {"key": b'"account-%012d"' % number, "value": b'"%036d"' % (number * 7)}


class Restore:
    """One application whose table is restored, as often as wanted.

    ``start`` makes its process, to be used in ``with``, for a job and more variables.
    """

    def __init__(self, job, start, records):
        self._job = job
        self._start = start
        self._records = records

    def prepare(self):
        """Make the topics, let the application claim its partitions, and fill the changelog."""
        make_topics(self._job.bootstrap, [self._job.source, self._job.output])
        with self._start(self._job, {}) as process:
            offsets = CommittedOffsets(self._job.bootstrap, self._job.group, self._job.source)
            deadline = time.monotonic() + CLAIM_S
            while not offsets.claimed():
                if time.monotonic() > deadline or not process.alive():
                    raise RunFailed(f"no claim within {CLAIM_S} s: {process.log_tail()}")
                time.sleep(LOOK_S)
            offsets.close()
        changelog = f"{self._job.group}-rows-changelog"
        fill(self._job.bootstrap, changelog, self._records, row)

    def measure(self):
        """Restore into an empty directory; returns rates, memory and whether rows are right."""
        shutil.rmtree(self._job.directory / "state", ignore_errors=True)
        port = free_ports(1)[0]
        begun_s = time.monotonic()
        with self._start(self._job, {"ONCEFLOW_HTTP": f"127.0.0.1:{port}"}) as process:
            measured = self._watch(process, f"http://127.0.0.1:{port}", begun_s)
            measured["wrong"] = self._wrong_rows()
            measured["verified"] = measured["wrong"] == 0
            measured["peak_rss_mb"] = ProcessTree(process.pid).peak_rss_mb()
        return measured

    def _watch(self, process, url, begun_s):
        tree, deadline, first = ProcessTree(process.pid), begun_s + RESTORE_S, None
        while True:
            left, at_s, cpu_s = _remaining(url), time.monotonic(), tree.cpu_s()
            if first is None and left:
                first = (left, at_s, cpu_s)
            if left == 0 and _is_ready(url):
                break
            if not process.alive():
                raise RunFailed(f"the worker ended before it was ready: {process.log_tail()}")
            if at_s > deadline:
                raise RunFailed(f"not restored within {RESTORE_S} s: {process.log_tail()}")
            time.sleep(LOOK_S)
        measured = {"records": self._records, "ready_s": round(at_s - begun_s, 2)}
        if first is not None:  # else it was over before it was seen
            counted, start_s, start_cpu_s = first
            measured |= {
                "counted": counted,
                "per_wall_s": round(counted / (at_s - start_s)),
                "per_cpu_s": round(counted / (cpu_s - start_cpu_s)),
            }
        return measured

    def _wrong_rows(self):
        """Ask for rows at random and for one that does not exist."""
        chance = random.Random(5)
        asked = map(row, chance.sample(range(self._records), PROBES))
        expected = {each["key"]: orjson.loads(each["value"]).encode() for each in asked}
        expected[b'"nobody"'] = b"absent"
        producer = Producer(
            {"bootstrap.servers": self._job.bootstrap, "partitioner": "murmur2_random"}
        )
        for key in expected:
            producer.produce(self._job.source, b"?", key=key)
        producer.flush(ANSWER_S)
        deadline, wrong = time.monotonic() + ANSWER_S, len(expected)
        while wrong and time.monotonic() < deadline:
            seen = {}
            for keys, values in read_columns(self._job.bootstrap, self._job.output):
                seen.update(zip(keys, values, strict=True))
            wrong = sum(seen.get(key) != value for key, value in expected.items())
        return wrong


def _remaining(url):
    """Changelog records to replay, None while the worker does not tell."""
    found = REMAINING.findall(_get(f"{url}/metrics") or "")
    return round(sum(map(float, found))) if len(found) >= PARTITIONS else None


def _is_ready(url):
    return _get(f"{url}/health/ready") is not None


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
