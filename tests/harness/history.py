"""Clients of a group that note what they ask and are told, in the form the checkers read.

A client whose operation got no answer leaves it open, as one that may take effect at any time, and
goes on under another name, because a process of a history does one thing at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Self

from harness.meta_group import HOST, READY_S
from onceflow.cli.meta_asking import REQUEST_ID, Asker
from onceflow.cli.meta_asking import _Refused as MemberRefused
from onceflow.cli.meta_options import Connection
from onceflow_consensus.client import ClientOptions, GroupClient
from onceflow_consensus.errors import GroupUnreachable, SessionLost
from onceflow_consensus.kv import (
    CompareValue,
    Found,
    Get,
    Put,
    Written,
    decode_response,
    encode_command,
    encode_query,
)
from onceflow_consensus.testing.history import parse_history
from onceflow_consensus.testing.linearizability import check_linearizability
from onceflow_consensus.transport.addresses import parse_address
from onceflow_consensus.transport.requests import Consistency, Read

if TYPE_CHECKING:
    from pathlib import Path

    from harness.meta_group import MetaGroup

KEYS = 3
ANSWER_S = 4.0
PAUSE_S = 0.004
PINNED_S = 4.0
PINNED_PAUSE_S = 0.03

_RUNS = itertools.count(1)


class Recorder:
    """Runs clients against a group while a test does harm to it, and judges what they saw."""

    def __init__(self, group: MetaGroup, seed: int, clients: int = 5) -> None:
        self.lines: list[dict] = []
        self.done = 0
        self.pinned = 0
        self._wanted = 0
        self._reached = asyncio.Event()
        self._group = group
        self._seed = seed
        self._clients = clients
        self._values = itertools.count(1)
        self._processes = itertools.count(1)
        # Of its own: the checker takes keys as unwritten in the beginning.
        self._keys = [f"{next(_RUNS)}-{number}" for number in range(KEYS)]
        self._is_over = False
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            *(asyncio.create_task(self._run(each)) for each in range(self._clients)),
            *(asyncio.create_task(self._read_at(member)) for member in self._group.ids),
        ]
        return self

    async def __aexit__(self, kind, error, trace) -> None:
        self._is_over = True
        results = await asyncio.gather(*self._tasks, return_exceptions=kind is not None)
        assert kind is not None or results == [None] * len(self._tasks)

    async def wait_more(self, count: int, timeout_s: float = READY_S) -> None:
        """Wait until as many further operations have succeeded."""
        self._wanted = self.done + count
        self._reached.clear()
        async with asyncio.timeout(timeout_s):
            await self._reached.wait()

    async def _run(self, number: int) -> None:
        chance = random.Random(self._seed * 1_000 + number)
        addresses = [parse_address(each) for each in self._group.endpoints.split(",")]
        chance.shuffle(addresses)
        options = ClientOptions("onceflow", addresses, timeout_s=ANSWER_S)
        process = next(self._processes)
        async with GroupClient(options) as client:
            seen = dict.fromkeys(self._keys)
            while not self._is_over:
                key = chance.choice(self._keys)
                op = chance.choice(("read", "read", "write", "cas"))
                value = None if op == "read" else next(self._values)
                told = [seen[key], value] if op == "cas" else value
                self._note(process, "invoke", op, key, told)
                try:
                    ended, result = await self._carry_out(client, op, key, told)
                except (GroupUnreachable, SessionLost):
                    self._note(process, "info", op, key, told)
                    process = next(self._processes)
                    continue
                self._note(process, ended, op, key, result)
                if ended == "ok":
                    self._count()
                    seen[key] = result[1] if op == "cas" else result
                await asyncio.sleep(chance.random() * PAUSE_S)

    async def _read_at(self, member: int) -> None:
        """Read at one member only, whoever leads: also one that was frozen or is cut off."""
        chance = random.Random(self._seed * 1_000 + 900 + member)
        process = next(self._processes)
        asker = Asker(Connection(endpoints=f"{HOST}:{self._group.client_ports[member]}"))
        (address,) = asker._addresses
        while not self._is_over:
            key = chance.choice(self._keys)
            request = Read(REQUEST_ID, Consistency.LINEARIZABLE, [encode_query(Get(key.encode()))])
            self._note(process, "invoke", "read", key, None)
            try:
                async with (
                    asyncio.timeout(PINNED_S),
                    aclosing(asker._answers(address, request)) as told,
                ):
                    found = decode_response((await anext(told)).results[0])
            except (OSError, MemberRefused, StopAsyncIteration):
                self._note(process, "fail", "read", key, None)
            else:
                value = json.loads(found.value) if found.version else None
                self._note(process, "ok", "read", key, value)
                self.pinned += 1
            await asyncio.sleep(chance.random() * PINNED_PAUSE_S)

    def _count(self) -> None:
        self.done += 1
        if self.done >= self._wanted:
            self._reached.set()

    async def _carry_out(self, client: GroupClient, op: str, key: str, told) -> tuple[str, object]:
        if op == "read":
            answer = decode_response(await client.query(encode_query(Get(key.encode()))))
            assert isinstance(answer, Found)
            return "ok", json.loads(answer.value) if answer.version else None
        if op == "write":
            command = Put(key.encode(), json.dumps(told).encode())
        else:
            expected, value = told
            before = None if expected is None else json.dumps(expected).encode()
            command = CompareValue(key.encode(), before, json.dumps(value).encode())
        response = decode_response(await client.submit(encode_command(command)))
        return ("ok" if isinstance(response, Written) else "fail"), told

    def _note(self, process: int, kind: str, op: str, key: str, value: object) -> None:
        self.lines.append(
            {
                "process": process, "type": kind, "op": op, "key": key, "value": value,
                "time": time.monotonic(),
            }
        )  # fmt: skip

    def judge(self, file: Path) -> None:
        """Fail with a counterexample unless what was seen is linearizable."""
        text = "\n".join(json.dumps(line) for line in self.lines)
        file.write_text(text)
        wrong = check_linearizability(parse_history(text))
        assert not wrong, "not linearizable:\n" + "\n".join(each.text() for each in wrong)
