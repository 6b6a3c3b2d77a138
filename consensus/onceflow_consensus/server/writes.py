"""Between the engine's loop and the writer's thread: what to deliver once a write is durable.

Theory of operation: requests go to the writer in order and come back in order, so that the head of
``_under_way`` belongs to the next request that comes back. Promises that rest on no write of their
own wait for the last one under way, because they rest on everything before them.

A small write is made where the loop runs if no other is under way: handing it to a thread and back
takes about as long as the sync itself. The loop stands still meanwhile, as the member would have to
wait anyway; when the disk is slow, the thread gets everything for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.limits import DISTRUST_MS, QUICK_WRITE_BYTES, SLOW_WRITE_MS
from onceflow_consensus.raft.messages import payload_bytes
from onceflow_consensus.storage.writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.errors import StorageFailed
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest

    Then = Callable[[], None] | None


_AVERAGED = 8
"""Writes that the average reaches back to, about."""

_ON_TRIAL_S = 0.9 * SLOW_WRITE_MS / 1000
"""Average that a distrusted disk begins with again: one or two slow writes more, and the thread has
them for another while, whereas a few quick ones clear it."""


@dataclass(slots=True)
class _UnderWay:
    submitted_s: float
    promises: list[PeerMessage]
    then: Then


class WriteQueue:
    """Writes of a replica that are under way.

    on_durable: gets the messages whose writes are durable, in order. run: runs what hands over the
    writes of one sync.
    on_failed: gets the error of the disk, once; the member stops.
    """

    def __init__(
        self,
        log: DurableLog,
        on_durable: Callable[[tuple[PeerMessage, ...]], None],
        run: Callable[[Callable[[], None]], None],
        on_failed: Callable[[StorageFailed], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._on_durable = on_durable
        self._under_way: deque[_UnderWay] = deque()
        self._average_s = 0.0
        self._distrust_until_s = 0.0
        self.writes_count = 0
        self.syncs_count = 0
        call = self._loop.call_soon_threadsafe

        def written(batch: list[WriteRequest]) -> None:
            call(run, partial(self._written, batch))

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
        self, request: WriteRequest, promises: tuple[PeerMessage, ...], then: Then = None
    ) -> None:
        """Write a request; deliver ``promises`` when it is durable, then call ``then``.

        Raises:
            StorageFailed: the disk failed; the member is about to stop.
        """
        self.writes_count += 1
        if not self._under_way and self._is_quick(request):
            self._write_here(request, promises)
            return
        self._under_way.append(_UnderWay(self._loop.time(), [*promises], then))
        self._writer.submit(request)

    def _is_quick(self, request: WriteRequest) -> bool:
        """Whether writing here is likely to cost less than handing over to the writer's thread."""
        is_plain = request.raft_snapshot is None and request.own_snapshot is None
        return (
            is_plain
            and payload_bytes(request.entries) <= QUICK_WRITE_BYTES
            and self._loop.time() >= self._distrust_until_s
        )

    def _write_here(self, request: WriteRequest, promises: tuple[PeerMessage, ...]) -> None:
        # Nothing is under way, so that the writer's thread does not use the log.
        begin_s = self._loop.time()
        self._log.persist([request])
        end_s = self._loop.time()
        # One pause says little, so that it counts for no more than four times the bound.
        taken_s = min(end_s - begin_s, 4 * SLOW_WRITE_MS / 1000)
        self._average_s += (taken_s - self._average_s) / _AVERAGED
        if self._average_s > SLOW_WRITE_MS / 1000:
            self._average_s = _ON_TRIAL_S
            self._distrust_until_s = end_s + DISTRUST_MS / 1000
        self.syncs_count += 1
        self._log.taken(request)
        self._on_durable(promises)

    def deliver_in_order(self, promises: tuple[PeerMessage, ...]) -> None:
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
