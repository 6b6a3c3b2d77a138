"""Closing windows: what an epoch does with windows whose time is over, before it is sealed.

Event time decides, per partition, so that a replay closes what the first run closed. Each window
that is over is handed to the table's ``on_window_close`` and deleted, both in this epoch: an abort
takes both back, a crash repeats both, and a window that a late record makes again is closed again,
with what the late record wrote, at the end of the same epoch.

The callback runs as the agent of a record would: its sends and table writes belong to the epoch. If
it raises or takes too long there is no record to blame, so the worker stops (or, with
``on_error="skip"``, the window is deleted all the same and the failure is logged).

Callbacks may be slow, and nothing is processed while they run. So an epoch tells windows for a
bounded time, the oldest first; the others stay and are told at the ends of the next epochs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from onceflow.engine.records import Batch, RecordEvent, RecordRef, current_event_ref
from onceflow.engine.table_partition import ABSENT
from onceflow.errors import ProcessingError, StaleAttempt
from onceflow.ids import TaskId
from onceflow.kafka.records import Run
from onceflow.limits import CLOSING_S_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.settings import OnError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from onceflow.engine.runtime import Runtime
    from onceflow.engine.table_partition import TablePartition
    from onceflow.engine.tables import Table

log = get_logger(__name__)


async def close_windows(runtime: Runtime, tables: Iterable[Table]) -> None:
    """Find the windows that are over, tell them to their callbacks, and mark them for deletion.

    Raises:
        ProcessingError: a callback failed; the worker stops and nothing of the epoch is committed.
        StaleAttempt: the epoch was aborted meanwhile, and a callback ran on all the same.
    """
    telling = _Telling(runtime)
    for table in tables:
        if not table.expires:
            continue
        for part in list(table.parts.values()):
            if part.is_dirty:
                await _close_part(runtime, table, part, telling)


class _Telling:
    """The time in which windows are told to callbacks in one epoch.

    Fields:
        told: how many were; the first is told in any case, so that each epoch closes some.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stamp = runtime.gate.stamp
        self.until_s = time.monotonic() + CLOSING_S_MAX
        self.told = 0

    @property
    def is_over(self) -> bool:
        """Whether the other windows have to wait."""
        return self.told > 0 and time.monotonic() > self.until_s

    async def tell(self, table: Table, key: Any, value: Any) -> None:
        """Tell one window."""
        self.told += 1
        await _tell(self.runtime, table, key, value)
        if self.runtime.gate.stamp is not self.stamp:
            raise StaleAttempt(
                f"The attempt whose windows of {table.name} were being closed was aborted; they "
                "are closed again at the end of the next one. Nothing to do."
            )


async def _close_part(
    runtime: Runtime, table: Table, part: TablePartition, telling: _Telling
) -> None:
    if part.stream_time == float("-inf"):
        return
    horizon = table.horizon(part)
    stored = part.expiry.oldest(horizon)
    late = {cell.store_key: cell for cell in part.dirty if cell.store_key < horizon}
    if not stored and not late:
        return
    untouched = [(key, row) for key, row in stored if key not in late]
    if table.closes_windows():
        decode = part.codec.decode_value
        over = [(key, decode(row)) for key, row in untouched]
        for key, cell in late.items():
            value = cell.value if cell.fresh else part.read(cell)
            if value is not ABSENT:
                over.append((key, value))
        over.sort(key=lambda row: row[0])
        with _record_of(runtime, table, part):
            for store_key, value in over:
                if telling.is_over:
                    part.expiry.stop_at(store_key)
                    stored = [row for row in stored if row[0] < store_key]
                    untouched = [row for row in untouched if row[0] < store_key]
                    late = {key: cell for key, cell in late.items() if key < store_key}
                    break
                await telling.tell(table, part.codec.key_of(store_key), value)
    for cell in late.values():
        part.delete(cell)
    part.expired.keys = [key for key, _ in untouched]
    part.expired.stop = stored[-1][0] + b"\x00" if stored else b""
    table.windows_deleted(part, [*part.expired.keys, *late])


async def _tell(runtime: Runtime, table: Table, key: Any, value: Any) -> None:
    """Call ``on_window_close`` for one window, within the record bound."""
    try:
        async with asyncio.timeout(runtime.settings.record_bound_s):
            await table.on_window_close(key, value)
    except Exception as error:
        if runtime.settings.on_error is OnError.SKIP:
            log.exception(LogEvent.WINDOW_CLOSE_FAILED, table=table.name, key=repr(key))
            return
        raise ProcessingError(
            f"on_window_close of table {table.name} failed for the window {key!r}: {error!r}. "
            "Nothing of this epoch is committed and the window is still there; it is closed again "
            "when the worker starts. Correct the callback, or set on_error='skip' to delete such "
            "windows all the same."
        ) from error


@contextmanager
def _record_of(runtime: Runtime, table: Table, part: TablePartition) -> Generator[RecordEvent]:
    """Make a record of the partition current, so that sends and writes join its epoch."""
    inputs = runtime.tasks.partitions[TaskId(table.partition_count, part.number)]
    partition = min(inputs)
    moment_ms = int(part.stream_time * 1000)
    run = Run(partition, [0], [None], [None], [moment_ms], None, 0, 0)
    batch = Batch(run, runtime.gate.stamp, 1)
    topic = runtime.app.topic(partition.topic)
    event = RecordEvent(runtime.app, cast("Any", topic), batch, 0, None)
    token = current_event_ref.set(RecordRef(event))
    try:
        yield event
    finally:
        event.live = False
        current_event_ref.reset(token)
