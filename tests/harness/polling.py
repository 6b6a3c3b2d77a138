"""Drives a poll thread from a test and writes down what it tells, in order."""

from __future__ import annotations

import asyncio
import time

from onceflow.kafka.configuration import ClientConfig, consumer_config
from onceflow.kafka.poll import Bounds, PollThread


class Recorder:
    """A poll thread and everything it told: events in order, and records of current runs.

    ``membership`` is for ``consumer_config``. By default every added partition starts at its
    position so far (0 at first), and every run is accounted at once; ``records`` holds (offset,
    value) per partition of what was current.
    """

    def __init__(
        self,
        bootstrap,
        group,
        *,
        bounds=None,
        start=True,
        account=True,
        **membership,
    ):
        self.events = []
        self.records = {}
        self.delivered = 0
        self.dropped = 0
        self.start_on_assign = start
        self.account = account
        self.on_run = None
        self.revoke_s = 0.0
        settings = consumer_config(
            ClientConfig(bootstrap),
            group,
            **{"session_timeout_ms": 6_000, **membership},
        )
        self.thread = PollThread(
            settings,
            loop=asyncio.get_running_loop(),
            on_runs=self._runs,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_lost=self._lost,
            on_failure=lambda error: self.events.append(("failure", error)),
            bounds=bounds or Bounds(),
        )
        self._tasks = set()

    async def __aenter__(self):
        self.thread.start()
        return self

    async def __aexit__(self, *_):
        await self.thread.stop()
        # A start under way when the thread ends is refused; that is not what a test is about.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _runs(self, runs):
        for run in runs:
            if self.thread.is_current(run):
                self.delivered += len(run)
                kept = self.records.setdefault(run.partition, [])
                kept += zip(run.offsets, run.values, strict=True)
            else:
                self.dropped += len(run)
            if self.account:
                self.thread.account(len(run), run.size_bytes)
            if self.on_run is not None:
                self.on_run(run)

    def _assigned(self, assignment):
        self.events.append(("assigned", assignment))
        if self.start_on_assign and assignment.added:
            offsets = {}
            for partition in assignment.added:
                seen = self.records.get(partition)
                offsets[partition] = seen[-1][0] + 1 if seen else 0
            task = asyncio.ensure_future(self.thread.start_at(offsets))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _revoked(self, partitions):
        self.events.append(("revoked", partitions))
        await asyncio.sleep(self.revoke_s)
        self.events.append(("released", partitions))

    async def _lost(self, partitions):
        self.events.append(("lost", partitions))

    def kinds(self):
        return [kind for kind, _ in self.events]

    def of(self, kind):
        return [what for k, what in self.events if k == kind]


async def until(condition, timeout_s=30.0, what="condition"):
    """Wait until ``condition()`` is true; fails the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)
