"""The wait before a retry: the failing record's partition keeps it, the others go on."""

from __future__ import annotations

import asyncio
import time

import onceflow
from harness.polling import until
from onceflow.decisions.failures import (
    Failure,
    FailureKind,
    FailureOptions,
    FailurePolicy,
    Hold,
    NoteFirst,
    ReadUpTo,
)
from onceflow.ids import Offset, Partition
from onceflow.testing import TopologyDriver

P, Q = Partition("in", 0), Partition("in", 1)
WAIT_S = 1.5


def test_a_waiting_suspect_is_read_up_to_but_not_tried():
    policy = FailurePolicy({}, FailureOptions())
    policy.record_failed(Failure(P, Offset(7), Offset(8), 1, "a", FailureKind.RAISED, "no"))
    waiting = frozenset({P})
    behind, there = {P: Offset(3), Q: Offset(0)}, {P: Offset(7), Q: Offset(0)}
    assert policy.plan(behind, behind, waiting) == ReadUpTo(P, Offset(7))
    assert policy.plan(there, there, waiting) == Hold(waiting)
    assert policy.plan(there, there) == NoteFirst(P)


async def test_other_partitions_are_committed_while_one_waits_for_its_retry(tmp_path):
    app = onceflow.App("waits", topic_partitions=2, retry_backoff_ms=int(WAIT_S * 1000))
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    tried_s, failed = [], asyncio.Event()

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            await copies.send(value=word)
            if word == "twice":
                tried_s.append(time.monotonic())
                if len(tried_s) == 1:
                    failed.set()
                    raise ValueError(word)

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "before", partition=0)
        await driver.feed("words", "twice", partition=0)
        await driver.feed("words", "after", partition=0)
        settling = asyncio.ensure_future(driver.settle())
        await failed.wait()
        await driver.feed("words", "other", partition=1)
        await until(lambda: len(driver.outputs("copies")) == 2, what="the commit of others")
        seen = {record.value for record in driver.outputs("copies")}
        assert seen == {b'"before"', b'"other"'}
        await settling
        values = sorted(record.value for record in driver.outputs("copies"))
        assert values == [b'"after"', b'"before"', b'"other"', b'"twice"']
    first_s, second_s = tried_s
    assert second_s - first_s >= WAIT_S


async def test_a_waiting_record_is_not_tried_while_another_partition_is_read_up_to_its_own(
    tmp_path,
):
    app = onceflow.App("waits", topic_partitions=2, retry_backoff_ms=int(WAIT_S * 1000))
    words = app.topic("words", key_type=str, value_type=str)
    tried_s = {"p": [], "q": []}

    @app.agent(words)
    async def check(stream):
        async for word in stream:
            if word in tried_s:
                tried_s[word].append(time.monotonic())
                if len(tried_s[word]) == 1:
                    raise ValueError(word)

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "p", partition=0)
        settling = asyncio.ensure_future(driver.settle())
        await asyncio.sleep(0.2)
        for word in ("x", "q", "y"):
            await driver.feed("words", word, partition=1)
        await settling
    for first_s, *_, last_s in tried_s.values():
        assert last_s - first_s >= WAIT_S
    assert [len(tries) for tries in tried_s.values()] == [2, 2]
