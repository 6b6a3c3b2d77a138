"""Writes of a member: durable before anything is promised, in order, by the loop or its thread."""

from __future__ import annotations

import threading
import time

import pytest

from harness.consensus_members import until
from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.limits import QUICK_WRITE_BYTES
from onceflow_consensus.raft.messages import Entry, Message, MessageKind
from onceflow_consensus.server.writes import WriteQueue
from onceflow_consensus.storage import WriteRequest

SMALL = WriteRequest(entries=(Entry(1, 1, data=b"x"),))
LARGE = WriteRequest(entries=(Entry(1, 2, data=bytes(QUICK_WRITE_BYTES + 1)),))


def promise(index):
    return Message(MessageKind.APP_RESP, 2, 1, 1, index=index)


class RecordingLog:
    """Notes what is asked of a log, and lets each write take ``write_s``."""

    def __init__(self):
        self.write_s = 0.0
        self.failure = None
        self.threads = []
        self.noted = []

    def persist(self, requests):
        time.sleep(self.write_s)
        if self.failure is not None:
            raise self.failure
        self.threads.append(threading.current_thread().name)
        self.noted += [("durable", each.entries[-1].index) for each in requests]

    def taken(self, request):
        self.noted.append(("taken", request.entries[-1].index))

    def close(self):
        self.noted.append(("closed", 0))


@pytest.fixture
async def writes():
    log = RecordingLog()
    failures = []

    def deliver(promises):
        log.noted.extend(("promised", each.index) for each in promises)

    queue = WriteQueue(log, deliver, lambda hand_over: hand_over(), failures.append)
    queue.tested_log, queue.failures = log, failures
    yield queue
    await queue.close()


async def until_idle(queue):
    await until(lambda: not queue.oldest_wait_s)


async def test_a_small_write_is_made_at_once_in_the_loop(writes):
    writes.submit(SMALL, (promise(1),))
    assert writes.tested_log.noted == [("durable", 1), ("taken", 1), ("promised", 1)]
    assert writes.tested_log.threads == [threading.current_thread().name]


async def test_a_large_write_is_made_by_the_thread_and_small_ones_follow_it(writes):
    log = writes.tested_log
    log.write_s = 0.02
    writes.submit(LARGE, (promise(2),))
    writes.submit(SMALL, (promise(1),))
    writes.deliver_in_order((promise(3),))
    assert log.noted == []
    await until_idle(writes)
    assert set(log.threads) == {"log-writer"}
    assert [item for item in log.noted if item[0] == "promised"] == [
        ("promised", 2), ("promised", 1), ("promised", 3),
    ]  # fmt: skip
    for index in (1, 2):
        steps = [what for what, which in log.noted if which == index]
        assert steps == ["durable", "taken", "promised"]


async def test_promises_without_a_write_wait_for_nothing_if_nothing_is_under_way(writes):
    writes.deliver_in_order((promise(3),))
    assert writes.tested_log.noted == [("promised", 3)]


async def test_a_slow_disk_is_left_to_the_thread(writes):
    log = writes.tested_log
    log.write_s = 0.01
    for _ in range(10):
        writes.submit(SMALL, ())
        await until_idle(writes)
    assert "log-writer" in log.threads


async def test_a_disk_that_was_slow_is_tried_again_by_the_loop(writes):
    log = writes.tested_log
    log.write_s = 0.02
    while "log-writer" not in log.threads:
        writes.submit(SMALL, ())
        await until_idle(writes)
    log.write_s = 0.0

    async def is_trusted():
        writes.submit(SMALL, ())
        await until_idle(writes)
        return log.threads[-1] != "log-writer"

    while not await is_trusted():
        pass


async def test_a_write_that_fails_in_the_loop_promises_nothing(writes):
    log = writes.tested_log
    log.failure = StorageFailed("as the test wants")
    with pytest.raises(StorageFailed):
        writes.submit(SMALL, (promise(1),))
    assert log.noted == []


async def test_a_write_that_fails_in_the_thread_is_told_once(writes):
    log = writes.tested_log
    log.failure = StorageFailed("as the test wants")
    writes.submit(LARGE, (promise(2),))
    await until(lambda: writes.failures)
    assert writes.failures == [log.failure]
    assert log.noted == []
    with pytest.raises(StorageFailed):
        writes.submit(LARGE, ())
