"""Readers over changes of the assignment, gaps between batches, and several takers at once."""

from __future__ import annotations

import asyncio

import pytest

from harness.stream_world import PARTITION, Reading
from onceflow.engine.work import EpochWork
from onceflow.ids import Stamp


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
