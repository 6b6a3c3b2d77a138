"""Drives tables of an app without a broker: records, seals, aborts and a changelog in memory.

The app, its tables and its stores are the real ones; what a broker would do (take records, give
them offsets) is a list per changelog partition here.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import faust

from harness.task_stores import BUDGET_BYTES, TRUSTED_FOR_MS
from onceflow.engine.closing import close_windows
from onceflow.engine.records import Batch, RecordEvent, RecordRef, current_event_ref
from onceflow.engine.runtime import runtime_of
from onceflow.ids import Partition, Stamp, TaskId
from onceflow.kafka.records import Run
from onceflow.state.memory import MemoryBudget
from onceflow.state.overlay import Changes
from onceflow.state.restore import RestoreLoader
from onceflow.state.task_store import StoreIdentity, TaskStore

PARTITIONS = 2
SOURCE = "source"


def make_app(**options):
    """An app of ours that never meets a broker."""
    options = {"topic_partitions": PARTITIONS, "web_enabled": False, **options}
    app = faust.App("tables", broker="onceflow://localhost:1", **options)
    app.finalize()
    runtime_of(app).partition_counts[SOURCE] = PARTITIONS
    return app


class TableDriver:
    """Epochs of one app's tables.

    Attributes:
        changelogs: per (table, partition) the records, as (key, value).
    """

    def __init__(self, app, directory):
        self.app = app
        self.runtime = runtime_of(app)
        self.directory = directory
        self.changelogs = {}
        self.budget = MemoryBudget(BUDGET_BYTES)
        self.stores = {}
        self.now_ms = 1_000
        self.topic = app.topic(SOURCE)

    @property
    def tables(self):
        return list(self.app.tables.values())

    def open(self, *numbers):
        """Open and restore tasks."""
        names = [table.name for table in self.tables]
        identity = StoreIdentity("tables", "cluster", {name: f"id-{name}" for name in names})
        for number in numbers or range(PARTITIONS):
            store = TaskStore.open(
                self.directory / f"{PARTITIONS}-{number}",
                identity,
                names,
                self.budget,
                now_ms=self.now_ms,
                trusted_for_ms=TRUSTED_FOR_MS,
            )
            self.stores[number] = store
            task = TaskId(PARTITIONS, number)
            self.runtime.tasks.partitions[task] = frozenset({Partition(SOURCE, number)})
            for table in self.tables:
                self._restore(store, table, number)
                table.open_part(number, store)
        return self

    def _restore(self, store, table, number):
        records = self.changelogs.get((table.name, number), [])
        position = store.changelog_position(table.name) or 0
        rest = records[position:]
        loader = RestoreLoader(store, table.name, table.layout)
        offsets = range(position, len(records))
        pieces = loader.load_pieces(
            [key for key, _ in rest], [value for _, value in rest], offsets, now_ms=self.now_ms
        )
        for _ in pieces:
            pass

    def close(self, *numbers):
        """Close tasks, as when their partitions go."""
        for number in numbers or list(self.stores):
            for table in self.tables:
                table.close_part(number)
            self.stores.pop(number).close()

    @contextmanager
    def record(self, number=0, *, timestamp=0.0, key=None, value=None):
        """Be inside the agent, with a record of this partition."""
        run = Run(
            Partition(SOURCE, number), [0], [key], [None], [int(timestamp * 1000)], None, 0, 0
        )
        event = RecordEvent(self.app, self.topic, Batch(run, self.runtime.gate.stamp, 1), 0, value)
        token = current_event_ref.set(RecordRef(event))
        try:
            yield event
        finally:
            event.live = False
            current_event_ref.reset(token)

    async def commit(self):
        """Seal, commit and apply an epoch; returns its changelog records by (table, partition)."""
        produced = {}
        await close_windows(self.runtime, self.tables)
        changes = {}
        for table in self.tables:
            for number, rows in table.seal().items():
                where = (table.name, number)
                records = list(zip(rows.changelog_keys, rows.produced_values(), strict=True))
                produced[where] = records
                self.changelogs.setdefault(where, []).extend(records)
                changes.setdefault(number, {})[table.name] = _changes(
                    rows, len(self.changelogs[where])
                )
        for number, by_table in changes.items():
            self.stores[number].apply(by_table, now_ms=self.now_ms)
        for table in self.tables:
            table.settle()
        return produced

    def commit_now(self):
        """As `commit`, for tests without a loop."""
        return asyncio.run(self.commit())

    def abort(self):
        """Drop the attempt."""
        stamp = self.runtime.gate.stamp
        self.runtime.gate.stamp = Stamp(stamp.assignment, stamp.attempt + 1)
        for table in self.tables:
            table.drop()


def _changes(rows, position):
    pairs = list(zip(rows.store_keys, rows.values, strict=True))
    return Changes(pairs, tuple(rows.deleted_ranges), position)
