"""Applies what outbox sinks have in Kafka to their targets, each message once.

One applier per sink and worker reads the outbox partitions whose number it owns, from where the
target's progress row says, and applies runs of messages together with that row. It may be late, be
killed, or run beside a successor that it knows nothing of: the row lets each message through once.
So nothing is remembered across a failure. The progress is read again, and compared with the log.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

from onceflow.decisions.crash_points import CrashPoint
from onceflow.decisions.outbox import OutboxLog, Progress, mismatch, parts_of
from onceflow.engine.outbox_refused import RefusedTeller
from onceflow.engine.outbox_watch import OutboxWatch
from onceflow.engine.tasks import wall_ms
from onceflow.errors import (
    DataAtRisk,
    OutcomeUnknown,
    ParticipantUnavailable,
    RowsRefused,
    Unreachable,
)
from onceflow.ids import Partition
from onceflow.kafka.changelog import LOG_START
from onceflow.kafka.threads import CallThread
from onceflow.limits import (
    ADMIN_S_MAX,
    OUTBOX_POLL_RECORDS,
    OUTBOX_POLL_S,
    PARTICIPANT_RETRY_S,
    PARTICIPANT_RETRY_S_MAX,
    PARTICIPANT_STOP_S,
    PREPARE_S_MAX,
    SEEKS_AGAIN_MAX,
    SINK_OPEN_S_MAX,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.sinks.outbox import OnRefused, OutboxRun, ProgressMoved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onceflow.engine.runtime import Runtime
    from onceflow.kafka.changelog import ChangelogReader
    from onceflow.kafka.records import Run
    from onceflow.sinks.gid import Scope
    from onceflow.sinks.outbox import OutboxSink

T = TypeVar("T")

log = get_logger(__name__)

_STUCK_FACTOR = 3
"""A call that takes so many times its bound does not come back, and the worker ends."""


class Applier:
    """What one worker does for one outbox sink.

    Fields:
        topic: its outbox topic.
        partition_count: of that topic.
        identity: of the target, and the key of every message that is meant for it.
        numbers: the partitions that are followed.
        progress: what the target has of each; None for nothing.
        read_to: per partition, up to where everything is applied, control records included.
        pending_ms: timestamp of the oldest message that is read and not applied; None without one.
    """

    def __init__(self, runtime: Runtime, sink: OutboxSink, topic: str) -> None:
        self.runtime = runtime
        self.sink = sink
        self.topic = topic
        self.partition_count = 0
        self.identity = b""
        self.numbers: frozenset[int] = frozenset()
        self.progress: dict[int, Progress | None] = {}
        self.read_to: dict[int, int] = {}
        self.pending_ms: int | None = None
        self.topic_id = ""
        self._source = ""
        self._reader: ChangelogReader | None = None
        self._thread = CallThread(f"onceflow-{sink.name}")
        self._refused = RefusedTeller(runtime, self)
        self._watch = OutboxWatch(runtime, self)
        self._tasks: list[asyncio.Task[None]] = []
        self._wait_s = PARTICIPANT_RETRY_S
        self._failing_since_s: float | None = None
        self._readings_failed = 0
        self._advanced = asyncio.Event()

    # -- life --

    async def open(self, scope: Scope) -> None:
        """Open the sink. Raises as `OutboxSink.open` does."""
        opened = self.call(self.sink.open, scope, bound_s=SINK_OPEN_S_MAX)
        self.identity = (await opened).encode()

    def follow(self, source: str, partition_count: int) -> None:
        """Apply the partitions with the numbers of those that are owned of topic ``source``."""
        self._source, self.partition_count = source, partition_count

    def start(self) -> None:
        """Begin to apply. Idempotent."""
        if not self._tasks:
            self._tasks = [
                asyncio.ensure_future(job) for job in (self._follow(), self._watch.run())
            ]
            for task in self._tasks:
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Leave if applying ended by itself: rows would wait for ever, and nobody would know."""
        if not task.cancelled():
            self.runtime.fail(task.exception())

    async def stop(self, bound_s: float) -> None:
        """Apply what is committed at this moment, within the bound, and close."""
        if self.numbers and not any(task.done() for task in self._tasks):
            with suppress(TimeoutError, Unreachable):
                await asyncio.wait_for(self._drained(), bound_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(OutcomeUnknown):
            await self._thread.run(self._close, timeout_s=PARTICIPANT_STOP_S)
        self._thread.stop()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self.sink.close()

    async def _drained(self) -> None:
        ends = await self.runtime.clients.admin.end_offsets(self.partitions)
        while any(self.read_to.get(p.number, 0) < end for p, end in ends.items()):
            self._advanced.clear()
            await self._advanced.wait()

    async def call(
        self, operation: Callable[..., T], *arguments: object, bound_s: float = PREPARE_S_MAX
    ) -> T:
        """Call the sink once; what it raises is raised.

        Raises:
            OutcomeUnknown: it did not come back at all; the worker must end.
        """
        return await self._thread.run(operation, *arguments, timeout_s=bound_s * _STUCK_FACTOR)

    # -- the loop --

    @property
    def partitions(self) -> list[Partition]:
        """The partitions that are followed."""
        return [Partition(self.topic, number) for number in sorted(self.numbers)]

    @property
    def failing_s(self) -> float:
        """For how long the target has not taken anything."""
        since_s = self._failing_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _owned(self) -> frozenset[int]:
        """Return the numbers of the partitions to apply; at the end those that were ours."""
        if self.runtime.is_stopping:
            return self.numbers
        claimed = self.runtime.epochs.machine.committed_offsets
        return frozenset(p.number for p in claimed if p.topic == self._source)

    async def _follow(self) -> None:
        """Loop root: apply on; who is away is waited for, with growing pauses and an alarm."""
        while True:
            try:
                await self._turn()
                continue
            except ProgressMoved as error:
                log.info(LogEvent.OUTBOX_MOVED, sink=self.sink.name, error=str(error))
            except ParticipantUnavailable as error:
                self._failed(error)
            except Unreachable as error:
                log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
            await self._drop_reader()
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * 2, PARTICIPANT_RETRY_S_MAX)

    def _failed(self, error: ParticipantUnavailable) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
        self.runtime.metrics.participant_failed(self.sink.name)
        log.error(
            LogEvent.PARTICIPANT_UNAVAILABLE,
            participant=self.sink.name,
            operation="apply",
            since_s=round(self.failing_s, 1),
            error=str(error),
            meaning="records are processed on, and their rows wait in Kafka; it is tried again "
            "until it answers",
        )

    async def _turn(self) -> None:
        numbers = self._owned()
        if numbers != self.numbers or (numbers and self._reader is None):
            await self._position(numbers)
        reader = self._reader
        if reader is None:
            await asyncio.sleep(OUTBOX_POLL_S)
            return
        await self._apply(self._collected(await self._read(reader)))
        self.pending_ms = None
        self._wait_s, self._failing_since_s = PARTICIPANT_RETRY_S, None
        for partition in self.partitions:
            self.read_to[partition.number] = reader.position(partition)
        self._advanced.set()
        await self._refused.tell()

    async def _read(self, reader: ChangelogReader) -> list[Run]:
        """Read on; a log that has not what comes next is compared with the progress first."""
        reading = self._thread.run(
            reader.poll, OUTBOX_POLL_RECORDS, OUTBOX_POLL_S, timeout_s=ADMIN_S_MAX
        )
        try:
            runs = await reading
        except DataAtRisk as error:
            # Another worker may have applied and deleted it meanwhile; the progress tells.
            self._readings_failed += 1
            if self._readings_failed > SEEKS_AGAIN_MAX:
                raise
            raise Unreachable(str(error)) from error
        self._readings_failed = 0
        return runs

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await self._thread.run(reader.close, timeout_s=ADMIN_S_MAX)

    # -- where to begin --

    async def _position(self, numbers: frozenset[int]) -> None:
        """Read from where the target's progress says.

        Raises:
            DataAtRisk: log and target do not belong together; exit 4.
            ParticipantUnavailable, Unreachable: try again.
        """
        await self._drop_reader()
        self.numbers, self.progress, self.read_to = numbers, {}, {}
        if not numbers:
            return
        found = await self.call(self.sink.progress)
        while (problem := await self._problem(found)) is not None:
            again = await self.call(self.sink.progress)
            if all(again.get(number) == found.get(number) for number in numbers):
                raise DataAtRisk(
                    f"The rows in {self.topic} cannot be applied to {self.sink.where}: {problem}. "
                    "Nothing more is applied; rows may be missing there, and would be applied "
                    "twice or not at all. Restore the target or the topic to a time at which they "
                    "fit, or give the sink a new name and fill its table anew."
                )
            # Another worker applied, and deleted what it had applied, between the questions.
            found = again
        positions = {
            Partition(self.topic, number): found[number].offset if number in found else LOG_START
            for number in numbers
        }
        reader = await self._thread.run(
            self.runtime.clients.open_reader, positions, timeout_s=ADMIN_S_MAX * _STUCK_FACTOR
        )
        self._reader = reader
        for partition, wanted in positions.items():
            if reader.position(partition) != max(wanted, 0):
                raise ProgressMoved(f"{self.topic} moved while it was opened; it is looked again.")
        self.progress = {number: found.get(number) for number in numbers}
        self.read_to = {number: at.offset if at else 0 for number, at in self.progress.items()}
        self._refused.look()

    async def _problem(self, found: object) -> str | None:
        """Return why the progress does not fit the log."""
        progress = cast("dict[int, Progress]", found)
        admin = self.runtime.clients.admin
        topic = (await admin.topics([self.topic])).get(self.topic)
        if topic is None or topic.topic_id != (self.topic_id or topic.topic_id):
            return "the topic was deleted while the worker runs"
        self.topic_id = topic.topic_id
        for partition, mark in (await admin.watermarks(self.partitions)).items():
            at = progress.get(partition.number)
            problem = mismatch(at, OutboxLog(topic.topic_id, mark.low, mark.high))
            if problem is not None:
                return f"in partition {partition.number} {problem}"
        return None

    # -- applying --

    def _collected(self, runs: list[Run]) -> list[OutboxRun]:
        """Join what was read into one run per partition.

        Raises:
            DataAtRisk: a message was meant for another target.
        """
        joined: dict[int, tuple[list[int], list[bytes]]] = {}
        for run in runs:
            offsets, messages = joined.setdefault(run.number, ([], []))
            if any(key != self.identity for key in run.keys) or None in run.values:
                raise DataAtRisk(
                    f"{self.topic}[{run.number}] has rows from offset {run.offsets[0]} that a "
                    f"worker made for another target than {self.sink.where}. Nothing of them was "
                    "applied. All workers must write into the same target: a SQLite file belongs "
                    "to one host; and a target that replaces another one must be a copy of it."
                )
            offsets += run.offsets
            messages += cast("list[bytes]", run.values)
            oldest_ms = self.pending_ms
            first_ms = run.timestamps[0]
            self.pending_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
        collected: list[OutboxRun] = []
        for number, (offsets, messages) in joined.items():
            at = self.progress[number]
            expected = None if at is None else at.offset
            collected.append(
                OutboxRun(number, self.topic_id, expected, offsets[-1] + 1, offsets, messages)
            )
        return collected

    async def _apply(self, runs: list[OutboxRun]) -> None:
        """Apply runs of several partitions together, or one by one if a row is refused."""
        if not runs:
            return
        try:
            await self._apply_together(runs)
        except RowsRefused:
            await self._apply_apart(runs)

    async def _apply_apart(self, runs: Iterable[OutboxRun]) -> None:
        """Apply all but the messages that are refused; those are kept aside.

        Raises:
            RowsRefused: the sink's policy is to stop; exit 1.
        """
        left = deque(runs)
        while left:
            run = left.popleft()
            try:
                await self._apply_together([run])
            except RowsRefused as error:
                if len(run.messages) > 1:
                    parts = parts_of(len(run.messages), error.culprit)
                    left.extendleft(reversed([run.part(part) for part in parts]))
                elif self.sink.on_error is OnRefused.STOP:
                    raise
                else:
                    await self._set_aside(run, error)

    async def _set_aside(self, run: OutboxRun, error: RowsRefused) -> None:
        await self._apply_together([run.kept_aside(str(error))])
        self.runtime.metrics.outbox_refused(self.sink.name)
        self._refused.look()
        log.error(
            LogEvent.OUTBOX_REFUSED,
            sink=self.sink.name,
            topic=self.topic,
            partition=run.number,
            offset=run.offsets[0],
            error=str(error),
            meaning="the row is kept in onceflow_refused of the target, and goes to the dead "
            "letters; its record and everything else of its epoch took effect",
        )

    async def _apply_together(self, runs: list[OutboxRun]) -> None:
        """Apply runs in one local transaction."""
        started_s = time.monotonic()

        def apply() -> None:
            self.runtime.crash(CrashPoint.BEFORE_OUTBOX_APPLY)
            self.sink.write(runs)
            self.runtime.crash(CrashPoint.DURING_OUTBOX_APPLY)
            self.sink.commit()
            self.runtime.crash(CrashPoint.AFTER_OUTBOX_APPLY)

        await self.call(apply)
        for run in runs:
            self.progress[run.number] = Progress(run.topic_id, run.next_offset)
        messages = sum(len(run.messages) for run in runs)
        took_s = time.monotonic() - started_s
        self.runtime.metrics.outbox_applied(self.sink.name, messages, took_s)

    def behind_s(self) -> float:
        """Return the age of the oldest message that could not be applied yet."""
        if self.pending_ms is None:
            return self.failing_s
        return max(self.failing_s, (wall_ms() - self.pending_ms) / 1000, 0.0)
