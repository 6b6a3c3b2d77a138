"""Readers over changes of the assignment, gaps between batches, and several takers at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from harness.table_driver import SOURCE, make_app
from onceflow.engine.records import Batch
from onceflow.engine.runtime import runtime_of
from onceflow.engine.work import EpochWork
from onceflow.ids import Partition, Stamp
from onceflow.kafka.records import Run

PARTITION = Partition(SOURCE, 0)


class Reading:
    """Streams of one partition, without a broker."""

    def __init__(self, readers=1):
        self.app = make_app()
        self.runtime = runtime_of(self.app)
        self.runtime._epochs = SimpleNamespace(is_open=False)
        self.gate = self.runtime.gate
        self.streams = [
            self.app.stream(self.app.topic(SOURCE, value_type=int)) for _ in range(readers)
        ]
        self.cursors = [stream.channel.cursor for stream in self.streams]
        for cursor in self.cursors:
            cursor.done[PARTITION] = 0
        self.got = []
        self.tasks = []

    def take(self, stream, most, within=1000):
        async def read():
            async for values in stream.take(most, within=within):
                self.got.append(list(values))

        self.tasks.append(asyncio.ensure_future(read()))

    def read(self, stream, stop_at=None):
        async def read():
            async for value in stream:
                self.got.append(value)
                if value == stop_at:
                    self.gate.close([PARTITION])

        self.tasks.append(asyncio.ensure_future(read()))

    async def arrive(self, *offsets):
        values = [str(offset).encode() for offset in offsets]
        nothing = [None] * len(values)
        run = Run(PARTITION, list(offsets), nothing, values, [0] * len(values), None, 1, 0)
        batch = Batch(run, self.gate.stamp, len(self.cursors))
        for cursor in self.cursors:
            cursor.push(batch)
        await asyncio.sleep(0.02)

    async def drained(self):
        """Close the gate if it is open; return what may be committed."""
        if not self.gate.closed:
            self.gate.close([PARTITION])
        await asyncio.wait_for(self.gate.wait_drained(), 2)
        return self.gate.committable()[PARTITION]

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def reading():
    made = []

    def make(readers=1):
        made.append(Reading(readers))
        return made[0]

    yield make
    await made[0].stop()


async def test_a_half_read_batch_is_read_on_under_another_assignment(reading):
    """With KIP-848 a rebalance leaves partitions here, in the middle of their batches."""
    world = reading()
    world.read(world.streams[0], stop_at=1)
    world.gate.open()
    await asyncio.sleep(0)
    await world.arrive(0, 1, 2, 3, 4)
    assert await world.drained() == 2
    EpochWork(world.runtime).restamp(Stamp(7, 0))
    world.gate.open()
    await asyncio.sleep(0.02)
    assert await world.drained() == 5
    assert world.got == [0, 1, 2, 3, 4]


async def test_records_held_by_take_stay_held_under_another_assignment(reading):
    world = reading()
    world.take(world.streams[0], 10)
    world.gate.open()
    await asyncio.sleep(0)
    await world.arrive(0, 1, 2)
    assert await world.drained() == 0
    EpochWork(world.runtime).restamp(Stamp(7, 0))
    world.gate.open()
    await world.arrive(3, 4, 5, 6, 7, 8, 9)
    assert await world.drained() == 10
    assert world.got == [list(range(10))]


async def test_an_abort_empties_the_lists_of_take(reading):
    world = reading()
    world.take(world.streams[0], 4)
    world.gate.open()
    await asyncio.sleep(0)
    await world.arrive(0, 1, 2)
    world.gate.stamp = Stamp(0, 1)
    world.cursors[0].reset()
    world.cursors[0].done[PARTITION] = 0
    world.gate.close([PARTITION])
    world.gate.open()
    await world.arrive(0, 1, 2, 3)
    assert await world.drained() == 4
    assert world.got == [[0, 1, 2, 3]]


async def test_two_takers_of_one_subscription_commit_no_record_that_one_still_holds(reading):
    """Actors of an agent with concurrency read through one cursor."""
    world = reading()
    world.take(world.streams[0], 10)
    second = world.app.stream(world.streams[0].channel)
    world.take(second, 5)
    world.gate.open()
    await asyncio.sleep(0.02)
    await world.arrive(0, 1, 2)
    await world.arrive(3, 4, 5, 6, 7)
    committed = await world.drained()
    assert sorted(n for values in world.got for n in values) == list(range(committed))


async def test_a_gap_between_batches_does_not_keep_the_gate_from_draining(reading):
    """One reader holds the first record of a batch that the other one has not begun."""
    world = reading(readers=2)
    finish = asyncio.Event()

    async def slow():
        async for value in world.streams[0]:
            if value == 2:
                await finish.wait()

    world.tasks.append(asyncio.ensure_future(slow()))
    world.take(world.streams[1], 3)
    world.gate.open()
    await asyncio.sleep(0.02)
    await world.arrive(0, 1, 2)
    await world.arrive(5, 6)
    world.gate.close([PARTITION])
    finish.set()
    assert await world.drained() in {3, 5}
    assert world.got == [[0, 1, 2]]
