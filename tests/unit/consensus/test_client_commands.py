"""Commands of a client: numbered in order, sent again from the first, told when given up."""

from __future__ import annotations

import asyncio

import pytest

from onceflow_consensus.client.commands import Commands, Waiting
from onceflow_consensus.errors import GroupUnreachable, RequestRefused, SessionLost
from onceflow_consensus.limits import MAX_UNANSWERED_COMMANDS
from onceflow_consensus.sessions import Status
from onceflow_consensus.transport.requests import Submit


def outcome(status, response=b""):
    return bytes([status]) + response


@pytest.fixture
async def commands():
    commands = Commands()
    commands.session = 7
    return commands


def add(commands, *payloads, deadline_s=100.0):
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in payloads]
    for payload, future in zip(payloads, futures, strict=True):
        commands.add(Waiting(payload, future, deadline_s))
    return futures


async def test_what_was_added_is_sent_once_and_in_order(commands):
    add(commands, b"a", b"b")
    assert commands.take_unsent(1) == Submit(1, 7, 1, 1, [b"a", b"b"])
    assert commands.take_unsent(2) is None
    add(commands, b"c")
    assert commands.take_unsent(3) == Submit(3, 7, 1, 3, [b"c"])


async def test_answers_are_told_and_raise_the_first_unanswered(commands):
    first, second = add(commands, b"a", b"b")
    commands.take_unsent(1)
    assert commands.answered(1, [outcome(Status.OK, b"A")])
    assert await first == b"A"
    assert not second.done()
    assert commands.first_unanswered == 2


async def test_everything_unanswered_is_sent_again_from_the_first(commands):
    add(commands, b"a", b"b", b"c")
    commands.take_unsent(1)
    commands.answered(1, [outcome(Status.OK)])
    commands.send_again()
    assert commands.take_unsent(2) == Submit(2, 7, 2, 2, [b"b", b"c"])


@pytest.mark.parametrize("status", [Status.SEQUENCE_GAP, Status.TOO_MANY_UNANSWERED])
async def test_what_was_not_taken_has_to_be_sent_again(commands, status):
    (future,) = add(commands, b"a")
    commands.take_unsent(1)
    assert not commands.answered(1, [outcome(status)])
    assert not future.done()
    commands.send_again()
    assert commands.take_unsent(2) == Submit(2, 7, 1, 1, [b"a"])


@pytest.mark.parametrize("status", [Status.SESSION_EXPIRED, Status.SESSION_UNKNOWN])
async def test_a_lost_session_is_told_to_all_and_numbers_begin_anew(commands, status):
    futures = add(commands, b"a", b"b")
    commands.take_unsent(1)
    with pytest.raises(SessionLost):
        commands.answered(1, [outcome(status)])
    for future in futures:
        with pytest.raises(SessionLost, match="look at the state"):
            await future
    assert commands.session == 0
    commands.session = 8
    add(commands, b"c")
    assert commands.take_unsent(2) == Submit(2, 8, 1, 1, [b"c"])


async def test_a_command_that_makes_no_sense_is_refused_alone(commands):
    first, second = add(commands, b"a", b"b")
    commands.take_unsent(1)
    assert commands.answered(1, [outcome(Status.BAD_REQUEST), outcome(Status.OK, b"B")])
    with pytest.raises(RequestRefused):
        await first
    assert await second == b"B"


async def test_a_command_whose_caller_gave_up_keeps_its_number(commands):
    late, other = [
        *add(commands, b"a", deadline_s=1.0),
        *add(commands, b"b", deadline_s=9.0),
    ]
    commands.give_up_late(2.0)
    with pytest.raises(GroupUnreachable, match="may still take effect"):
        await late
    assert not other.done()
    assert commands.take_unsent(1) == Submit(1, 7, 1, 1, [b"a", b"b"])
    assert commands.answered(1, [outcome(Status.OK), outcome(Status.OK, b"B")])
    assert await other == b"B"
    assert commands.is_idle


async def test_commands_beyond_the_window_wait_for_answers(commands):
    count = MAX_UNANSWERED_COMMANDS
    futures = add(commands, *[b"%d" % number for number in range(count)])
    sent = commands.take_unsent(1)
    window = len(sent.commands)
    assert window < count
    assert not commands.has_unsent
    commands.answered(1, [outcome(Status.OK, b"r")] * window)
    assert commands.has_unsent
    assert commands.take_unsent(2).first_sequence == window + 1
    assert futures[window - 1].done()
    assert not futures[window].done()
