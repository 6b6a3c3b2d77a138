"""A network between processes that a test can cut: one listening port for each direction of a pair.

Process A reaches B at the port of the link (A, B), which passes bytes on to B. A cut link closes
its connections and refuses further ones until it is mended; a *silent* one keeps connections open
and passes nothing on, as a network does that loses every packet.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Self


class LinkState(Enum):
    """What a link does with bytes."""

    WHOLE = "passes them on"
    CUT = "closes connections"
    SILENT = "keeps connections open and passes nothing on"


@dataclass(eq=False)
class Link:
    """One direction of dialling: who connects to ``port`` reaches ``target_port``."""

    target_port: int
    port: int = 0
    state: LinkState = LinkState.WHOLE
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task] = field(default_factory=set)
    _speaking: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> Self:
        self._speaking.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def become(self, state: LinkState) -> None:
        self.state = state
        if state is LinkState.SILENT:
            self._speaking.clear()
            return
        self._speaking.set()
        if state is LinkState.CUT:
            for task in self._tasks:
                task.cancel()

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            if self.state is not LinkState.CUT:
                await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # the link was cut
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader, writer) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, far_writer))
                group.create_task(self._copy(far_reader, writer))
        finally:
            far_writer.close()

    async def _copy(self, source, sink) -> None:
        with suppress(OSError):
            while data := await source.read(256 * 1024):
                await self._speaking.wait()
                sink.write(data)
                await sink.drain()
        sink.close()

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
