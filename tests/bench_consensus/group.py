"""Our group of three processes on loopback, and its load through the public client.

The client runs in the benchmark's own process, which does nothing else meanwhile; its processor
time is reported apart.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from contextlib import contextmanager

from bench.places import RunFailed
from bench_consensus.measure import KEY, VALUE
from harness.consensus_group import ProcessGroup, get, put
from onceflow_consensus.kv import Found, Written, decode_response
from onceflow_consensus.transport.requests import Consistency, GetStatus

SETTLE_S = 30.0
LOOK_S = 0.02
LEADING = "StateLeader"


@contextmanager
def running(directory, engine):
    """Three members that serve; they are killed at the end."""
    group = ProcessGroup(directory, engine=engine)
    try:
        group.start(1, 2, 3)
        yield group
    finally:
        group.close()


async def status_of(client):
    """How a member sees itself and the group."""
    return json.loads((await client.ask(GetStatus)).body)


async def settle(group, client):
    """Wait until the leader's peers have all that it has; returns the leader's status."""
    deadline = time.monotonic() + SETTLE_S
    status = {}
    while time.monotonic() < deadline:
        if status.get("role") != LEADING:
            # Only the leader takes a command, so that the client is connected to it afterwards.
            await client.submit(put(b"settled", b""))
        status = await status_of(client)
        if status["role"] == LEADING and all(
            each["is_connected"] and each.get("match_index", 0) >= status["last_index"]
            for each in status["members"]
        ):
            return status
        await asyncio.sleep(LOOK_S)
    raise RunFailed(f"the group did not settle in {SETTLE_S:.0f} s: {status}")


async def write_count(client):
    """How many writes took effect so far, this one included."""
    response = decode_response(await client.submit(put(KEY, VALUE)))
    if not isinstance(response, Written):
        raise RunFailed(f"a write was answered with {response}")
    return response.version


class Acts:
    """What one caller does over and over; ``wrong`` counts answers that are not right.

    The calls go to the clients in turn.
    """

    def __init__(self, *clients):
        self._client = clients[0]
        self._clients = itertools.cycle(clients)
        self._put, self._get = put(KEY, VALUE), get(KEY)
        self.wrong = 0
        self._expected = b""

    async def expect(self):
        """Write the value that is read, and remember the right answer."""
        await write_count(self._client)
        self._expected = await self._client.query(self._get)
        found = decode_response(self._expected)
        if not isinstance(found, Found) or found.value != VALUE:
            raise RunFailed(f"what was written was not read: {found}")

    async def write(self):
        """Write 256 bytes."""
        await next(self._clients).submit(self._put)

    async def read(self):
        """Read them, linearizably."""
        self.wrong += await next(self._clients).query(self._get) != self._expected

    async def stale(self):
        """Read them from the member's state as it is."""
        answer = await next(self._clients).query(self._get, Consistency.STALE)
        self.wrong += answer != self._expected


async def write_keys(client, numbers, outstanding, acknowledged):
    """Write to each key of an iterable; those that were acknowledged are appended to a list."""
    waiting = iter(numbers)

    async def one_after_the_other():
        for number in waiting:
            await client.submit(put(key_of(number), VALUE))
            acknowledged.append(number)

    await asyncio.gather(*[one_after_the_other() for _ in range(outstanding)])


def key_of(number):
    """The key with a number, of 8 bytes."""
    return number.to_bytes(8, "big")


async def lost_of(client, numbers, consistency=Consistency.LINEARIZABLE):
    """How many of these keys cannot be read back."""
    numbers, lost = [*numbers], 0
    for begin in range(0, len(numbers), 1_000):
        questions = [get(key_of(number)) for number in numbers[begin : begin + 1_000]]
        answers = await asyncio.gather(*[client.query(each, consistency) for each in questions])
        found = [decode_response(answer) for answer in answers]
        lost += sum(not isinstance(each, Found) or each.value != VALUE for each in found)
    return lost
