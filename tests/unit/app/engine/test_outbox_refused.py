"""Telling refused messages to the dead letters while commits stand still, fail, or come late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from onceflow.engine import outbox_refused
from onceflow.engine.outbox_refused import RefusedTeller
from onceflow.errors import OutcomeUnknown, OutsideRecord, ParticipantUnavailable
from onceflow.sinks.outbox import RefusedMessage
from onceflow.sinks.outbox_format import encode_rows

[MESSAGE] = encode_rows([(("word",), False, ("bad",))]).payload


class Target:
    """A sink's table of refused messages, and a sender whose commits the test makes."""

    name = "lite"

    def __init__(self, *offsets, number=0):
        self.refused = [RefusedMessage("t1", number, each, "why", MESSAGE) for each in offsets]
        self.noted = []
        self.sends = {}
        self.looks = 0
        self.failure = None
        self.room = 1_000

    def untold(self, numbers):
        self.looks += 1
        waiting = [
            each for each in self.refused if each not in self.noted and each.number in numbers
        ]
        return waiting[: outbox_refused.OUTBOX_UNTOLD_MAX]

    def told(self, messages):
        if self.failure is not None:
            raise self.failure
        self.noted += messages

    async def call(self, operation, *arguments):
        return operation(*arguments)

    def send(self, _topic, _key, _value, *, headers):
        if len(self.sends) >= self.room:
            raise OutsideRecord("full")
        named = dict(headers)
        place = int(named["onceflow-partition"]), int(named["onceflow-offset"])
        assert place not in self.sends, "it is on its way"
        self.sends[place] = asyncio.get_running_loop().create_future()
        return self.sends[place]

    def teller(self, *numbers):
        applier = SimpleNamespace(
            sink=self, call=self.call, numbers=frozenset(numbers), topic="o", identity=b"me"
        )
        runtime = SimpleNamespace(is_stopping=False, dead_letter_topic="dead", sender=self)
        teller = RefusedTeller(runtime, applier)
        teller.look()
        return teller


async def turns(teller, count=1):
    """Let it tell some times; it never waits for a commit."""
    async with asyncio.timeout(1):
        for _ in range(count):
            await teller.tell()


async def test_what_is_on_its_way_is_not_sent_again_nor_waited_for():
    target = Target(3, 5)
    teller = target.teller(0)
    await turns(teller, 3)
    assert sorted(target.sends) == [(0, 3), (0, 5)]
    assert (target.looks, target.noted) == (1, [])
    target.sends[0, 5].set_result(None)
    await turns(teller)
    assert [each.offset for each in target.noted] == [5]
    target.sends[0, 3].set_result(None)
    await turns(teller, 3)
    assert [each.offset for each in target.noted] == [5, 3]
    assert target.looks == 1


async def test_a_message_that_comes_later_is_sent_beside_those_on_their_way():
    target = Target(3)
    teller = target.teller(0)
    await turns(teller)
    target.refused += Target(7).refused
    teller.look()
    await turns(teller, 2)
    assert sorted(target.sends) == [(0, 3), (0, 7)]


async def test_what_is_on_its_way_is_bounded(monkeypatch):
    monkeypatch.setattr(outbox_refused, "OUTBOX_UNTOLD_MAX", 2)
    target = Target(1, 2, 3)
    teller = target.teller(0)
    await turns(teller, 3)
    assert sorted(target.sends) == [(0, 1), (0, 2)]
    assert target.looks == 1, "nothing is looked for that could not be sent"
    target.sends[0, 1].set_result(None)
    await turns(teller)
    assert sorted(target.sends) == [(0, 1), (0, 2), (0, 3)]


async def test_messages_of_others_do_not_hold_ours_back(monkeypatch):
    monkeypatch.setattr(outbox_refused, "OUTBOX_UNTOLD_MAX", 2)
    target = Target(1, 2, 3)
    target.refused += Target(1, number=1).refused
    await turns(target.teller(1))
    assert list(target.sends) == [(1, 1)]


async def test_a_send_that_failed_is_sent_again_at_the_next_occasion():
    target = Target(3)
    teller = target.teller(0)
    await turns(teller)
    target.sends.pop((0, 3)).set_exception(OutcomeUnknown("lost"))
    await turns(teller, 2)
    assert (target.sends, target.noted) == ({}, [])
    teller.look()
    await turns(teller)
    assert list(target.sends) == [(0, 3)]


async def test_a_target_that_does_not_answer_is_told_later():
    target = Target(3)
    teller = target.teller(0)
    await turns(teller)
    target.sends[0, 3].set_result(None)
    target.failure = ParticipantUnavailable("away")
    with pytest.raises(ParticipantUnavailable):
        await turns(teller)
    target.failure = None
    await turns(teller)
    assert [each.offset for each in target.noted] == [3]


async def test_what_finds_no_room_among_the_sends_waits():
    target = Target(3, 5)
    target.room = 1
    teller = target.teller(0)
    await turns(teller)
    assert list(target.sends) == [(0, 3)]
    target.room = 2
    await turns(teller)
    assert list(target.sends) == [(0, 3), (0, 5)]
