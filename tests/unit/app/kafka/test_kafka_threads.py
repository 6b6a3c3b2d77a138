"""A blocking call never blocks the loop, and one that does not come back is told."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from onceflow.errors import OutcomeUnknown, Unreachable
from onceflow.kafka.threads import CallThread, deliver


@pytest.fixture
def thread():
    made = CallThread()
    yield made
    made.stop()


async def test_calls_run_in_order_off_the_loop_and_return_what_they_return(thread):
    seen = []

    def call(number):
        seen.append((number, threading.current_thread().name))
        return number * 2

    assert [await thread.run(call, n, timeout_s=5) for n in range(3)] == [0, 2, 4]
    assert seen == [(n, "onceflow-transactions") for n in range(3)]


async def test_what_a_call_raises_reaches_the_waiter(thread):
    def call():
        raise Unreachable("no answer")

    with pytest.raises(Unreachable, match="no answer"):
        await thread.run(call, timeout_s=5)
    assert await thread.run(int, timeout_s=5) == 0


async def test_a_call_that_does_not_come_back_is_unknown_and_so_is_all_that_follows(thread):
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match=r"time: Event.wait \(allowed: 0.1 s\)") as stuck:
        await thread.run(release.wait, timeout_s=0.1)
    assert stuck.value.exit_code == 3
    with pytest.raises(OutcomeUnknown, match="wait"):
        await thread.run(int, timeout_s=5)
    assert time.monotonic() - started < 2
    assert thread.stuck_in is not None
    release.set()


async def test_a_call_that_nobody_wants_any_more_is_not_begun(thread):
    release, begun = threading.Event(), []
    first = asyncio.ensure_future(thread.run(release.wait, timeout_s=20))
    unwanted = asyncio.ensure_future(thread.run(begun.append, 1, timeout_s=20))
    await asyncio.sleep(0)
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    release.set()
    assert await first
    await thread.run(begun.append, 2, timeout_s=20)
    assert begun == [2]


def test_what_the_loop_fails_to_take_in_is_told_and_not_only_logged():
    failures, taken = [], []

    def refuse(_):
        raise Unreachable("no room")

    deliver(taken.append, 1, failures.append)
    deliver(refuse, 2, failures.append)
    assert taken == [1]
    assert [str(error) for error in failures] == ["no room"]
