"""Between the engine's loop and the writer's thread: what to deliver once a write is durable.

Theory of operation: requests go to the writer in order and come back in order, so that the head of
``_under_way`` belongs to the next request that comes back. Promises that rest on no write of their
own wait for the last one under way, because they rest on everything before them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.storage.writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.errors import StorageFailed
    from onceflow_consensus.raft.messages import Message
    from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest

    Then = Callable[[], None] | None


@dataclass(slots=True)
class _UnderWay:
    submitted_s: float
    promises: list[Message]
    then: Then


class WriteQueue:
    """Writes of a replica that are under way.

    on_durable: gets the messages whose writes are durable, in order.
    on_failed: gets the error of the disk, once; the member stops.
    """

    def __init__(
        self,
        log: DurableLog,
        on_durable: Callable[[tuple[Message, ...]], None],
        on_failed: Callable[[StorageFailed], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._on_durable = on_durable
        self._under_way: deque[_UnderWay] = deque()
        self.writes_count = 0
        self.syncs_count = 0
        call = self._loop.call_soon_threadsafe

        def written(batch: list[WriteRequest]) -> None:
            call(self._written, batch)

        def failed(failure: StorageFailed) -> None:
            call(on_failed, failure)

        self._writer = LogWriter(log, written, failed)

    @property
    def oldest_wait_s(self) -> float:
        """Return how long the oldest write has been under way; zero if there is none."""
        if not self._under_way:
            return 0.0
        return self._loop.time() - self._under_way[0].submitted_s

    def submit(
        self, request: WriteRequest, promises: tuple[Message, ...], then: Then = None
    ) -> None:
        """Write a request; deliver ``promises`` when it is durable, then call ``then``.

        Raises:
            StorageFailed: the disk failed before; the member is about to stop.
        """
        self.writes_count += 1
        self._under_way.append(_UnderWay(self._loop.time(), [*promises], then))
        self._writer.submit(request)

    def deliver_in_order(self, promises: tuple[Message, ...]) -> None:
        """Deliver promises that need no write of their own, after all that are under way."""
        if self._under_way:
            self._under_way[-1].promises.extend(promises)
        else:
            self._on_durable(promises)

    def _written(self, batch: list[WriteRequest]) -> None:
        self.syncs_count += 1
        for request in batch:
            item = self._under_way.popleft()
            self._log.taken(request)
            if item.then is not None:
                item.then()
            self._on_durable(tuple(item.promises))

    async def close(self) -> None:
        """Write what is under way and mark the log as closed in order.

        Raises:
            StorageFailed: the disk did not finish.
        """
        await asyncio.to_thread(self._writer.close)
