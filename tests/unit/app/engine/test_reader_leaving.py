"""Records whose reader leaves: finished if it left on purpose, given up if it failed."""

from __future__ import annotations

import asyncio

import pytest

from harness.stream_world import PARTITION, Reading
from onceflow.decisions import epoch_events as ev


@pytest.fixture
async def world():
    made = Reading()
    yield made
    await made.stop()


def lists(stream):
    return stream.take(2, within=1000)


def batches(stream):
    return stream.batches()


def records(stream):
    return stream


WAYS = pytest.mark.parametrize("way", [records, lists, batches])


async def opened(world, *offsets):
    world.gate.open()
    await asyncio.sleep(0)
    await world.arrive(*offsets)


def start(world, reader):
    world.tasks.append(asyncio.ensure_future(reader()))
    return world.tasks[-1]


def aborts(world):
    return [event for event in world.posted if isinstance(event, ev.RecordFailed)]


@WAYS
async def test_a_task_that_raises_does_not_acknowledge_what_it_was_handed(world, way):
    async def reader():
        async for _ in way(world.streams[0]):
            raise ValueError("not done")

    task = start(world, reader)
    await opened(world, 0, 1)
    await asyncio.sleep(0.02)
    assert isinstance(task.exception(), ValueError)
    assert aborts(world) == [ev.RecordFailed(world.gate.stamp, 0.0, None)]


@WAYS
async def test_a_cancelled_reader_does_not_acknowledge_what_it_was_handed(world, way):
    async def reader():
        async for _ in way(world.streams[0]):
            await asyncio.sleep(60)

    task = start(world, reader)
    await opened(world, 0, 1)
    task.cancel()
    await asyncio.sleep(0.02)
    assert aborts(world) == [ev.RecordFailed(world.gate.stamp, 0.0, None)]


async def test_a_processor_that_raises_in_a_list_of_take_gives_the_whole_list_up(world):
    def double(value):
        if value == 1:
            raise ValueError("no")
        return 2 * value

    async def reader():
        stream = world.streams[0]
        stream.add_processor(double)
        async for values in stream.take(2, within=1000):
            world.got.append(values)

    start(world, reader)
    await opened(world, 0, 1)
    await asyncio.sleep(0.02)
    assert aborts(world)
    assert world.got == []


@WAYS
async def test_what_a_task_read_before_it_broke_off_is_committed_with_its_effects(world, way):
    async def reader():
        async for _ in way(world.streams[0]):
            break
        await asyncio.sleep(60)

    start(world, reader)
    await opened(world, 0, 1)
    await asyncio.sleep(0.02)
    assert aborts(world) == []
    assert await world.drained() == (1 if way is records else 2)


async def test_an_epoch_after_that_commits_nothing_more_for_it(world):
    async def reader():
        async for _ in world.streams[0]:
            break

    start(world, reader)
    await opened(world, 0, 1)
    await asyncio.sleep(0.02)
    world.gate.open()
    world.gate.close([PARTITION])
    assert world.gate.committable() == {}


async def test_a_crash_of_the_app_counts_no_record_as_done(world):
    """A task's own clean-up may still run when its stream is closed."""

    async def reader():
        try:
            async for _ in world.streams[0]:
                raise ValueError("not done")
        finally:
            world.app._crashed.set()
            await asyncio.sleep(0.05)

    task = start(world, reader)
    await opened(world, 0)
    await asyncio.sleep(0.02)
    assert aborts(world)
    await asyncio.wait([task])
    assert isinstance(task.exception(), ValueError)


async def test_readers_that_end_after_the_epochs_abort_nothing(world):
    async def reader():
        async for _ in world.streams[0]:
            await asyncio.sleep(60)

    task = start(world, reader)
    await opened(world, 0)
    world.stopped.set()
    task.cancel()
    await asyncio.sleep(0.02)
    assert world.posted == []


# -- what an agent has to acknowledge itself --


def noack(world, acknowledge):
    stream = world.streams[0].noack()

    async def reader():
        async for event in stream.events():
            world.got.append(event.value)
            if acknowledge(event.value):
                event.ack()

    return reader


async def test_a_record_never_acknowledged_is_blamed_when_the_drain_runs_out(world, caplog):
    world.streams[0].reader = "careless"
    start(world, noack(world, lambda value: value != 1))
    await opened(world, 0, 1, 2)
    world.gate.close([PARTITION])
    assert not world.gate.is_drained()
    world.runtime.failures.overdue(1)
    assert aborts(world), "the policy decides, as for any failing record"
    plan = world.runtime.failures.policy.plan({PARTITION: 0}, {PARTITION: 0})
    assert plan.offset == 1
    line = caplog.records[-1].msg
    assert (line["topic"], line["partition"], line["offset"]) == (*PARTITION, 1)
    assert line["agent"] == "careless"
    assert "event.ack()" in line["error"]


async def test_a_filtered_record_of_a_noack_stream_needs_no_acknowledgement(world):
    stream = world.streams[0].noack().filter(lambda value: value != 1)

    async def reader():
        async for event in stream.events():
            event.ack()

    start(world, reader)
    await opened(world, 0, 1, 2)
    assert await world.drained() == 3


async def test_a_late_acknowledgement_lets_the_gate_drain(world):
    kept = []
    stream = world.streams[0].noack()

    async def reader():
        async for event in stream.events():
            kept.append(event)  # noqa: PERF401 - the stream does not end

    start(world, reader)
    await opened(world, 0, 1)
    world.gate.close([PARTITION])
    assert not world.gate.is_drained()
    assert world.gate.unacknowledged()[1] is kept[0]
    for event in kept:
        event.ack()
    assert world.gate.unacknowledged() is None
    assert await world.drained() == 2


async def test_a_drain_that_runs_out_for_no_single_record_says_what_it_waited_for(world, caplog):
    world.gate.targets[PARTITION] = 9
    world.gate.close([PARTITION])
    world.runtime.failures.overdue(1)
    assert world.posted == [ev.DrainTimedOut(1)]
    [line] = [r.msg for r in caplog.records if r.msg.get("event") == "epoch_aborted"]
    assert line["positions"] == {"source-0": {"read_up_to": 0, "wanted": 9}}
    assert "record_bound_s" in line["error"]


async def test_a_copy_of_an_agents_stream_is_read_by_the_same_agent(world):
    stream = world.streams[0]
    stream.reader, stream.restarted_by_agent = "agent", True
    copy = stream.noack()
    assert (copy.reader, copy.restarted_by_agent) == ("agent", True)
    assert copy.subscriptions is stream.subscriptions


async def test_a_batch_finishes_by_itself_also_in_a_noack_stream(world):
    """An agent that leaves its batches on purpose has nothing to acknowledge them with."""
    stream = world.streams[0].noack()
    stream.restarted_by_agent = True

    async def reader():
        async for _ in stream.batches():
            break

    start(world, reader)
    await opened(world, 0, 1)
    await asyncio.sleep(0.02)
    assert await world.drained() == 2
