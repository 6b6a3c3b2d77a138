"""Readers at their own pace, a gate that closes at any moment: what is committable must hold."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.records import Batch
from onceflow.errors import InvariantViolation
from onceflow.ids import Partition, Stamp
from onceflow.kafka.records import Run

PARTITIONS = (Partition("orders", 0), Partition("orders", 1), Partition("orders", 2))


def run_of(partition: Partition, offsets: list[int]) -> Run:
    values: list[bytes | None] = [b"v"] * len(offsets)
    return Run(partition, offsets, list(values), values, [0] * len(offsets), None, 1, 0)


class World:
    """Readers of the same partitions, with a log of what each was handed."""

    def __init__(self, readers: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.gate = Gate(Stamp(1, 0))
        self.freed: list[Batch] = []
        self.cursors = [Cursor(self.gate, self.freed.append) for _ in range(readers)]
        self.handed: list[dict[Partition, list[int]]] = [{} for _ in self.cursors]
        for cursor in self.cursors:
            self.gate.add(cursor)
            for partition in PARTITIONS:
                cursor.done[partition] = 0
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.batches = 0

    def arrive(self) -> None:
        partition = self.random.choice(PARTITIONS)
        offsets: list[int] = []
        at = self.ends[partition]
        for _ in range(self.random.randint(1, 5)):
            at += self.random.choice((0, 0, 0, 1, 3))  # control records leave gaps
            offsets.append(at)
            at += 1
        self.ends[partition] = at
        batch = Batch(run_of(partition, offsets), self.gate.stamp, len(self.cursors))
        self.batches += 1
        for cursor in self.cursors:
            cursor.push(batch)

    async def read(self, number: int) -> None:
        """What a stream does with its cursor, with pauses at random."""
        cursor, handed = self.cursors[number], self.handed[number]
        while True:
            batch = await cursor.next_batch()
            while cursor.batch is batch:
                if self.gate.closed and not await self.gate.admits(cursor, batch):
                    continue
                index = cursor.index
                cursor.in_progress += 1
                cursor.index = index + 1
                if cursor.index == len(batch.run):
                    cursor.finish(batch)
                handed.setdefault(batch.partition, []).append(batch.run.offsets[index])
                for _ in range(self.random.randint(0, 2)):
                    await asyncio.sleep(0)
                cursor.in_progress -= 1
                self.gate.progressed()


@given(
    readers=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    epochs=st.integers(1, 6),
    target=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_gate_commits_only_what_every_reader_has_finished(
    readers: int, seed: int, epochs: int, *, target: bool
) -> None:
    """INV-EPOCH-2 and INV-EPOCH-3: nothing below an offset is missing, nothing above was begun."""

    async def scenario() -> None:
        world = World(readers, seed)
        tasks = [asyncio.ensure_future(world.read(n)) for n in range(readers)]
        committed = dict.fromkeys(PARTITIONS, 0)
        for _ in range(epochs):
            world.gate.open()
            for _ in range(world.random.randint(0, 6)):
                world.arrive()
                for _ in range(world.random.randint(0, 4)):
                    await asyncio.sleep(0)
            if target:
                partition = world.random.choice(PARTITIONS)
                world.gate.targets = {partition: world.ends[partition]}
            world.gate.close(PARTITIONS)
            await asyncio.wait_for(world.gate.wait_drained(), 5)
            for partition, offset in world.gate.committable().items():
                assert offset >= committed[partition]
                committed[partition] = offset
                for handed in world.handed:
                    offsets = handed.get(partition, [])
                    assert offsets == sorted(set(offsets))
                    assert all(o < offset for o in offsets)
                assert len({len(h.get(partition, [])) for h in world.handed}) == 1
                if target and partition in world.gate.targets:
                    assert offset == world.gate.targets[partition]
            world.gate.targets = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_an_aborted_attempt_leaves_nothing_behind(seed: int, cut: int) -> None:
    async def scenario() -> None:
        world = World(2, seed)
        tasks = [asyncio.ensure_future(world.read(n)) for n in range(2)]
        world.gate.open()
        for _ in range(6):
            world.arrive()
        for _ in range(cut):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        world.gate.stamp = Stamp(1, 1)
        for cursor in world.cursors:
            cursor.reset()
            assert cursor.in_progress == 0
            assert cursor.unfinished() == []
            assert cursor.position(PARTITIONS[0]) is None
        assert len(world.freed) == world.batches, "every batch is accounted exactly once"

    asyncio.run(scenario())


def test_offsets_are_refused_while_a_record_is_in_progress() -> None:
    async def scenario() -> None:
        gate = Gate(Stamp(1, 0))
        cursor = Cursor(gate, lambda _: None)
        gate.add(cursor)
        cursor.done[PARTITIONS[0]] = 0
        cursor.in_progress = 1
        gate.close(PARTITIONS)
        with pytest.raises(InvariantViolation, match="INV-EPOCH-2"):
            gate.committable()

    asyncio.run(scenario())
