"""A network between members that a test can cut, each direction of each pair by itself.

Every member is reached at a *door*, a port that passes bytes on to it. Who connects says in the
first frame who it is, so that all members know each other by the same addresses, as in production,
and each still has a link of its own to each other one. A cut link closes its connections and
refuses further ones until it is mended; a *silent* one keeps them open and passes nothing on, as a
network does that loses every packet.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.limits import MAX_FRAME_BYTES
from onceflow_consensus.transport.frames import FrameReader
from onceflow_consensus.transport.requests import decode_hello

STRANGER = 0
"""Who could not be understood, as with TLS."""

_READ_BYTES = 256 * 1024
_CLOSE_S = 0.01


class LinkState(Enum):
    """What a link does with bytes."""

    WHOLE = "passes them on"
    CUT = "closes connections"
    SILENT = "keeps connections open and passes nothing on"


@dataclass(eq=False)
class Link:
    """One direction of dialling between two members."""

    state: LinkState = LinkState.WHOLE
    tasks: set[asyncio.Task] = field(default_factory=set)
    speaking: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.speaking.set()

    def become(self, state: LinkState) -> None:
        self.state = state
        if state is LinkState.SILENT:
            self.speaking.clear()
            return
        self.speaking.set()
        if state is LinkState.CUT:
            for task in self.tasks:
                task.cancel()


class Door:
    """The port at which a member is reached, and the links of those who come in."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._links: dict[int, Link] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()

    async def open(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def link(self, sender: int) -> Link:
        return self._links.setdefault(sender, Link())

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        link = None
        try:
            first = await reader.read(_READ_BYTES)
            link = self.link(_sender_of(first))
            link.tasks.add(task)
            if first and link.state is not LinkState.CUT:
                await self._pass_on(link, first, reader, writer)
        except (asyncio.CancelledError, OSError):
            pass  # the link was cut, or the member was killed
        finally:
            self._tasks.discard(task)
            if link is not None:
                link.tasks.discard(task)
            writer.transport.abort()

    async def _pass_on(self, link: Link, first: bytes, reader, writer) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            return
        try:
            await link.speaking.wait()
            far_writer.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(link, reader, far_writer))
                group.create_task(_copy(link, far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        # Whoever was accepted in this very moment has no task yet.
        await asyncio.sleep(_CLOSE_S)
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(_CLOSE_S)  # sockets are closed in the turns after
        await self._server.wait_closed()


async def _copy(link: Link, source, sink) -> None:
    with suppress(OSError):
        while data := await source.read(_READ_BYTES):
            await link.speaking.wait()
            sink.write(data)
            await sink.drain()
    sink.close()


def _sender_of(first: bytes) -> int:
    try:
        bodies = FrameReader(MAX_FRAME_BYTES).feed(first)
        return decode_hello(bodies[0]).sender if bodies else STRANGER
    except FrameRefused:
        return STRANGER
