"""A files sink has no locks: a stopped worker and its heir, in random orders of their calls.

Two threads stand for two processes. Only one runs at a time; before each call that changes the disk
a seed decides who goes on. Kafka is a set of decided epochs and a fence.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness.files_sink import SCOPE, branch, visible_rows
from onceflow.errors import Superseded
from onceflow.ids import Incarnation
from onceflow.sinks.files import Files
from onceflow.sinks.participant import FinishOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

W = Incarnation("w1")
SEEDS = 60


class Turns:
    """Lets one of several threads run at a time, as a seed decides."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._running: list[threading.Thread] = []
        self._next: threading.Thread | None = None
        self._changed = threading.Condition()
        self.failures: list[BaseException] = []

    def step(self) -> None:
        """Give way, perhaps; a thread that takes no part goes on."""
        with self._changed:
            if threading.current_thread() in self._running:
                self._choose()
                self._wait()

    def _choose(self) -> None:
        # One is often preferred for a while, so that the other stands still in the middle.
        if self._next not in self._running or self._random.random() < 0.15:
            self._next = self._random.choice(self._running) if self._running else None
        self._changed.notify_all()

    def _wait(self) -> None:
        assert self._changed.wait_for(lambda: self._next is threading.current_thread(), timeout=30)

    def run(self, *actors: Callable[[], None]) -> None:
        """Run the actors to their ends."""

        def guarded(actor: Callable[[], None]) -> None:
            try:
                with self._changed:
                    self._wait()
                actor()
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                self.failures.append(error)
            with self._changed:
                self._running.remove(threading.current_thread())
                self._choose()

        threads = [threading.Thread(target=guarded, args=(actor,)) for actor in actors]
        with self._changed:
            self._running = list(threads)
            for thread in threads:
                thread.start()
            self._choose()
        for thread in threads:
            thread.join(60)
        assert not self.failures, self.failures


@pytest.fixture
def turns(monkeypatch):
    """Makes turns by a seed; the calls of the operating system give way."""
    current: list[Turns] = []

    def giving_way(call):
        def step(*args, **options):
            if current:
                current[0].step()
            return call(*args, **options)

        return step

    monkeypatch.setattr(os, "fsync", giving_way(lambda _: None))
    for name in ("rename", "mkdir", "unlink", "rmdir", "open", "stat"):
        monkeypatch.setattr(os, name, giving_way(getattr(os, name)))

    def make(seed: int) -> Turns:
        current[:] = [Turns(seed)]
        return current[0]

    yield make
    current.clear()


class Kafka:
    """What Kafka says: which epochs are decided, and whether the worker is fenced."""

    def __init__(self) -> None:
        self.decided: set[int] = set()
        self.is_fenced = False


def work(sink: Files, kafka: Kafka, ends: list[str]) -> None:
    """Three epochs, the second of which is aborted, until somebody takes over."""
    try:
        for number in (1, 2, 3):
            rows = sink.encode([{"p": p, "n": number} for p in "ab"])
            sink.prepare(branch(W, number), [rows])
            if kafka.is_fenced:
                return
            if number == 2:
                sink.roll_back(branch(W, number))
                continue
            kafka.decided.add(number)
            assert sink.commit(branch(W, number)) is FinishOutcome.DONE
    except Superseded:
        ends.append("superseded")


def take_over(sink: Files, kafka: Kafka) -> None:
    """Fence, finish what is listed, raise, and again."""
    kafka.is_fenced = True
    for _ in range(2):
        for each in sink.branches():
            if each.commit_epoch in kafka.decided:
                assert sink.commit(each) is FinishOutcome.DONE
            else:
                sink.roll_back(each)
        sink.raise_marker(W)
    sink._opened.roller.turn(1e10)


@pytest.mark.parametrize("interval_s", [0, 3600])
def test_a_worker_that_goes_on_while_its_heir_takes_over_loses_and_doubles_nothing(
    turns, tmp_path, interval_s
):
    ends: list[str] = []
    options = {"name": "same", "partition_by": "p", "roll_interval_s": interval_s}
    for seed in range(SEEDS):
        directory = tmp_path / "out"
        late, heir = Files(directory, **options), Files(directory, **options)
        for sink in (late, heir):
            sink.open(SCOPE)
        kafka = Kafka()
        turns(seed).run(partial(work, late, kafka, ends), partial(take_over, heir, kafka))
        assert heir.branches() == [], seed
        for now_s in (2e10, 3e10):
            heir._opened.roller.turn(now_s)
        for sink in (late, heir):
            sink.close()
        found = sorted(row["n"] for row in visible_rows(directory))
        assert found == sorted([*kafka.decided] * 2), seed
        shutil.rmtree(directory)
    assert len(ends) > SEEDS // 20, "few takeovers met a worker in the middle"
