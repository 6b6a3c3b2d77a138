"""Three etcd nodes on loopback, their administration by JSON, and their load by h2load.

h2load posts one gRPC frame over and over. It sees only that HTTP worked, so that writes are counted
by the group's revision, and reads by the bytes that came back.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from array import array
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from bench.places import RunFailed
from bench.process import ContestantProcess
from harness.consensus_group import free_ports

START_S = 30.0
LOOK_S = 0.05
KEY_FIELD, VALUE_FIELD, SERIALIZABLE_FIELD = b"\x0a", b"\x12", b"\x38\x01"
"""Tags of PutRequest's and RangeRequest's fields in etcd's rpc.proto; 7 is ``serializable``."""

RESULT = re.compile(
    r"requests: \d+ total, .*?(?P<succeeded>\d+) succeeded.*?\((?P<data>\d+)\) data", re.DOTALL
)


def _bytes_field(tag, content):
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return tag + length + bytes([size]) + content


def grpc_frame(message):
    """A message as gRPC sends it: uncompressed, with its length in front."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def put_frame(key, value):
    """The body of a Put."""
    return grpc_frame(_bytes_field(KEY_FIELD, key) + _bytes_field(VALUE_FIELD, value))


def range_frame(key, *, serializable=False):
    """The body of a Range of one key; serializable ones may be stale."""
    return grpc_frame(_bytes_field(KEY_FIELD, key) + (SERIALIZABLE_FIELD if serializable else b""))


@dataclass(frozen=True)
class Loaded:
    """What h2load reports: how many succeeded, their data, the wall time and all latencies."""

    succeeded: int
    data_bytes: int
    wall_s: float
    latencies_s: list[float]


def read_log(lines):
    """Wall time from the first start to the last end, and the latencies in ascending order.

    A line has the start and the duration in microseconds, first and third.
    """
    latencies_us, first, last = array("q"), None, 0
    for line in lines:
        start, _, duration = line.split()
        start_us, duration_us = int(start), int(duration)
        first = start_us if first is None else min(first, start_us)
        last = max(last, start_us + duration_us)
        latencies_us.append(duration_us)
    return (last - (first or 0)) / 1e6, [each / 1e6 for each in sorted(latencies_us)]


def read_result(text):
    """How many requests h2load says succeeded, and how many bytes of data came back."""
    found = RESULT.search(text)
    if found is None:
        raise RunFailed(f"h2load's result is not understood: {text[-300:]}")
    return int(found["succeeded"]), int(found["data"])


class EtcdGroup:
    """Three nodes, numbered from one; use it in ``with``. ``flags`` go to each of them."""

    def __init__(self, programs, directory, flags=()):
        self._programs = programs
        self.directory = directory
        self._flags = flags
        self._ports = free_ports(6)
        self._stack = ExitStack()
        self.processes = {}

    def __enter__(self):
        try:
            for number in (1, 2, 3):
                self.start(number)
            self.settle()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        # Ended at once: the data is thrown away.
        for number in self.processes:
            self.kill(number)
        self._stack.close()

    def kill(self, number):
        """Kill a node as a crash does; returns when its guard has seen it."""
        process = self.processes[number]
        if process.alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        while process.alive():
            time.sleep(LOOK_S)

    def start(self, number):
        """Start a node, or start it again on its data."""
        peers = [f"http://127.0.0.1:{port}" for port in self._ports[::2]]
        directory = self.directory / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        command = [
            *(str(self._programs.etcd), "--name", f"n{number}"),
            *("--data-dir", str(directory / "data")),
            *("--listen-client-urls", self.url(number), "--advertise-client-urls"),
            *(self.url(number), "--listen-peer-urls", peers[number - 1]),
            *("--initial-advertise-peer-urls", peers[number - 1], "--initial-cluster"),
            ",".join(f"n{each}={url}" for each, url in enumerate(peers, 1)),
            *("--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error"),
            *self._flags,
        ]
        process = ContestantProcess(command, {}, directory)
        self.processes[number] = self._stack.enter_context(process)

    def url(self, number):
        """Where clients speak to a node."""
        return f"http://127.0.0.1:{self._ports[2 * number - 1]}"

    def call(self, number, path, body):
        """Ask a node's JSON gateway; OSError if it is not there."""
        request = urllib.request.Request(
            self.url(number) + path, json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    def status(self, number):
        """A node's view of the group."""
        return self.call(number, "/v3/maintenance/status", {})

    def settle(self):
        """Wait until all nodes know one leader and have applied as much; returns its number."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                found = {number: self.status(number) for number in (1, 2, 3)}
            except OSError:
                time.sleep(LOOK_S)
                continue
            ids = {each["header"]["member_id"]: number for number, each in found.items()}
            # Fields with the value zero are left out.
            leaders = {each.get("leader") for each in found.values()}
            applied = {each.get("raftAppliedIndex") for each in found.values()}
            if len(leaders) == len(applied) == 1 and None not in leaders:
                return ids[leaders.pop()]
            time.sleep(LOOK_S)
        logs = "; ".join(process.log_tail()[-200:] for process in self.processes.values())
        raise RunFailed(f"etcd did not settle in {START_S:.0f} s: {logs}")

    def term(self):
        """The term, which a change of the leader raises."""
        return int(self.status(1)["raftTerm"])

    def revision(self, number):
        """How many writes took effect so far, plus one."""
        body = {"key": base64.b64encode(b"nothing").decode()}
        return int(self.call(number, "/v3/kv/range", body)["header"]["revision"])

    def load(self, number, frame, path, count, outstanding, connections=1):
        """Post a frame ``count`` times, with as many of the outstanding ones on each connection."""
        body, log = self.directory / "frame", self.directory / "h2load.log"
        body.write_bytes(frame)
        log.unlink(missing_ok=True)
        command = [
            *(str(self._programs.h2load), "-n", str(max(count, outstanding)), "-t", "1"),
            *("-c", str(connections), "-m", str(outstanding // connections)),
            *("-d", str(body), "--log-file", str(log)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"{self.url(number)}/etcdserverpb.KV/{path}",
        ]
        done = subprocess.run(
            command, env=self._programs.environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RunFailed(f"h2load ended with {done.returncode}: {done.stderr[-300:]}")
        succeeded, data_bytes = read_result(done.stdout)
        with log.open() as lines:
            wall_s, latencies_s = read_log(lines)
        log.unlink()
        return Loaded(succeeded, data_bytes, wall_s, latencies_s)
