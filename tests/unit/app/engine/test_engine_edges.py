"""Corners of the engine: openings that fail, revokes that overlap, full queues, closing stores."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import pytest
from faust.web.apps.tables import TableKeyDetail
from faust.web.exceptions import WebError

import onceflow
from harness.table_driver import SOURCE, make_app
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.failures import Ending
from onceflow.engine import sender as sender_module
from onceflow.engine.epochs import Epochs
from onceflow.engine.router import NotRouted
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError
from onceflow.ids import Incarnation, Partition, TaskId
from onceflow.kafka.errors import ProducerFull
from onceflow.kafka.records import Run
from onceflow.limits import STORE_MEMORY_BYTES_MIN
from onceflow.state.memory import MemoryBudget
from onceflow.testing import TopologyDriver

P0, P1 = Partition(SOURCE, 0), Partition(SOURCE, 1)


def worker():
    runtime = runtime_of(make_app())
    runtime._epochs = Epochs(runtime, Incarnation("own"))
    return runtime


# -- epochs --


async def test_an_error_in_a_late_opening_ends_the_worker():
    runtime = worker()
    left = []
    runtime.leave = lambda error, code: left.append((error, code))

    def broken(_effect):
        raise RuntimeError("cannot open")

    runtime.epochs._open_now = broken
    runtime.epochs._open_gate(fx.OpenGate(runtime.epochs.machine.stamp, 0.01))
    await asyncio.sleep(0.1)
    [(error, code)] = left
    assert (str(error), code) == ("cannot open", 1)


async def test_a_late_opening_can_be_called_off():
    epochs = worker().epochs
    opened = []
    epochs._open_now = opened.append
    epochs._open_gate(fx.OpenGate(epochs.machine.stamp, 0.01))
    epochs._close_pending_opening()
    await asyncio.sleep(0.05)
    assert opened == []


async def test_a_revoke_is_not_answered_by_the_end_of_an_earlier_one():
    """The poll thread gives a revoke up after its bound; the next one may come before the end."""
    epochs = worker().epochs
    finish = []
    epochs.machine.handle = lambda _event: [fx.FinishRevoke()] if finish else []
    first = asyncio.ensure_future(epochs.revoke(frozenset({P0}), 60))
    await asyncio.sleep(0)
    await epochs._take(epochs._events.popleft())
    second = asyncio.ensure_future(epochs.revoke(frozenset({P1}), 60))
    await asyncio.sleep(0)
    finish.append(True)
    await epochs._take(ev.CommitDue(ev.CommitReason.INTERVAL))
    await asyncio.sleep(0.01)
    assert (first.done(), second.done()) == (True, False)
    await epochs._take(epochs._events.popleft())
    await asyncio.wait_for(second, 1)


async def test_the_end_of_the_epochs_answers_every_revoke():
    epochs = worker().epochs
    waiting = [asyncio.ensure_future(epochs.revoke(frozenset({p}), 60)) for p in (P0, P1)]
    await asyncio.sleep(0)
    epochs._stop(fx.Stop())
    await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_a_stop_waits_for_a_record_as_long_as_a_record_may_take(tmp_path):
    app = onceflow.App("stopping", topic_partitions=1, record_bound_s=21)
    words = app.topic("words", key_type=str, value_type=str)

    @app.agent(words)
    async def read(stream):
        async for _ in stream:
            pass

    bounds = []
    async with TopologyDriver(app, tmp_path):
        epochs = runtime_of(app).epochs
        stop = epochs.stop

        async def stopped(bound_s):
            bounds.append(bound_s)
            await stop(bound_s)

        epochs.stop = stopped
    assert set(bounds) == {21}


# -- dead letters --


class Full:
    """A producer whose queue is full for some calls."""

    queued = 0

    def __init__(self, refusals):
        self.refusals = refusals
        self.produced = []

    def poll(self):
        return 0

    def produce(self, topic, value, key=None, **_options):
        if self.refusals:
            self.refusals -= 1
            raise ProducerFull("full")
        self.produced.append((topic, value, key))


def dead_letter(refusals):
    runtime = worker()
    runtime.clients.transaction = Full(refusals)
    posted = []
    runtime.epochs.post = posted.append
    run = Run(P0, [5], [b"k"], [b"v"], [0], None, 2, 0)
    runtime.failures.errors[P0, 5] = "Traceback\nValueError: no"
    runtime.failures.end(Ending.DEAD_LETTER, run, 0, "agent")
    return runtime, posted


def test_a_dead_letter_waits_for_room_in_the_queue():
    runtime, posted = dead_letter(refusals=1)
    assert runtime.clients.transaction.produced == [("tables-dead-letter", b"v", b"k")]
    assert posted == []


def test_a_dead_letter_without_room_aborts_the_epoch_and_keeps_its_error(monkeypatch):
    monkeypatch.setattr(sender_module, "_ROOM_POLLS", 1)
    runtime, posted = dead_letter(refusals=9)
    assert [event.kind for event in posted] == [ev.SendFailure.ABORTABLE]
    assert (P0, 5) in runtime.failures.errors
    assert not runtime.sender.has_effects()


# -- stores --


async def test_a_store_whose_closing_was_cancelled_is_waited_for_before_it_is_opened_again():
    runtime = worker()
    release = threading.Event()
    closed = []

    def close():
        release.wait(5)
        closed.append(True)

    tasks = runtime.tasks
    tasks.partitions[TaskId(2, 0)] = frozenset({P0})
    tasks.stores[TaskId(2, 0)] = SimpleNamespace(close=close)
    closing = asyncio.ensure_future(tasks.close([P0]))
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()

    async def identified():
        return SimpleNamespace()

    tasks.identify = identified
    restoring = asyncio.ensure_future(tasks.restore([]))
    await asyncio.sleep(0.05)
    assert not restoring.done()
    release.set()
    await asyncio.wait_for(asyncio.wait({restoring}), 2)
    assert closed == [True]
    restoring.exception()


def test_stores_may_come_and_go_while_a_restoring_thread_writes():
    class Store:
        def flush_if_old(self, _now_ms):
            pass

    budget = MemoryBudget(STORE_MEMORY_BYTES_MIN)
    stores = [Store() for _ in range(200)]
    errors, until_s = [], time.monotonic() + 0.3

    def write():
        while time.monotonic() < until_s:
            try:
                budget.after_write(0)
            except RuntimeError as error:
                errors.append(error)
                return

    writing = threading.Thread(target=write)
    writing.start()
    while time.monotonic() < until_s:
        for store in stores:
            budget.register(store)
        for store in stores:
            budget.unregister(store)
    writing.join(5)
    assert errors == []


# -- views that route --


async def test_a_built_in_view_that_routes_answers_with_the_reason_as_json():
    app = make_app()
    app.Table("counts", default=int)
    view = TableKeyDetail(app, app.web)
    request = SimpleNamespace(method="GET", match_info={"name": "counts", "key": "a"})
    response = await view.dispatch(request)
    assert response.status == 501
    assert "GlobalTable" in json.loads(response.body)["error"]


def test_the_refusal_is_a_configuration_error_and_a_web_error():
    with pytest.raises(NotRouted, match="counts") as refused:
        make_app().router.key_store("counts", "a")
    assert isinstance(refused.value, ConfigError)
    assert isinstance(refused.value, WebError)


# -- declaring --


async def test_a_caller_that_is_cancelled_leaves_a_declaration_to_the_others(monkeypatch):
    app = make_app()
    known = asyncio.Event()

    async def ensure(_name):
        await known.wait()

    topic = app.topic("declared")
    monkeypatch.setattr(topic.sender, "declarations", SimpleNamespace(ensure=ensure))
    first, second = (asyncio.ensure_future(topic.maybe_declare()) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    known.set()
    await asyncio.wait_for(first, 5)
