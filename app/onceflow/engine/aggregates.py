"""Columnar windowed aggregates for batch agents, as part of the epochs.

The aggregate's arithmetic is `columns.aggregate`; this module gives it stores, a changelog and an
output topic: state changes go out once per window and commit, results too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mode.utils.times import want_seconds

from onceflow.columns.aggregate import WindowedFold
from onceflow.columns.spec import (
    RECORD_TIMESTAMP,
    AggregateSpec,
    ChangedWindows,
    json_object,
    key_at_start,
)
from onceflow.engine.expiry import Expiry
from onceflow.engine.records import current_record
from onceflow.engine.runtime import runtime_of
from onceflow.engine.sealing import produce_all
from onceflow.engine.table_partition import SealedRows
from onceflow.errors import OutsideRecord, StaleAttempt, TopologyError
from onceflow.state.restore import KeyLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onceflow.columns.batch import RecordBatch
    from onceflow.kafka.producer import TransactionalProducer
    from onceflow.state.task_store import TaskStore


class _Part:
    """One partition's store, as the fold reads it."""

    def __init__(self, name: str, store: TaskStore) -> None:
        self.name = name
        self.store = store
        self.stream_time_ms: int | None = None
        self.expiry = Expiry(store, name)

    def fetch(self, keys: list[bytes]) -> Sequence[bytes | None]:
        """Read committed rows."""
        return self.store.get_many(self.name, keys)

    def absent(self, start: bytes, stop: bytes) -> bool:
        """Return whether the store has no row in a range of keys."""
        return next(iter(self.store.scan(self.name, start, stop)), None) is None


@dataclass(frozen=True)
class Windows:
    """Which windows an aggregate has; times in seconds or as `datetime.timedelta`.

    Attributes:
        size: length of a window.
        step: distance of their starts; ``size`` (tumbling) when None, less for hopping ones.
        expires: how long after its end, in event time, a window is kept; None: for ever.
        timestamp: ``record`` for the record's timestamp, or a JSON field in milliseconds.
    """

    size: Any
    step: Any = None
    expires: Any = None
    timestamp: str = RECORD_TIMESTAMP


@dataclass(frozen=True)
class Output:
    """Where changed windows go, once each per commit.

    Attributes:
        topic: the output topic.
        keys, values: functions from the changed windows' columns to lists of bytes; by default
            ``key@start`` and a JSON object of the aggregates.
    """

    topic: Any
    keys: Callable[[ChangedWindows], list[bytes]] = key_at_start
    values: Callable[[ChangedWindows], list[bytes]] = json_object


class WindowedAggregate:
    """Count, sum, minimum, maximum and mean per key and window, without a Python loop per record.

    Declare it with ``app.windowed_aggregate(...)`` or directly for a ``faust.App``, and call
    `update` with each batch of an agent::

        totals = app.windowed_aggregate(
            "totals", 10.0, value="amount", aggregates=("count", "sum"), output=out
        )

        @app.agent(orders)
        async def add(stream):
            async for batch in stream.batches():
                totals.update(batch)

    Args:
        app: the application.
        name: names the state and its changelog ``<app>-<name>-changelog``.
        windows: `Windows`, or the size of tumbling windows in seconds.
        key: JSON field to group by; None groups by the record's key.
        value: JSON field that is aggregated; None only counts.
        aggregates: of ``count``, ``sum``, ``min``, ``max``, ``mean``.
        output: topic or `Output` that receives each changed window once per commit, or None.
        partitions: partition count of the changelog; that of the source topic.
    """

    layout = KeyLayout.PLAIN

    def __init__(
        self,
        app: Any,
        name: str,
        windows: Any,
        *,
        key: str | None = None,
        value: str | None = None,
        aggregates: tuple[str, ...] = ("count",),
        output: Any = None,
        partitions: int | None = None,
    ) -> None:
        if not isinstance(windows, Windows):
            windows = Windows(windows)
        if output is not None and not isinstance(output, Output):
            output = Output(output)
        size_ms = _ms(windows.size)
        self.app = app
        self.name = name
        self.output: Output | None = output
        self.spec = AggregateSpec(
            name,
            key,
            value,
            aggregates,
            size_ms,
            size_ms if windows.step is None else _ms(windows.step),
            windows.timestamp,
            None if windows.expires is None else _ms(windows.expires),
        )
        functions = output or Output(None)
        self.fold = WindowedFold(
            self.spec, output_keys=functions.keys, output_values=functions.values
        )
        self.changelog_topic = app.topic(
            f"{app.conf.id}-{name}-changelog",
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            compacting=True,
            deleting=False,
            acks=False,
            internal=True,
            config={"message.timestamp.type": "LogAppendTime"},
        )
        self.parts: dict[int, _Part] = {}
        self._touched: set[int] = set()
        self._sealed: dict[int, SealedRows] = {}
        runtime_of(app).aggregates.append(self)

    def update(self, batch: RecordBatch) -> None:
        """Take a batch into the epoch, wholly or, if it raises, not at all.

        Raises:
            OutsideRecord: not called for the batch that the agent holds.
            DeserializationError: names the record at fault; let it out of the agent.
        """
        record = current_record()
        if record is None or not record.live:
            raise OutsideRecord(
                f"Aggregate {self.name} was updated outside of a batch. An update belongs to the "
                "epoch of its records, so nothing was counted. Call update(batch) inside the "
                "agent's loop over stream.batches()."
            )
        if record.batch.stamp is not runtime_of(self.app).gate.stamp:
            raise StaleAttempt(f"Aggregate {self.name}: the attempt was aborted; dropped.")
        part = self.parts.get(batch.partition)
        if part is None:
            raise TopologyError(
                f"Aggregate {self.name} has {self.partition_count} partitions, and the topic "
                f"{batch.topic} has {runtime_of(self.app).partition_count(batch.topic)}: a key's "
                "state would be on another worker than its records. Nothing was counted. Give the "
                "aggregate the topic's partition count (partitions=n)."
            )
        self.fold.update(batch.partition, batch, part.fetch, part.absent)
        self._touched.add(batch.partition)

    # -- state, as the tasks and the seal see it --

    @property
    def partition_count(self) -> int:
        """How many partitions the changelog has."""
        return self.changelog_topic.partitions or self.app.conf.topic_partitions

    @property
    def changelog_topic_name(self) -> str:
        """Name of the changelog topic."""
        return cast("str", self.changelog_topic.get_topic_name())

    def open_part(self, number: int, store: TaskStore) -> None:
        """Begin to serve a partition."""
        self.parts[number] = _Part(self.name, store)

    def close_part(self, number: int) -> None:
        """Stop serving a partition."""
        if self.parts.pop(number, None) is not None:
            self.fold.forget(number)

    def is_dirty(self) -> bool:
        """Return whether the epoch changed anything."""
        return bool(self._touched)

    async def emit(self, transaction: TransactionalProducer) -> int:
        """Fold the epoch and produce its changed windows; returns how many."""
        emitted = 0
        for number in sorted(self._touched):
            part = self.parts[number]
            latest_ms = self.fold.latest_ms(number)
            folded = self.fold.changed(number)
            rows = SealedRows()
            rows.store_keys = rows.changelog_keys = folded.store_keys
            rows.values = cast("list[bytes | None]", folded.rows)
            if latest_ms is not None:
                part.stream_time_ms = max(latest_ms, part.stream_time_ms or latest_ms)
                horizon = self.fold.expired(number, part.stream_time_ms)
                if horizon is not None:
                    part.expiry.add_to(rows, horizon)
            self._sealed[number] = rows
            if self.output is not None:
                values = cast("list[bytes | None]", folded.output_values)
                topic = self.output.topic.get_topic_name()
                await produce_all(transaction, topic, None, folded.output_keys, values)
                emitted += len(values)
        return emitted

    def seal(self) -> dict[int, SealedRows]:
        """Return the changed rows of the epoch per partition."""
        return {number: rows for number, rows in self._sealed.items() if len(rows)}

    def settle(self) -> None:
        """Take note that the epoch's rows are committed and stored."""
        self.fold.committed()
        self._touched.clear()
        self._sealed.clear()

    def drop(self) -> None:
        """Forget the epoch's changes."""
        self.fold.abort()
        self._touched.clear()
        self._sealed.clear()


def _ms(seconds: Any) -> int:
    return round(want_seconds(seconds) * 1000)
