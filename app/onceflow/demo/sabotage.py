"""Ways to break a run on purpose, because a verdict that cannot fail means nothing.

Dropped and doubled records are what an application sees whose offsets and effects do not commit
together: ``app`` of this module is the ordinary application with such records. A stale row is what
a worker leaves that was taken for dead and goes on writing.
"""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from onceflow.demo.names import changelog
from onceflow.demo.reading import committed_runs
from onceflow.kafka.plain import PlainProducer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from onceflow.ids import Partition
    from onceflow.kafka.configuration import ClientConfig

VARIABLE = "ONCEFLOW_DEMO_BREAK"
"""Environment variable that tells a worker's process how to break the run."""

_EVERY = 1_000
"""One flight in so many is dropped or doubled: few, since few are what is hard to notice."""

_STALE_ROWS = 3


class Breakage(StrEnum):
    """How a run is broken."""

    DROP = "drop"
    DOUBLE = "double"
    STALE = "stale"


_COPIES = {Breakage.DROP: 0, Breakage.DOUBLE: 2}
"""How often an affected flight reaches the application."""


def break_agent(agent: Any, breakage: Breakage) -> None:
    """Let an agent of flights see some of them too rarely or too often."""
    copies = _COPIES[breakage]
    work = cast("Callable[[Any], AsyncIterator[Any]]", agent.fun)

    async def broken(flights: Any) -> AsyncIterator[Any]:
        async for row in work(_altered(flights, copies)):
            yield row

    agent.fun = broken


async def _altered(flights: Any, copies: int) -> AsyncIterator[Any]:
    async for flight in flights:
        for _ in range(copies if flight.id % _EVERY == 0 else 1):
            yield flight


async def write_stale_rows(config: ClientConfig) -> int:
    """Write old values of some aircraft again, as a worker would that nobody fenced.

    Returns:
        How many rows are stale now.
    """
    loop = asyncio.get_running_loop()
    stale = await loop.run_in_executor(None, _older_rows, config)
    producer = PlainProducer(config, loop)
    try:
        for (partition, key), value in stale.items():
            await producer.send(partition.topic, value, key, partition.number)
    finally:
        await producer.stop()
    return len(stale)


def _older_rows(config: ClientConfig) -> dict[tuple[Partition, bytes], bytes]:
    first: dict[tuple[Partition, bytes], bytes] = {}
    last: dict[tuple[Partition, bytes], bytes] = {}
    for run in committed_runs(config, changelog("aircraft")):
        for key, value in zip(run.keys, run.values, strict=True):
            if key is not None and value is not None:
                first.setdefault((run.partition, key), value)
                last[run.partition, key] = value
    changed = [place for place, value in last.items() if first[place] != value]
    return {place: first[place] for place in changed[:_STALE_ROWS]}


def __getattr__(name: str) -> Any:
    """The broken application, made when a worker asks for ``app``."""
    if name != "app":
        raise AttributeError(name)
    ordinary: Any = import_module("onceflow.demo.app")
    breakage = Breakage(os.environ[VARIABLE])
    for agent in (ordinary.delays_per_hour, ordinary.delays_by_weather):
        break_agent(agent, breakage)
    globals()["app"] = ordinary.app
    return ordinary.app
