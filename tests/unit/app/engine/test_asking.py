"""Questions and answers: who waits, who is told, and what the gate lets through meanwhile."""

from __future__ import annotations

import asyncio
import types

import faust
import pytest
from faust.agents.replies import BarrierState, ReplyPromise

from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.records import Batch
from onceflow.engine.replies import ReplyConsumer
from onceflow.engine.router import Router
from onceflow.errors import ConfigError, OutcomeUnknown, Unreachable
from onceflow.ids import Partition, Stamp
from onceflow.limits import REPLY_TOPICS_KEPT

ASKED = Partition("asked", 0)
OTHER = Partition("other", 0)


class Channel:
    """A reply topic: a queue of replies."""

    def __init__(self, *, failing=False):
        self.replies, self.declared, self.failing = asyncio.Queue(), 0, failing

    async def maybe_declare(self):
        self.declared += 1
        await asyncio.sleep(0)
        if self.failing:
            raise Unreachable("nobody there")

    async def stream(self):
        while True:
            yield await self.replies.get()

    def answer(self, correlation_id, value):
        reply = types.SimpleNamespace(correlation_id=correlation_id, value=value)
        self.replies.put_nowait(reply)


@pytest.fixture
def app():
    return faust.App("asking", broker="onceflow://localhost:1")


@pytest.fixture
async def consumer(app):
    made = ReplyConsumer(app)
    made.channel = Channel()
    made._reply_topic = lambda name: made.channel
    yield made
    for future in made._fetchers.values():
        future.cancel()


async def test_a_reply_reaches_who_asked_and_is_forgotten(consumer):
    promise = ReplyPromise("here", "1")
    await consumer.add("1", promise)
    consumer.channel.answer("unknown", 0)
    consumer.channel.answer("1", 42)
    consumer.channel.answer("1", 43)
    assert await asyncio.wait_for(promise, 5) == 42
    assert not consumer._waiting


async def test_a_reply_topic_is_made_once_for_many_questions(consumer):
    promises = [ReplyPromise("here", str(n)) for n in range(5)]
    await asyncio.gather(*(consumer.add(p.correlation_id, p) for p in promises))
    assert consumer.channel.declared == 1


async def test_asking_again_after_kafka_was_away_works(consumer):
    consumer.channel = Channel(failing=True)
    with pytest.raises(Unreachable):
        await consumer.add("1", ReplyPromise("here", "1"))
    consumer.channel = Channel()
    await consumer.add("2", ReplyPromise("here", "2"))


async def test_who_waits_for_a_question_that_was_not_sent_is_told(consumer):
    promise, barrier = ReplyPromise("here", "1"), BarrierState("here")
    await consumer.add("1", promise)
    await consumer.add("2", barrier)
    consumer.fail("1", OutcomeUnknown("perhaps"))
    with pytest.raises(OutcomeUnknown):
        await promise
    consumer.fail_all(Unreachable("gone"))
    with pytest.raises(Unreachable):
        await barrier


async def test_answer_topics_are_kept_within_a_bound(consumer):
    consumer._reply_topic = lambda name: name
    for n in range(REPLY_TOPICS_KEPT + 1):
        assert consumer.answer_topic(str(n)) == str(n)
    assert len(consumer.answering) <= REPLY_TOPICS_KEPT


def batch_of(partition, offsets, stamp):
    run = types.SimpleNamespace(partition=partition, number=partition.number, offsets=offsets)
    return Batch(run, stamp, 1)


@pytest.fixture
def gate():
    made = Gate(Stamp(1, 1))
    for partition in (OTHER, ASKED):
        cursor = Cursor(made, lambda batch: None)
        made.add(cursor)
        cursor.done[partition] = 10
    made.open()
    return made


async def test_a_closing_gate_lets_the_asked_topic_flow_until_the_answer_came(gate):
    asking, answers = gate.cursors
    asking.in_progress = 1
    gate.close([OTHER, ASKED])
    with gate.answering("asked"):
        answers.push(batch_of(ASKED, [10, 11], gate.stamp))
        assert answers.ready_batch() is not None
        answers.index = 2
        answers.finish(answers.batch)
        asking.in_progress = 0
        assert not gate.is_drained()
    assert gate.is_drained()
    assert gate.committable() == {OTHER: 10, ASKED: 12}


async def test_other_topics_do_not_flow_while_an_answer_is_awaited(gate):
    asking, _ = gate.cursors
    gate.close([OTHER, ASKED])
    with gate.answering("asked"):
        asking.push(batch_of(OTHER, [10], gate.stamp))
        assert asking.ready_batch() is None


async def test_a_reader_that_waits_for_the_opening_looks_again_when_it_is_asked(gate):
    _, answers = gate.cursors
    waiting = batch_of(ASKED, [10], gate.stamp)
    answers.push(waiting)
    answers.ready_batch()
    gate.close([OTHER, ASKED])
    admitted = asyncio.ensure_future(gate.admits(answers, waiting))
    await asyncio.sleep(0)
    assert not admitted.done()
    with gate.answering("asked"):
        assert await asyncio.wait_for(admitted, 5) is False
        assert await gate.admits(answers, waiting)


@pytest.mark.parametrize(
    ("question", "arguments"),
    [
        ("key_store", ("table", "key")),
        ("external_topic_key_store", ("topic", "key")),
        ("table_metadata", ("table",)),
        ("tables_metadata", ()),
        ("external_topics_metadata", ()),
    ],
)
def test_routing_to_workers_is_refused(app, question, arguments):
    assert isinstance(app.router, Router)
    with pytest.raises(ConfigError, match="GlobalTable"):
        getattr(app.router, question)(*arguments)
