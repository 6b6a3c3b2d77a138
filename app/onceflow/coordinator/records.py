"""What a worker tells the group of its epochs, without ever waiting for it.

Theory of operation: every method notes something in a bounded backlog and returns. A task of the
event loop tells the group what waits, in batches, and tells it again until the group has answered;
after a failure it connects anew. The offsets and the worker's lease are told now and then. Nothing
here raises into an epoch: what cannot be told is counted, logged, and given up when there is no
room left, the least important first.

Only a participant that cannot list its branches needs the record before a decision; for it there is
``recorded``, which waits.

Rules of this file: all methods are called on one event loop. Must never import the engine.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow.coordinator.backlog import Backlog
from onceflow.coordinator.client import CoordinatorClient, RecordDeclines
from onceflow.coordinator.vocabulary import (
    EVERY_EPOCH,
    Aborted,
    Begun,
    Committed,
    Ended,
    Heuristic,
    Leased,
    Left,
    Outcome,
    Prepared,
    Told,
)
from onceflow.errors import OnceflowError, Unreachable
from onceflow.limits import (
    COORDINATOR_LEASE_MS,
    COORDINATOR_OFFSETS_S,
    COORDINATOR_PAUSE_S,
    COORDINATOR_PAUSE_S_MAX,
    COORDINATOR_TEXT_BYTES_MAX,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onceflow.coordinator.transactions import Step
    from onceflow.coordinator.vocabulary import Change, Finding, NamedBranch, TopicPartitions
    from onceflow.ids import BranchId, CommitEpoch, Incarnation, Offset, Partition
    from onceflow.observe.metrics import WorkerMetrics
    from onceflow_consensus.client import ClientOptions

log = get_logger(__name__)

_RECORDED = frozenset({Outcome.APPLIED, Outcome.ALREADY})

_SHOWN = 300
"""Characters of a change in a line of the log."""

Receipt = asyncio.Future[bool]
"""Whether a change was recorded, once that is known."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Who tells: the application's scope and name, and the process."""

    scope: str
    app: str
    incarnation: Incarnation
    worker: str = ""


class Records:
    """What one worker tells the group.

    Attributes:
        is_connected: whether the group answered what it was told last.
        refused: changes that the group did not take, because a bound is reached or because the
            opposite decision stands recorded.
    """

    def __init__(
        self,
        options: ClientOptions,
        teller: Teller,
        *,
        metrics: WorkerMetrics,
        clock_ms: Callable[[], int],
    ) -> None:
        """Begin to note; ``start`` begins to tell.

        Args:
            options: how the group is reached. ``timeout_s`` bounds each try.
            teller: who tells.
            metrics: shows what waits and what was given up.
            clock_ms: Unix time in milliseconds, which people are shown.
        """
        self.is_connected = False
        self.refused = 0
        self._options = options
        self._teller = teller
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._backlog = Backlog()
        self._receipts: dict[int, Receipt] = {}
        self._wake = asyncio.Event()
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_leaving = False
        self._was_failing = False
        self._offsets_due_s = 0.0
        self._lease_due_s = 0.0

    @property
    def waiting(self) -> int:
        """Changes that the group was not told yet."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Changes that the group will never be told."""
        return self._backlog.dropped

    def start(self) -> None:
        """Begin to tell the group what was noted and will be."""
        self._task = asyncio.create_task(self._run(), name="coordinator-records")

    async def stop(self, bound_s: float) -> None:
        """Tell what still waits and that this worker left, for ``bound_s`` at most."""
        self._is_leaving = True
        self._wake.set()
        task, self._task = self._task, None
        if task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                await asyncio.shield(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def flush(self, bound_s: float) -> None:
        """Wait until what was noted is told, for ``bound_s`` at most.

        For what a process notes just before it ends at once.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                while self._backlog:
                    self._told.clear()
                    await self._told.wait()

    def begun(
        self, branch: BranchId, partitions: Iterable[Partition], participants: Iterable[str]
    ) -> None:
        """Note that an epoch is about to be prepared."""
        self._add(Begun(*branch, _by_topic(partitions), [*participants]))

    def prepared(
        self,
        branch: BranchId,
        partitions: Iterable[Partition],
        branches: Iterable[NamedBranch],
        marker: str,
    ) -> Receipt:
        """Note that every participant has prepared; return what ``recorded`` waits for."""
        number = self._add(Prepared(*branch, _by_topic(partitions), [*branches], marker))
        return self._receipts.setdefault(number, asyncio.get_running_loop().create_future())

    def committed(self, branch: BranchId, marker: str = "") -> None:
        """Note that Kafka committed an epoch, our own or one that was resolved."""
        self._add(Committed(*branch, marker, self._teller.incarnation))

    def aborted(self, branch: BranchId) -> None:
        """Note that an epoch is not committed and cannot be any more."""
        self._add(Aborted(*branch, self._teller.incarnation))

    def ended(self, branch: BranchId) -> None:
        """Note that no branch of an epoch is left, nor of an earlier one of its incarnation."""
        self._add(Ended(*branch))

    def settled(self, last: BranchId) -> None:
        """Note that an incarnation is fenced and has no branch left, of whatever epoch.

        Args:
            last: its last epoch with participants that Kafka committed; 0 for none.
        """
        if last.commit_epoch:
            self.committed(last)
        self._add(Ended(last.incarnation, EVERY_EPOCH))

    def heuristic(self, branch: BranchId, participant: str, finding: Finding, detail: str) -> None:
        """Note a heuristic outcome; it is recorded for ever."""
        text = detail.encode()[: COORDINATOR_TEXT_BYTES_MAX // 2].decode(errors="ignore")
        by = self._teller.incarnation
        self._add(Heuristic(*branch, participant, finding, text, by))

    def offsets(
        self, commit_epoch: CommitEpoch, marker: str, offsets: Mapping[Partition, Offset]
    ) -> None:
        """Note what an epoch committed; told about once a second, for people."""
        self._backlog.move(self._teller.incarnation, commit_epoch, marker, offsets)

    async def recorded(self, receipt: Receipt, timeout_s: float) -> None:
        """Wait until a majority of the group has recorded what ``prepared`` noted.

        Raises:
            Unreachable: not within ``timeout_s``, or it never will be.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if await asyncio.shield(receipt):
                    return
        raise Unreachable(
            f"The coordinator did not record within {timeout_s:g} s that an epoch is prepared. "
            "Nothing is decided. Check that more than half of the group's members run."
        )

    def _add(self, change: Step | Heuristic) -> int:
        number, dropped = self._backlog.add(change)
        if dropped is not None:
            self._metrics.coordinator_lost()
            self._settle(dropped, is_recorded=False)
        self._wake.set()
        return number

    def _settle(self, number: int, *, is_recorded: bool) -> None:
        receipt = self._receipts.pop(number, None)
        if receipt is not None and not receipt.done():
            receipt.set_result(is_recorded)

    async def _run(self) -> None:
        """Connect again and again, until everything is told and the worker leaves."""
        pause_s = COORDINATOR_PAUSE_S
        while True:
            try:
                async with CoordinatorClient(self._options) as client:
                    await self._tell_all(client)
            except OnceflowError as error:
                pause_s = COORDINATOR_PAUSE_S if self.is_connected else 2 * pause_s
                self._failed(error)
                await asyncio.sleep(min(pause_s, COORDINATOR_PAUSE_S_MAX))
            else:
                return

    async def _tell_all(self, client: CoordinatorClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now_s = loop.time()
            if now_s >= self._lease_due_s:
                await self._tell_lease(client)
                self._lease_due_s = now_s + COORDINATOR_LEASE_MS / 3000
            while changes := self._backlog.take():
                await self._tell_changes(client, changes)
            if self._backlog.has_offsets and (now_s >= self._offsets_due_s or self._is_leaving):
                self._offsets_due_s = now_s + COORDINATOR_OFFSETS_S
                await self._tell_offsets(client)
            if self._is_leaving and not self._backlog:
                await self._tell(client, [Left(self._teller.incarnation)])
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s(loop.time())):
                    await self._wake.wait()

    def _rest_s(self, now_s: float) -> float:
        """How long to sleep if nothing is noted meanwhile."""
        due_s = self._lease_due_s
        if self._backlog.has_offsets:
            due_s = min(due_s, self._offsets_due_s)
        return max(0.0, due_s - now_s)

    async def _tell(self, client: CoordinatorClient, changes: list[Change]) -> list[Outcome]:
        teller = self._teller
        told = Told(teller.scope, teller.app, self._clock_ms(), changes)
        outcomes = await client.tell(told)
        if not self.is_connected:
            self.is_connected = True
            log.info(LogEvent.COORDINATOR_CONNECTED, waiting=self.waiting, dropped=self.dropped)
        self._metrics.coordinator_told(self.waiting, is_connected=True)
        return outcomes

    async def _tell_lease(self, client: CoordinatorClient) -> None:
        teller = self._teller
        lease = Leased(
            teller.incarnation,
            teller.worker,
            socket.gethostname(),
            os.getpid(),
            COORDINATOR_LEASE_MS,
        )
        await self._tell(client, [lease])

    async def _tell_offsets(self, client: CoordinatorClient) -> None:
        for change in self._backlog.take_offsets():
            try:
                await self._tell(client, [change])
            except RecordDeclines as error:
                self._refuse(change, str(error))
        self._backlog.offsets_told()

    async def _tell_changes(
        self, client: CoordinatorClient, changes: dict[int, Step | Heuristic]
    ) -> None:
        """Tell changes; those of a batch that is declined are told one by one."""
        try:
            outcomes = await self._tell(client, [*changes.values()])
        except RecordDeclines as error:
            if len(changes) > 1:
                for number, change in changes.items():
                    await self._tell_changes(client, {number: change})
                return
            for number, change in changes.items():
                self._refuse(change, str(error))
                self._backlog.done(number)
                self._settle(number, is_recorded=False)
            self._told.set()
            return
        for (number, change), outcome in zip(changes.items(), outcomes, strict=True):
            # A committed epoch that is forgotten has ended: who settles its owner cannot know that.
            is_over = outcome is Outcome.FORGOTTEN and isinstance(change, Committed)
            if outcome not in _RECORDED and not is_over:
                self._refuse(change, outcome.name.lower())
            self._backlog.done(number)
            self._settle(number, is_recorded=outcome in _RECORDED)
        self._told.set()
        self._metrics.coordinator_told(self.waiting, is_connected=True)

    def _refuse(self, change: Change, reason: str) -> None:
        self.refused += 1
        self._metrics.coordinator_lost()
        log.error(
            LogEvent.COORDINATOR_REFUSED,
            change=repr(change)[:_SHOWN],
            reason=reason,
            meaning="the record lacks it, or the opposite decision stands recorded and a person "
            "must look; what Kafka decided holds",
        )

    def _failed(self, error: OnceflowError) -> None:
        if self.is_connected or not self._was_failing:
            log.warning(
                LogEvent.COORDINATOR_UNREACHABLE,
                error=str(error),
                waiting=self.waiting,
                meaning="records are processed and committed without it; what happened meanwhile "
                "is told later, as far as there is room",
            )
        self.is_connected, self._was_failing = False, True
        self._metrics.coordinator_told(self.waiting, is_connected=False)


def _by_topic(partitions: Iterable[Partition]) -> list[TopicPartitions]:
    topics: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        topics.setdefault(topic, []).append(number)
    return [*topics.items()]
