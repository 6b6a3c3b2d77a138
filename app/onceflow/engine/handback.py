"""Prepares changelogs for stock Faust: what an application needs to go back.

Stock Faust (at-least-once) has two troubles with a changelog that was written in transactions. It
waits for ever for a last record where the log ends in a transaction's marker, and it reads the
records of aborted transactions as if they counted. So, with all workers stopped, each changelog
gets the rows again that an aborted transaction wrote (as they really are) and, if it still ends in
a marker, its last record once more, which changes nothing. Written without a transaction; running
it twice or half-way does no harm.

Source: `_slurp_changelogs` and `detect_aborted_tx` in
https://github.com/faust-streaming/faust/blob/v0.15.3/faust/tables/recovery.py
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from onceflow.engine.runtime import runtime_of
from onceflow.ids import Partition
from onceflow.kafka.wholelog import LogRecord, read_log, require_no_members
from onceflow.state.restore import KeyLayout
from onceflow.state.set_rows import ADD, DISCARD, fold_operations, operation_key, split_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onceflow.kafka.configuration import ClientConfig

_SETS = {KeyLayout.SETS: False, KeyLayout.WINDOWED_SETS: True}
"""Layouts of set tables, and whether they have windows."""

_UNUSED_KEY = b'"onceflow: nobody has this key"'


class HandedBack(NamedTuple):
    """What was written to one changelog partition."""

    partition: Partition
    records: int


async def hand_back(app: Any) -> list[HandedBack]:
    """Prepare all changelogs of an application whose workers are stopped.

    Raises:
        ConfigError: workers run; nothing was changed.
        Unreachable: the brokers do not answer; run it again.
    """
    runtime = runtime_of(app)
    config = runtime.clients.config
    await asyncio.to_thread(require_no_members, config, app.conf.id)
    done: list[HandedBack] = []
    sources = {source.changelog_topic_name: source for source in runtime.sources()}
    for topic, description in (await runtime.clients.admin.topics(sources)).items():
        for number in range(description.partition_count):
            partition = Partition(topic, number)
            end = (await runtime.clients.admin.end_offsets([partition]))[partition]
            records = await asyncio.to_thread(
                _records_to_add, config, partition, end, sources[topic].layout
            )
            producer = runtime.clients.plain()
            sent = [producer.send(topic, value, key, number) for key, value in records]
            await asyncio.gather(*sent)
            done.append(HandedBack(partition, len(records)))
    await runtime.clients.stop()
    return done


def _records_to_add(
    config: ClientConfig, partition: Partition, end: int, layout: KeyLayout
) -> list[tuple[bytes, bytes | None]]:
    """Return the records that make the log fold right for a reader of everything."""
    touched: set[bytes] = set()
    last: LogRecord | None = None
    last_committed: LogRecord | None = None
    committed = read_log(config, partition, "read_committed")
    present = next(committed, None)
    for record in read_log(config, partition, "read_uncommitted"):
        last = record
        while present is not None and present.offset < record.offset:
            present = next(committed, None)
        if present is not None and present.offset == record.offset:
            last_committed = record
        else:
            touched.update(_rows_of(record, layout))
    if touched:
        return list(_as_they_are(config, partition, touched, layout))
    if last is None or last.offset + 1 == end:
        return []
    if last_committed is None or last_committed.key is None:
        return [(_UNUSED_KEY, None)]
    return [(last_committed.key, last_committed.value)]


def _rows_of(record: LogRecord, layout: KeyLayout) -> Iterable[bytes]:
    """Return what identifies the rows that a record changes."""
    if record.key is None:
        return ()
    if layout in _SETS:
        return fold_operations([record.key], [record.value], windowed=_SETS[layout])
    return (record.key,)


def _as_they_are(
    config: ClientConfig, partition: Partition, touched: set[bytes], layout: KeyLayout
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield changelog records that set rows to their committed state."""
    state: dict[bytes, bytes | None] = dict.fromkeys(touched)
    for record in read_log(config, partition, "read_committed"):
        if record.key is None:
            continue
        if layout in _SETS:
            rows = fold_operations([record.key], [record.value], windowed=_SETS[layout])
        else:
            rows = {record.key: record.value}
        state.update((row, value) for row, value in rows.items() if row in touched)
    for row, value in state.items():
        if layout in _SETS:
            bounds, inner, member = split_row(row, windowed=_SETS[layout])
            operation = DISCARD if value is None else ADD
            yield operation_key(operation, bounds, inner), member
        else:
            yield row, value
