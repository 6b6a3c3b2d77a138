"""Watches from outside: a group's committed offsets, and what a process tree burns.

Rates count from the first committed progress to the moment when everything is committed, so that
the start of an interpreter or a virtual machine is left out, and a contestant cannot shine by work
that it has not committed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer

from bench.topics import ends_of, partitions_of

LOOK_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What was measured between first progress and the end; rates are None if that was one look."""

    events: int
    counted: int
    wall_s: float
    cpu_s: float
    peak_rss_mb: int
    complete: bool

    @property
    def per_wall_s(self):
        """Events per second of wall time."""
        return round(self.counted / self.wall_s) if self.counted and self.wall_s else None

    @property
    def per_cpu_s(self):
        """Events per processor second of the process tree."""
        return round(self.counted / self.cpu_s) if self.counted and self.cpu_s else None


class ProcessTree:
    """A process and all below it, as ``/proc`` tells of them."""

    def __init__(self, pid):
        self.pid = pid

    def pids(self):
        """The process and its descendants that live."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            try:
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    waiting += [int(child) for child in children.read_text().split()]
            except FileNotFoundError:
                continue
        return found

    def cpu_s(self):
        """Processor seconds so far, those of ended and reaped children included."""
        ticks = 0
        for text in self._read("stat"):
            # utime, stime and both of reaped children: fields 14 to 17; the name may have blanks.
            ticks += sum(map(int, text.rsplit(")", 1)[1].split()[11:15]))
        return ticks / TICKS

    def peak_rss_mb(self):
        """The most memory that the processes had resident, each at its own time."""
        lines = [line for text in self._read("status") for line in text.splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10

    def _read(self, name):
        for pid in self.pids():
            try:
                yield Path(f"/proc/{pid}/{name}").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue


class CommittedOffsets:
    """How much of a topic a group has committed.

    Asks without waiting for open transactions: then the broker tells the last committed offset,
    and never a pending one.
    """

    def __init__(self, bootstrap, group, topic):
        self._client = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_uncommitted",
            }
        )
        self._partitions = partitions_of(self._client, topic)
        self.events = sum(ends_of(self._client, self._partitions).values())

    def claimed(self):
        """Whether every partition has a committed offset, be it 0."""
        return all(each.offset >= 0 for each in self._committed())

    def done(self):
        """Events below the committed offsets."""
        return sum(max(0, each.offset) for each in self._committed())

    def _committed(self):
        return self._client.committed(self._partitions, timeout=10)

    def close(self):
        """End the client."""
        self._client.close()


def watch(offsets, process, bound_s):
    """Watch until all is committed, the process ends or ``bound_s`` is over."""
    tree = ProcessTree(process.pid)
    deadline = time.monotonic() + bound_s
    first, peak_mb = None, 0
    while True:
        done, at_s = offsets.done(), time.monotonic()
        cpu_s, peak_mb = tree.cpu_s(), max(peak_mb, tree.peak_rss_mb())
        if first is None and done:
            first = (done, at_s, cpu_s)
        if done >= offsets.events or at_s > deadline or not process.alive():
            break
        time.sleep(LOOK_S)
    start_done, start_s, start_cpu_s = first or (done, at_s, cpu_s)
    return Usage(
        events=offsets.events,
        counted=done - start_done,
        wall_s=at_s - start_s,
        cpu_s=cpu_s - start_cpu_s,
        peak_rss_mb=peak_mb,
        complete=done >= offsets.events,
    )
