"""Drives an app without a broker: feed topics, settle, read what was committed.

The app runs on the engine itself: streams, tables with their stores on disk, epochs, failures. Only
the clients of Kafka are replaced, by a log in memory that never fails. So this tests what an app
*computes*. It proves nothing about exactly-once on a broker: no process is killed here, nobody else
takes partitions over, no outcome is unknown, and one worker owns everything. It measures nothing.

Time is that of the records (windows close and expire by it) and the wall clock (timers, ``take``'s
``within``, bounds); there is no clock that could be advanced.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from onceflow.decisions import epoch_events as ev
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError, OnceflowError
from onceflow.testing.memory_clients import makers
from onceflow.testing.memory_log import Entry, MemoryLog
from onceflow.testing.memory_poll import MemoryPoll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from onceflow.ids import Partition
    from onceflow.testing.memory_log import Record

T = TypeVar("T")

SETTLE_S_MAX = 30.0
"""Default bound on `TopologyDriver.settle`: the first batch imports Arrow, which takes seconds on a
busy machine."""

_STEP_S = 0.001
_QUIET_S = 0.02
"""Without progress for so long, an epoch is ended although records are left: they may need it."""

_INTERVAL_MS = 3_600_000
"""Epochs end when the test says so, so that what is sent once per commit is always the same."""


class WorkerFailed(OnceflowError):  # noqa: N818 - named like the other errors
    """The worker would have ended its process, as for a record under ``on_error="stop"``."""


class TopologyDriver:
    """Runs one app; see the module for what that proves.

    Use it as an asynchronous context manager. An app can be driven once, because Faust's apps do
    not start again: make the app in a function and call that in each test.

    Args:
        app: any app of ours, `onceflow.App` or a Faust app with the broker ``onceflow://``.
        directory: an empty directory for the stores.
        settle_s: bound on `settle`.
    """

    def __init__(self, app: Any, directory: Path, *, settle_s: float = SETTLE_S_MAX) -> None:
        self._app = app
        self._directory = directory
        self._settle_s = settle_s
        self._log = MemoryLog()
        self._runtime = runtime_of(app)
        self._failure: WorkerFailed | None = None
        self._collecting = gc.get_threshold()

    # -- life --

    async def __aenter__(self) -> Self:
        """Start the worker; returns when it waits for records.

        Raises:
            ConfigError: the app was started before.
            WorkerFailed: a worker would not start with it either.
        """
        app, runtime = self._app, self._runtime
        if runtime.is_worker:
            raise ConfigError(
                f"The app {app.conf.id} was started before, and Faust's apps do not start again. "
                "Make the app in a function, and a new one in each test."
            )
        app.conf.datadir = self._directory
        app.conf.web_enabled = False
        app.conf.topic_allow_declare = True
        runtime.settings = runtime.settings.model_copy(
            update={"http": "off", "commit_interval_ms": _INTERVAL_MS}
        )
        runtime.clients.makers = makers(self._log)
        runtime.check_recorded = lambda _: None
        runtime.leave = self._left
        runtime.inflow.poll = cast("Any", MemoryPoll(self._log, runtime.inflow))
        async with AsyncExitStack() as failing:
            failing.push_async_callback(self._stop)
            app.finalize()
            await app.start()
            await self.settle()
            failing.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the worker as a signal would: what is drained is committed."""
        await self._stop()

    async def _stop(self) -> None:
        if self._failure is not None and self._runtime.is_worker:
            # A failed worker commits nothing more.
            self._runtime.epochs.stopped.set()
        await self._app.stop()
        # The worker tuned the collector of its process, which is the test's here.
        gc.unfreeze()
        gc.set_threshold(*self._collecting)

    def _left(self, error: BaseException, exit_code: int) -> None:
        """Keep the first error with which the worker would have left its process."""
        if self._failure is None:
            self._failure = WorkerFailed(f"The worker left with exit code {exit_code}: {error}")
            self._failure.exit_code = exit_code
            self._failure.__cause__ = error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- input --

    async def feed(
        self,
        topic: str,
        value: Any = None,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Add one record to a topic; `settle` waits for its effects.

        Args:
            topic: its name; a topic that nobody has named is made.
            value: bytes and None as they are; others are encoded as the app describes the topic.
            key: like the value. Records of one key stand in one partition.
            partition: None takes the key's, and one after the other without a key.
            timestamp: seconds since 1970 UTC; None is the present time.
            headers: names and values.
        """
        await self._runtime.declarations.ensure(topic)
        codecs = self._described(topic).codecs
        encoded_key = key if isinstance(key, bytes) else codecs.encode_key(key)
        encoded = value if isinstance(value, bytes) else codecs.encode_value(value)
        timestamp_ms = None if timestamp is None else round(timestamp * 1000)
        listed = None if headers is None else list(headers.items())
        entry = Entry(
            topic,
            None if key is None else encoded_key,
            None if value is None else encoded,
            partition,
            timestamp_ms,
            listed,
        )
        self._log.add([entry], {})

    async def feed_many(self, topic: str, rows: Iterable[tuple[Any, Any]]) -> None:
        """Add records, given as (key, value), in this order; as `feed`."""
        for key, value in rows:
            await self.feed(topic, value, key=key)

    def _described(self, name: str) -> Any:
        """Return the topic as its readers describe it, or as the app's settings do."""
        readers = (each for each in self._app.topics if name in each.topics)
        return next(readers, None) or self._app.topic(name)

    # -- progress --

    async def settle(self) -> None:
        """Return when every record in a subscribed topic is processed and committed.

        Records fed together are one epoch, unless a policy tries one alone; what they send to
        topics of the app is processed in the epochs that follow. A list that ``take`` has not
        filled is waited for as long as its ``within`` says.

        Raises:
            WorkerFailed: the worker would have left its process.
            TimeoutError: it took longer than the bound; the message names what was left.
        """
        try:
            async with asyncio.timeout(self._settle_s):
                while not self._is_settled():
                    await self._process()
                    await self._end_epoch()
        except TimeoutError as error:
            raise TimeoutError(self._left_over()) from error

    async def until(self, waited_for: Awaitable[T]) -> T:
        """Settle until something is done that needs commits, such as ``agent.ask(...)``.

        Returns:
            Its result.

        Raises:
            WorkerFailed, TimeoutError: as `settle`, and whatever it raises itself.
        """
        job = asyncio.ensure_future(waited_for)
        try:
            async with asyncio.timeout(self._settle_s):
                while not job.done():
                    await self.settle()
                    await asyncio.wait({job}, timeout=_QUIET_S)
        finally:
            job.cancel()
        return job.result()

    async def _process(self) -> None:
        """Wait until all records are processed, or nothing has moved for a while."""
        moved_s, before = time.monotonic(), self._places()
        while time.monotonic() < moved_s + _QUIET_S:
            await asyncio.sleep(_STEP_S)
            self._check()
            if self._runtime.epochs.is_open and not self._behind(self._processed_to()):
                return
            places = self._places()
            if places != before:
                moved_s, before = time.monotonic(), places

    async def _end_epoch(self) -> None:
        """Commit what is done, unless partitions are being taken over or an abort is under way."""
        epochs = self._runtime.epochs
        if epochs.is_open:
            epochs.post(ev.CommitDue(ev.CommitReason.INTERVAL))
            ended = asyncio.ensure_future(epochs.wait_settled())
            try:
                while not ended.done():
                    await asyncio.wait({ended}, timeout=_QUIET_S)
                    self._check()
            finally:
                ended.cancel()

    def _places(self) -> list[tuple[int, int, int]]:
        """Return where all readers stand; equal when nothing has moved."""
        return [(sum(c.done.values()), c.index, c.in_progress) for c in self._runtime.gate.cursors]

    def _processed_to(self) -> dict[Partition, int]:
        """Return per partition the position that all of its readers have reached."""
        inflow = self._runtime.inflow
        return {
            each: min((cursor.done.get(each, 0) for cursor in inflow.cursors(each)), default=0)
            for each in self._owned()
        }

    def _owned(self) -> frozenset[Partition]:
        poll = cast("MemoryPoll | None", self._runtime.inflow.poll)
        return frozenset() if poll is None else poll.owned

    def _behind(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the partitions that have records beyond these positions, and how many."""
        left = {each: self._log.end(each) - positions.get(each, 0) for each in self._owned()}
        return {each: records for each, records in left.items() if records > 0}

    def _is_settled(self) -> bool:
        runtime = self._runtime
        self._check()
        epochs, sender = runtime.epochs, runtime.sender
        committed = epochs.machine.committed_offsets
        return (
            self._owned() <= committed.keys()
            and (epochs.is_open or not self._owned())
            and not self._behind(committed)
            and not sender.waiting
            and not epochs.work.has_effects()
        )

    def _left_over(self) -> str:
        behind = self._behind(self._runtime.epochs.machine.committed_offsets)
        left = [f"{p.topic}[{p.number}]: {records}" for p, records in sorted(behind.items())]
        return (
            f"Not everything was processed and committed within {self._settle_s} s. Records left: "
            f"{', '.join(left) or 'none'}. Look for an agent that waits, a list that take() has "
            "not filled, or a record that is retried without end."
        )

    # -- output --

    def outputs(self, topic: str) -> list[Record]:
        """Return the committed records of a topic, partition by partition in their order."""
        return self._log.records(topic)

    def table(self, name: str) -> dict[Any, Any]:
        """Return the committed content of a table; a window's key is (key, (start, end)).

        Raises:
            ConfigError: the app has no such table.
        """
        tables = self._app.tables
        if name not in tables:
            known = ", ".join(sorted(tables)) or "none"
            raise ConfigError(f"The app has no table {name!r}. Its tables: {known}.")
        return dict(tables[name].items())
