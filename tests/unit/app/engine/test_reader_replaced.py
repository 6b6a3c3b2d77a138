"""Agents that are restarted or leave records unacknowledged, on the engine over a log in memory."""

from __future__ import annotations

import asyncio

import pytest

import onceflow
from onceflow.testing import TopologyDriver


def new_app(**options):
    app = onceflow.App("replaced", topic_partitions=1, **options)
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    return app, words, copies


def values(driver, topic="copies"):
    return [record.value.decode().strip('"') for record in driver.outputs(topic)]


async def feed(driver, *words):
    await driver.feed_many("words", [("k", word) for word in words])


async def test_an_agent_restarted_within_a_record_processes_it_again_and_once(tmp_path):
    app, words, copies = new_app()
    begun, inside = [], asyncio.Event()

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            await copies.send(value=word)
            begun.append(word)
            if begun == ["a", "slow"]:
                inside.set()
                await asyncio.sleep(60)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "slow", "b")
        await inside.wait()
        await asyncio.wait_for(copy.restart(), 10)
        await driver.settle()
        assert values(driver) == ["a", "slow", "b"]
        assert begun == ["a", "slow", "a", "slow", "b"]


async def test_an_agent_restarted_while_it_waits_reads_on(tmp_path):
    app, words, copies = new_app()

    @app.agent(words)
    async def copy(stream):
        async for several in stream.take(2, within=0.05):
            await copies.send(value="".join(several))

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "b")
        await driver.settle()
        await asyncio.wait_for(copy.restart(), 10)
        await feed(driver, "c", "d")
        await driver.settle()
        assert values(driver) == ["ab", "cd"]


async def test_a_record_never_acknowledged_becomes_a_dead_letter_and_the_others_count(tmp_path):
    app, words, copies = new_app(retries_max=1, retry_backoff_ms=1, record_bound_s=0.5)

    @app.agent(words)
    async def copy(stream):
        async for event in stream.noack().events():
            await copies.send(value=event.value)
            if event.value != "lost":
                event.ack()

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "lost", "b")
        await driver.settle()
        assert values(driver) == ["a", "b"]
        [letter] = driver.outputs("replaced-dead-letter")
        assert letter.value == b'"lost"'
        headers = dict(letter.headers)
        assert b"event.ack()" in headers["onceflow-error"]
        assert headers["onceflow-agent"].endswith(b"copy")


async def test_lists_whose_records_are_not_all_acknowledged_lose_only_those(tmp_path):
    app, words, copies = new_app(retries_max=0, retry_backoff_ms=1, record_bound_s=0.5)

    @app.agent(words)
    async def copy(stream):
        async for events in stream.noack_take(3, within=0.01):
            for event in events:
                await copies.send(value=event.value)
                if event.value != "lost":
                    event.ack()

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "lost", "b", "c")
        await driver.settle()
        assert sorted(values(driver)) == ["a", "b", "c"]
        assert values(driver, "replaced-dead-letter") == ["lost"]


async def test_a_task_that_is_too_slow_for_a_record_does_not_hold_up_the_worker(tmp_path):
    app, words, copies = new_app(retries_max=0, retry_backoff_ms=1, record_bound_s=0.5)

    read = asyncio.Event()

    @app.task
    async def copy():
        async for word in words.stream():
            await copies.send(value=word)
            if word == "slow":
                await asyncio.sleep(1.5)
            read.set()

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        await driver.until(read.wait())
        await feed(driver, "slow", "b")
        await driver.settle()
        assert values(driver) == ["a", "b"]
        assert values(driver, "replaced-dead-letter") == ["slow"]


async def test_a_processor_that_raises_in_a_later_list_of_take_blames_its_own_record(tmp_path):
    app, words, copies = new_app(retries_max=0, retry_backoff_ms=1)

    def refuse(word):
        if word == "bad":
            raise ValueError(word)
        return word

    @app.agent(words)
    async def copy(stream):
        stream.add_processor(refuse)
        async for several in stream.take(2, within=0.05):
            for word in several:
                await copies.send(value=word)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "b", "c", "bad", "d")
        await driver.settle()
        assert values(driver) == ["a", "b", "c", "d"]
        assert values(driver, "replaced-dead-letter") == ["bad"]


async def test_a_cancelled_agent_finishes_what_it_has_and_a_restart_reads_on(tmp_path):
    app, words, copies = new_app()
    inside, finish = asyncio.Event(), asyncio.Event()

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            await copies.send(value=word)
            inside.set()
            await finish.wait()

    async with TopologyDriver(app, tmp_path, settle_s=0.5) as driver:
        await feed(driver, "a")
        await inside.wait()
        copy.cancel()
        finish.set()
        await driver.settle()
        await feed(driver, "b")
        with pytest.raises(TimeoutError):
            await driver.settle()
        assert values(driver) == ["a"]
        await asyncio.wait_for(copy.restart(), 10)
        await driver.settle()
        assert values(driver) == ["a", "b"]
