"""Tables of the epoch: Faust's table API over cells, stores and changelogs.

A write needs the record that causes it: the partition comes from it, and a ghost of an aborted
attempt is recognised by it. Outside of a record tables show committed state only. Changelog names,
keys and values are Faust's, so that state carries over and back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import faust
import orjson
from faust.utils.json import on_default
from faust.windows import HoppingWindow

from onceflow.decisions.windows import HoppingWindows
from onceflow.engine.codecs import JSON_OPTIONS, is_json
from onceflow.engine.records import RecordEvent, current_event_ref
from onceflow.engine.runtime import runtime_of
from onceflow.engine.table_partition import ABSENT, SealedRows, TablePartition
from onceflow.engine.windowing import WindowedCodec, WindowWrapper
from onceflow.errors import ConfigError, OutsideRecord, StaleAttempt, TopologyError
from onceflow.state.keys import expired_ranges, split_window_key
from onceflow.state.restore import KeyLayout

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, KeysView, ValuesView

    from faust.types import AppT, TopicT
    from faust.types.windows import WindowT

    from onceflow.engine.gate import Gate


class PlainCodec:
    """Keys and values of a table without windows: the store key is Faust's changelog key."""

    windowed = False

    def __init__(self, table: Table) -> None:
        self.name = table.name
        registry = table.app.serializers
        self._registry = registry
        self._key_type, self._key_serializer = table.key_type, table.key_serializer
        self._value_type, self._value_serializer = table.value_type, table.value_serializer
        self._plain_json = table.value_type is None and is_json(table.value_serializer)
        self._json_keys = is_json(table.key_serializer)
        self._json_values = is_json(table.value_serializer)
        self.stable = _stable_classes(table.value_type, table.value_serializer)

    def store_key(self, key: Any) -> bytes:
        """Encode a key as Faust does."""
        if self._json_keys and key.__class__ is str:
            return orjson.dumps(key)
        encoded = self._registry.dumps_key(self._key_type, key, serializer=self._key_serializer)
        if encoded is None:
            message = f"Table {self.name}: the key cannot be None. Nothing was written."
            raise TypeError(message)
        return encoded

    def changelog_key(self, store_key: bytes) -> bytes:
        """Return the key itself: both sides use the same bytes."""
        return store_key

    def key_of(self, store_key: bytes) -> Any:
        """Decode a key; a list, as JSON gives it for a tuple, becomes a tuple again."""
        key = self._registry.loads_key(self._key_type, store_key, serializer=self._key_serializer)
        if isinstance(key, list):
            return tuple(tuple(v) if isinstance(v, list) else v for v in cast("list[Any]", key))
        return key

    def encode_value(self, value: Any) -> bytes:
        """Encode a value as Faust does."""
        if self._json_values and value.__class__ in _PLAIN_CLASSES:
            return orjson.dumps(value, default=on_default, option=JSON_OPTIONS)
        encoded = self._registry.dumps_value(
            self._value_type, value, serializer=self._value_serializer
        )
        return b"null" if encoded is None else encoded

    def decode_value(self, row: bytes) -> Any:
        """Decode a value as Faust does."""
        if self._plain_json:
            value = orjson.loads(row)
            if value.__class__ is not dict:
                return value
        return self._registry.loads_value(self._value_type, row, serializer=self._value_serializer)


_PLAIN_CLASSES: frozenset[type[Any]] = frozenset({int, float, bool, str, dict, list, type(None)})
"""Classes that Faust's JSON codec hands to orjson as they are."""


def _stable_classes(value_type: Any, serializer: Any) -> frozenset[type[Any]]:
    """Return the classes whose values come back from the store as they were set."""
    if value_type is bytes and serializer == "raw":
        return frozenset({bytes})
    if not is_json(serializer):
        return frozenset()
    if value_type is None:
        return frozenset({int, float, bool, str})
    return frozenset({value_type}) & frozenset({int, float, str})


class Table(faust.Table):
    """A Faust table whose writes belong to epochs.

    Attributes:
        parts: the partitions whose tasks are open here, by number; filled and emptied by the
            engine as tasks open and close.
        key_index_table: of a windowed table with ``key_index=True``, the table of its keys.
    """

    WindowWrapper = WindowWrapper

    def __init__(self, app: AppT, **options: Any) -> None:
        name = options.get("name")
        if options.get("use_partitioner"):
            raise ConfigError(
                f"Table {name}: use_partitioner=True writes to partitions that another worker may "
                "own, whose state this worker cannot keep exactly once. Nothing was consumed. "
                "Repartition the stream with group_by() on the table's key instead."
            )
        if options.get("on_changelog_event") is not None:
            raise ConfigError(
                f"Table {name}: on_changelog_event is called per record by Faust's own recovery, "
                "which is replaced by a bulk restore. Nothing was consumed. Use on_recover, or "
                "read the changelog topic with an application of its own."
            )
        super().__init__(app, **options)
        self.parts: dict[int, TablePartition] = {}
        self.gate: Gate = runtime_of(app).gate
        self._verified: set[str] = set()
        self._windows: HoppingWindows | None = None
        self.key_index_table: Table | None = None

    def reset_state(self) -> None:
        """Delete the local stores of the app, which hold all of its tables (``faust reset``).

        The state is restored from the changelogs at the next start.

        Raises:
            ConfigError: a worker has them open.
        """
        runtime_of(self.app).tasks.remove_stores()

    # -- life cycle: the engine opens, restores and closes; Faust's own hooks have nothing to do --

    @property
    def data(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The table itself: there is no second mapping behind it."""
        return self

    async def on_start(self) -> None:
        """Make the changelog topic."""
        await self.changelog_topic.maybe_declare()

    def _should_expire_keys(self) -> bool:
        """Keep Faust's wall-clock cleaner off: expiry is part of the epochs."""
        return False

    @property
    def layout(self) -> KeyLayout:
        """How store keys come from changelog keys."""
        return KeyLayout.PLAIN if self.window is None else KeyLayout.WINDOWED

    @property
    def partition_count(self) -> int:
        """How many partitions the changelog has."""
        return self.changelog_topic.partitions or self.app.conf.topic_partitions

    def codec(self) -> Any:
        """Return how this table's keys and values become bytes."""
        if self.window is None:
            return PlainCodec(self)
        if not is_json(self.key_serializer):
            raise ConfigError(
                f"Table {self.name}: windowed keys are JSON in Faust's changelog, and the key "
                f"serializer is {self.key_serializer!r}. Nothing was consumed. Use a key type "
                "that is encoded as JSON, such as str."
            )
        return WindowedCodec(PlainCodec(self))

    def _new_changelog_topic(self, **options: Any) -> TopicT:
        """Describe the changelog: compacted only, stamped by the broker when it is appended.

        Windows end by tombstones of their epoch, so deletion by time, which goes by old event
        time and could take live rows, stays off.
        """
        del options
        return self._changelog_like({}, compacting=True, deleting=False)

    def _changelog_like(self, config: dict[str, Any], **cleanup: Any) -> TopicT:
        """Describe a changelog with this configuration; the user's own goes before it."""
        return self.app.topic(
            self._changelog_topic_name(),
            schema=self.schema,
            key_type=self.key_type,
            value_type=self.value_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            partitions=self.partitions,
            acks=False,
            internal=True,
            config={
                "message.timestamp.type": "LogAppendTime",
                **config,
                **self.extra_topic_configs,
            },
            allow_empty=True,
            **cleanup,
        )

    def using_window(self, window: WindowT, *, key_index: bool = False) -> Any:
        """Wrap the table in a window, as Faust does; the changelog stays compacted only.

        Raises:
            ConfigError: the window is neither tumbling nor hopping, or counts in fractions of a
                second; nothing was consumed.
        """
        if not isinstance(window, HoppingWindow):
            raise ConfigError(
                f"Table {self.name}: {type(window).__name__} cannot be used. Nothing was consumed. "
                "Use tumbling() or hopping()."
            )
        self.windows_of(window)
        self.window = window
        self._changelog_topic = None
        return self.WindowWrapper(self, key_index=key_index)

    # -- which partition --

    def part_for_write(self) -> TablePartition:
        """Return the partition that the current record may write.

        Raises:
            OutsideRecord: there is no record being processed.
            StaleAttempt: the record's attempt was aborted; the write is dropped.
        """
        reference = current_event_ref.get(None)
        event = reference() if reference is not None else None
        if event.__class__ is not RecordEvent:
            raise OutsideRecord(
                f"Table {self.name} was written outside of a record. A write belongs to the epoch "
                "of a record, so nothing was written. Send a record to a topic from here "
                "(timer, task or web view) and write the table in the agent that reads it."
            )
        record = cast("RecordEvent", event)
        if not record.live:
            raise OutsideRecord(
                f"Table {self.name} was written for a record that is finished already, such as "
                "from a task started by the agent. Its epoch may be committed, so nothing was "
                "written. Await the work inside the agent before it takes the next record."
            )
        if record.batch.stamp is not self.gate.stamp:
            raise StaleAttempt(
                f"Table {self.name}: the attempt that this write belongs to was aborted; the "
                "record is replayed. The write is dropped; nothing to do."
            )
        topic = record.batch.partition.topic
        if topic not in self._verified:
            self._verify(topic)
        return self.parts[record.number]

    def _verify(self, topic: str) -> None:
        """Refuse a source topic whose records fall into other partitions than the table's."""
        source_count = runtime_of(self.app).partition_count(topic)
        if source_count != self.partition_count:
            raise TopologyError(
                f"The source topic {topic!r} for table {self.name!r} has {source_count} "
                f"partitions, but the changelog topic {self.changelog_topic_name!r} has "
                f"{self.partition_count}: a key's state would be on another worker than its "
                "records. Nothing of this epoch is committed. Give the table "
                f"partitions={source_count}, or repartition the stream with group_by()."
            )
        self._verified.add(topic)

    def part_for_read(self) -> TablePartition | None:
        """Return the current record's partition, or None outside of records."""
        reference = current_event_ref.get(None)
        event = reference() if reference is not None else None
        if event.__class__ is not RecordEvent:
            return None
        return self.parts.get(cast("RecordEvent", event).number)

    def _relative_event(self, event: Any = None) -> float:
        if event is None:
            reference = current_event_ref.get(None)
            event = reference() if reference is not None else None
        if event.__class__ is RecordEvent:
            return cast("RecordEvent", event).timestamp
        return super()._relative_event(event)

    def windows_of(self, window: Any) -> HoppingWindows:
        """Return the arithmetic of the table's windows.

        Raises:
            ConfigError: a size or step that Faust's windows cannot count in.
        """
        if self._windows is None:
            try:
                self._windows = HoppingWindows(window.size, window.step, window.expires or 0.0)
            except ConfigError as error:
                raise ConfigError(f"Table {self.name}: {error}") from error
        return self._windows

    def _relative_now(self, event: Any = None) -> float:
        """Return the system clock: that is what ``now`` means."""
        del event
        return time.time()  # noqa: TID251 - asked for

    def _windowed_now(self, key: Any) -> Any:
        return self._windowed_timestamp(key, self._relative_now())

    # -- mapping --

    def lookup(self, key: Any) -> Any:
        """Return the value of ``key`` as this moment sees it, or ABSENT."""
        part = self.part_for_read()
        return part.value(key) if part is not None else self.committed(key)

    def __getitem__(self, key: Any) -> Any:
        value = self.lookup(key)
        return self.__missing__(key) if value is ABSENT else value

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self.part_for_write()
        part.write(part.cell(key), value)

    def __delitem__(self, key: Any) -> None:
        part = self.part_for_write()
        cell = part.cell(key)
        value = cell.value if cell.fresh else part.read(cell)
        if value is ABSENT:
            raise KeyError(key)
        part.delete(cell)

    def __contains__(self, key: object) -> bool:
        return self.lookup(key) is not ABSENT

    def committed(self, key: Any) -> Any:
        """Return the committed value of ``key`` among the partitions here, or ABSENT."""
        for part in self.parts.values():
            row = part.store.get(self.name, part.codec.store_key(key))
            if row is not None:
                return part.codec.decode_value(row)
        return ABSENT

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        part = self.part_for_read()
        if part is not None:
            yield from part.items()
            return
        for part in list(self.parts.values()):
            for store_key, row in part.store.scan(self.name):
                yield part.codec.key_of(store_key), part.codec.decode_value(row)

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self._pairs())

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs())

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``; the table's own default is not used."""
        value = self.lookup(key)
        return default if value is ABSENT else value

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove ``key`` and return its value, or the default."""
        part = self.part_for_write()
        cell = part.cell(key)
        value = cell.value if cell.fresh else part.read(cell)
        if value is ABSENT:
            if default:
                return default[0]
            raise KeyError(key)
        part.delete(cell)
        return value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of ``key``; set it to ``default`` first when it is missing."""
        if key in self:
            return self[key]
        self[key] = default
        return default

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several keys."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def clear(self) -> None:
        """Remove every key of the current record's partition."""
        part = self.part_for_write()
        for key, _ in list(part.items()):
            part.delete(part.cell(key))

    def keys(self) -> KeysView[Any]:
        """Return the keys, in no particular order."""
        return cast("KeysView[Any]", [key for key, _ in self._pairs()])

    def values(self) -> ValuesView[Any]:
        """Return the values, in no particular order."""
        return cast("ValuesView[Any]", [value for _, value in self._pairs()])

    def items(self) -> ItemsView[Any, Any]:
        """Return (key, value) pairs, in no particular order."""
        return cast("ItemsView[Any, Any]", list(self._pairs()))

    def copy(self) -> dict[Any, Any]:
        """Return the pairs as a dictionary."""
        return dict(self._pairs())

    # -- epochs --

    def new_part(self, number: int, store: Any) -> TablePartition:
        """Make a partition."""
        return TablePartition(self.codec(), number, store)

    def open_part(self, number: int, store: Any) -> TablePartition:
        """Begin to serve a partition whose task was opened and restored."""
        part = self.new_part(number, store)
        if self.expires:
            # The newest window in the store tells how far event time was, at least.
            newest, oldest = store.last_key(self.name), store.first_key(self.name)
            if newest is not None and oldest is not None:
                part.stream_time = part.settled_time = split_window_key(newest).start_s
                part.expiry.backlog = oldest < self.horizon(part)
        self.parts[number] = part
        return part

    def close_part(self, number: int) -> None:
        """Stop serving a partition."""
        self.parts.pop(number, None)

    @property
    def expires(self) -> float:
        """Seconds that a window is kept after its end, in event time; 0: for ever."""
        window = cast("Any", self.window)
        return 0.0 if window is None else self.windows_of(window).expires_s

    def horizon(self, part: TablePartition) -> bytes:
        """Return the store key before which all windows are over.

        A window is over when its end lies at or before the start of the window that event time was
        in ``expires`` ago, which is Faust's rule with event time in place of the clock.
        """
        windows = self.windows_of(cast("Any", self.window))
        moment_s = windows.current(part.stream_time - windows.expires_s)[0]
        # Starts and sizes are whole seconds, so that half a second tells them apart safely.
        return expired_ranges(self.name, moment_s - windows.size_s + 0.5)[1]

    def windows_deleted(self, part: TablePartition, store_keys: list[bytes]) -> None:
        """Take keys out of the key index whose last window is being deleted."""
        index = self.key_index_table
        if index is None:
            return
        live = self._live_ranges(part)
        codec, of_index = part.codec, index.parts[part.number]
        for key in {codec.key_of(store_key)[0] for store_key in store_keys}:
            windows = [codec.store_key((key, window)) for window in live]
            if not any(map(part.has, windows)):
                cell = of_index.cell(key)
                if (cell.value if cell.fresh else of_index.read(cell)) is not ABSENT:
                    of_index.delete(cell)

    def _live_ranges(self, part: TablePartition) -> list[tuple[float, float]]:
        """Return the windows that are not over and may have rows."""
        windows = self.windows_of(cast("Any", self.window))
        moment_s = windows.current(part.stream_time - windows.expires_s)[0]
        newest_s = windows.current(part.stream_time)[0]
        count = int((newest_s - moment_s + windows.size_s) // windows.step_s)
        ranges = (windows.current(newest_s - n * windows.step_s) for n in range(count))
        return [window for window in ranges if window[1] > moment_s]

    def closes_windows(self) -> bool:
        """Return whether somebody wants to be told of windows that are over."""
        return self._on_window_close is not None

    def seal(self) -> dict[int, SealedRows]:
        """Return the changed rows of the epoch per partition."""
        return {n: part.seal() for n, part in self.parts.items() if part.dirty or part.expired.keys}

    def is_dirty(self) -> bool:
        """Return whether the epoch changed anything."""
        return any(part.is_dirty for part in self.parts.values())

    def settle(self) -> None:
        """Take note that the epoch's rows are committed and stored."""
        for part in self.parts.values():
            part.settle()

    def drop(self) -> None:
        """Forget the epoch's changes."""
        for part in self.parts.values():
            part.drop()
