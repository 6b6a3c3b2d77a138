"""Streams that unroll batches between the gate's stops.

An ordinary agent sees records one by one, a batch agent takes `RecordBatch` columns, ``take()``
slices; all three read through the same cursor, so that an epoch can stop between records. A record
is finished when the agent asks for the next one. If the agent raises instead, the record stays
unfinished: the epoch can no longer drain and the agent's ``on_error`` decides.

Channels that are not topics (``app.channel()``, plain iterables) go through Faust's own iteration:
they carry no offsets and take no part in epochs.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from types import MethodType
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import faust
from faust.exceptions import Skip
from faust.types.models import FieldDescriptorT
from mode.utils.times import want_seconds

from onceflow.columns.batch import RecordBatch
from onceflow.columns.schema import schema_from_annotations
from onceflow.engine.failures import Blamed
from onceflow.engine.leaving import Acks, await_acknowledgement, settle
from onceflow.engine.records import FILTERED, RecordEvent, RecordRef, current_event_ref
from onceflow.engine.runtime import runtime_of
from onceflow.engine.taking import Taker
from onceflow.engine.topic import Topic
from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from faust.types import ChannelT, EventT, StreamT

    from onceflow.engine.conductor import Conductor
    from onceflow.engine.gate import Cursor
    from onceflow.engine.leaving import Reader
    from onceflow.engine.records import Batch

RECORDS_PER_TURN = 256
"""Records unrolled before other tasks get a turn: about 2 ms for a typical agent, so that timers
and the closing of the gate are never late by more. A power of two."""

_UNWRAP = cast("Any", faust.Agent)._maybe_unwrap_reply_request  # noqa: SLF001
"""The processor that Faust gives every agent: it unwraps the requests of ``ask``."""


async def ghost() -> None:
    """Wait to be cancelled: the attempt that this actor worked for has been aborted."""
    await asyncio.get_running_loop().create_future()


class Stream(faust.Stream):
    """A Faust stream over the engine's batches.

    Attributes:
        subscriptions: channels that ``group_by`` and ``through`` of this chain read, by topic; the
            agent keeps them over its restarts.
        restarted_by_agent: whether an agent replaces this stream after an abort. A stream of a
            task is not replaced: it reads on with the replayed records.
        reader: name of the agent that iterates the stream or one derived from it, for its
            ``on_error``; "" for streams of tasks.
        handed_out: the records of the batch or list that the agent holds, if it takes several.
        reading: the task that iterates the stream.
    """

    restarted_by_agent = False
    reader = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.subscriptions: dict[str, Any] = {}
        self.handed_out: Blamed | None = None
        self.reading: Reader | None = None

    def clone(self, **options: Any) -> StreamT:
        """Return a stream like this one, read by the same agent or task."""
        made = cast("Stream", super().clone(**options))
        made.subscriptions = self.subscriptions
        made.restarted_by_agent = self.restarted_by_agent
        made.reader = self.reader
        return made

    def __aiter__(self) -> AsyncIterator[Any]:
        if not isinstance(self.channel, Topic):
            return super().__aiter__()
        iterator = self._records(self.channel)
        self._active_agens.add(iterator)
        return iterator

    def chain(self) -> list[Stream]:
        """Return this stream and those derived from it by ``group_by`` and ``through``."""
        return cast("list[Stream]", list(self._iter_ll_forwards()))

    def blamed(self) -> Blamed | None:
        """Return the records that are handed out at this moment, or None."""
        event = cast("RecordEvent | None", self.current_event)
        if event is None or event.acked:
            return None
        if self.handed_out is not None:
            return self.handed_out
        return Blamed(event.batch.partition, event.offset, event.offset + 1, 1)

    async def _begin(self) -> bool:
        self._finalized = True
        self.reading = asyncio.current_task()
        if isinstance(self.channel, Topic):
            self.channel.cursor.owner = self.reader
            self.channel.cursor.readers.append(self)
            if not self.restarted_by_agent:
                self.app.topics.add(self.channel)
        return bool(await self.maybe_start())

    @property
    def _acks(self) -> Acks:
        return Acks.OF_STREAM if self.enable_acks else Acks.OF_READER

    async def _end(self, channel: Topic, *, started_here: bool) -> None:
        if self in channel.cursor.readers:
            channel.cursor.readers.remove(self)
        self._channel_stop_iteration(channel)
        if not self.restarted_by_agent:
            cast("Conductor", self.app.topics).leave(channel)
        if started_here:
            await self.stop()
            self.service_reset()

    # -- one record at a time --

    async def _records(self, channel: Topic) -> AsyncGenerator[Any, None]:  # noqa: C901, PLR0912, PLR0915
        # The hot loop of ordinary agents. The branches are spelled out here, because a call or a
        # nested generator per record costs more than the work itself.
        cursor = channel.cursor
        gate = cursor.gate
        app = self.app
        decode = channel.codecs.decode_value
        processors = self._processors
        set_current = current_event_ref.set
        event: RecordEvent | None = None
        started_here = await self._begin()
        try:
            while not self.should_stop:
                batch = await cursor.next_batch()
                stamp = batch.stamp
                values = batch.run.values
                count = len(values)
                while cursor.batch is batch:
                    if gate.closed and not await gate.admits(cursor, batch):
                        # Between two epochs a batch may come to belong to another assignment.
                        stamp = batch.stamp
                        continue
                    index = cursor.index
                    cursor.in_progress += 1
                    cursor.index = index + 1
                    if cursor.index == count:
                        cursor.finish(batch)
                    try:
                        value = decode(values[index])
                    except Exception as error:  # noqa: BLE001 - loop root: a record is to blame
                        await runtime_of(app).failures.undecodable(channel, batch, index, error)
                        cursor.in_progress -= 1
                        continue
                    event = RecordEvent(app, channel, batch, index, value)
                    set_current(RecordRef(event))
                    self.current_event = event
                    if processors:
                        value = await self.processed(value)
                    if value is not FILTERED:
                        self.events_total += 1
                        yield value
                    if stamp is not gate.stamp:
                        await self._after_abort()
                    elif self.enable_acks or value is FILTERED:
                        event.live = False
                        cursor.in_progress -= 1
                    else:
                        await_acknowledgement(event)
                    if not index % RECORDS_PER_TURN:
                        await asyncio.sleep(0)
                self.current_event = None
                gate.progressed()
                await asyncio.sleep(0)
        except StopAsyncIteration:
            return
        finally:
            settle(self, [event] if event is not None else [], self._acks)
            await self._end(channel, started_here=started_here)

    async def processed(self, value: Any) -> Any:
        """Return what the processors make of a value, `FILTERED` where one takes it out."""
        try:
            for processor in self._processors:
                value = processor(value)
                if isawaitable(value):
                    value = await value
        except Skip:
            return FILTERED
        return value

    # -- whole batches --

    async def batches(self) -> AsyncGenerator[RecordBatch, None]:
        """Iterate over runs of records as columns: `RecordBatch`.

        A batch holds records of one partition. `faust.current_event()` is an event of its first
        record, so that table writes and sends are attributed to the batch.

        Raises:
            ConfigError: the stream has processors (``filter``, ``group_by``, ``echo``), which work
                on single values.
        """
        channel = self.channel
        if not isinstance(channel, Topic):
            message = (
                f"batches() needs a topic, and {channel} is none: only records of a topic come as "
                "columns. Iterate over the stream itself."
            )
            raise ConfigError(message)
        event: RecordEvent | None = None
        started_here = await self._begin()
        try:
            while not self.should_stop:
                sliced = await self._next_slice(channel.cursor)
                if sliced is None:
                    continue
                batch, start, stop = sliced
                event = RecordEvent(self.app, channel, batch, start, None)
                current_event_ref.set(RecordRef(event))
                self.current_event = event
                self.events_total += stop - start
                offsets = batch.run.offsets
                self.handed_out = Blamed(
                    batch.partition, offsets[start], offsets[stop - 1] + 1, stop - start
                )
                yield self._columns(batch, start, stop)
                await self._finish_slice(event, 1)
        except StopAsyncIteration:
            return
        finally:
            settle(self, [event] if event is not None else [], Acks.OF_STREAM)
            await self._end(channel, started_here=started_here)

    def _columns(self, batch: Batch, start: int, stop: int) -> RecordBatch:
        run = batch.run
        columns = RecordBatch(
            run.topic,
            run.number,
            run.keys,
            run.values,
            run.offsets,
            run.timestamps,
            run.headers,
            self._record_schema,
        )
        return columns if stop - start == len(run.offsets) else columns[start:stop]

    def _record_schema(self) -> Any:
        """Return the Arrow schema of the topic's `faust.Record`, None for other value types."""
        record = cast("Topic", self.channel).schema.value_type
        if not isinstance(record, type) or not issubclass(record, faust.Record):
            return None
        hints = get_type_hints(record)
        fields = cast("Any", record)._options.fields  # noqa: SLF001 - Faust's own list of fields
        return schema_from_annotations({name: hints[name] for name in fields})

    async def _next_slice(self, cursor: Cursor) -> tuple[Batch, int, int] | None:
        """Claim the unread rest of a batch, or what the closing gate still admits of it."""
        if any(not self._is_envelope_processor(p) for p in self._processors):
            message = (
                "batches() cannot be combined with filter(), group_by(), through() or echo(), "
                "which work on single values. Nothing of this batch was processed. Iterate over "
                "the stream itself, or filter the batch's columns."
            )
            raise ConfigError(message)
        batch = await cursor.next_batch()
        start, stop = cursor.index, len(batch.run.offsets)
        if cursor.gate.closed:
            if not await cursor.gate.admits(cursor, batch):
                return None
            stop = cursor.gate.admitted(batch)
        cursor.in_progress += 1
        cursor.index = stop
        if stop == len(batch.run.offsets):
            cursor.finish(batch)
        return batch, start, stop

    def _is_envelope_processor(self, processor: Any) -> bool:
        """Return whether a processor is the one that every agent has (unwrapping ``ask``)."""
        return isinstance(processor, MethodType) and processor.__func__ is _UNWRAP

    async def _finish_slice(self, event: RecordEvent, claimed: int) -> None:
        cursor = event.channel.cursor
        if event.batch.stamp is not cursor.gate.stamp:
            await self._after_abort()
            return
        self.handed_out = None
        event.live = False
        cursor.in_progress -= claimed
        cursor.gate.progressed()
        await asyncio.sleep(0)

    # -- what Faust has names for and nothing behind them --

    def _join(self, join_strategy: Any) -> StreamT:
        raise self._no_join(type(join_strategy).__name__)

    def combine(self, *nodes: Any, **options: Any) -> StreamT:
        """Refuse what would hand on the values of one stream as if they were joined.

        Raises:
            ConfigError: always; also for ``&``, ``join`` and its relatives.
        """
        del nodes, options
        raise self._no_join("combine")

    def _no_join(self, what: str) -> ConfigError:
        return ConfigError(
            f"{what} of {self} does nothing in Faust, and is no join here either. Nothing was "
            "consumed. Keep one side in a Table with the topic's partitions, or in a GlobalTable, "
            "and look it up."
        )

    # -- lists of records --

    async def take(self, max_: int, within: Any) -> AsyncGenerator[Sequence[Any], None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield lists of up to ``max_`` values of one partition, at the latest after ``within``."""
        async for events in self._lists(max_, within):
            yield [event.value for event in events]

    async def take_events(self, max_: int, within: Any) -> AsyncGenerator[Sequence[EventT], None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield lists of events, as `take` does with values."""
        async for events in self._lists(max_, within):
            yield cast("Sequence[EventT]", events)

    async def take_with_timestamp(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, max_: int, within: Any, timestamp_field_name: str
    ) -> AsyncGenerator[Sequence[Any], None]:
        """Yield lists of values; dict values get the record's timestamp under the given name."""
        async for events in self._lists(max_, within):
            for event in events:
                if isinstance(event.value, dict):
                    event.value[timestamp_field_name] = event.timestamp
            yield [event.value for event in events]

    async def noack_take(self, max_: int, within: Any) -> AsyncGenerator[Sequence[Any], None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield lists of events that the agent finishes itself with ``event.ack()``."""
        async for events in self._lists(max_, within, Acks.OF_READER):
            yield events

    async def _lists(
        self, most: int, within: Any, acks: Acks = Acks.OF_STREAM
    ) -> AsyncGenerator[list[RecordEvent], None]:
        channel = self.channel
        if not isinstance(channel, Topic):
            message = (
                f"take() needs a topic, and {channel} is none: its values carry no offsets. "
                "Iterate over the stream and collect the values yourself."
            )
            raise ConfigError(message)
        taker = Taker(self, channel, most, want_seconds(within) if within else None)
        started_here = await self._begin()
        handed_out: list[RecordEvent] = []
        try:
            async for events in taker.lists():
                handed_out = events
                self.handed_out = Blamed(
                    events[0].batch.partition, events[0].offset, events[-1].offset + 1, len(events)
                )
                stamp = events[0].batch.stamp
                yield events
                if stamp is not channel.cursor.gate.stamp:
                    await self._after_abort()
                elif acks is Acks.OF_STREAM:
                    taker.finish(events)
                else:
                    taker.leave(events)
                self.handed_out = None
        except StopAsyncIteration:
            return
        finally:
            settle(self, handed_out, acks)
            await self._end(channel, started_here=started_here)

    # -- repartitioning --

    def through(self, channel: str | ChannelT) -> StreamT:
        """Forward values to ``channel`` and read on from there, in the epochs of both topics."""
        target = cast(
            "ChannelT", self.derive_topic(channel) if isinstance(channel, str) else channel
        )
        derived, forwarding = self._forwarding(target, "through")

        async def forward(value: Any) -> Any:
            event = self.current_event
            if event is not None:
                await event.forward(target)
            return value

        forwarding(forward)
        return derived

    def group_by(
        self,
        key: Any,
        *,
        name: str | None = None,
        topic: Any = None,
        partitions: int | None = None,
    ) -> StreamT:
        """Repartition by a new key: through a topic of its own, within the epochs.

        Raises:
            TypeError: ``key`` is a callable and ``name`` is missing.
        """
        if not name:
            if not isinstance(key, FieldDescriptorT):
                message = "group_by with callback must set name=topic_suffix"
                raise TypeError(message)
            name = key.ident
        target = topic if topic is not None else self._repartition_topic(name, partitions)
        derived, forwarding = self._forwarding(target, "group_by")

        async def repartition(value: Any) -> Any:
            event = self.current_event
            if event is None:
                message = "Cannot repartition stream with non-topic channel"
                raise RuntimeError(message)
            new_key = await self._format_key(key, value)
            await event.forward(target, key=new_key)
            return value

        forwarding(repartition)
        return derived

    def _repartition_topic(self, name: str, partitions: int | None) -> Any:
        source = cast("Any", self.channel)
        runtime = runtime_of(self.app)
        prefix = f"{self.prefix}-" if self.prefix and not source.has_prefix else ""
        derived = source.derive(
            prefix=prefix,
            suffix=f"-{name}-repartition",
            partitions=partitions or self.app.conf.topic_partitions,
            internal=True,
            # Repartition topics carry event time; what was read is deleted by offset instead.
            config={"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)},
        )
        runtime.repartition_topics.update(derived.topics)
        return derived

    def _forwarding(self, target: Any, operation: str) -> tuple[StreamT, Any]:
        """Return the stream that reads ``target`` and a function that sets the forwarding step.

        The subscription of ``target`` is kept over restarts of the agent, so that a replayed
        attempt reads through the same cursor.
        """
        if self.concurrency_index is not None:
            message = f"Agent with concurrency>1 cannot use stream.{operation}!"
            raise ConfigError(message)
        if self._next is not None:
            message = "Stream already uses group_by/through"
            raise ConfigError(message)
        name = str(target)
        channel_it = self.subscriptions.get(name)
        if channel_it is None:
            channel_it = aiter(target)
            self.subscriptions[name] = channel_it
        derived = cast("Stream", self._chain(channel=channel_it))
        derived.subscriptions = self.subscriptions
        derived.restarted_by_agent = self.restarted_by_agent
        derived.reader = self.reader

        def step(processor: Any) -> None:
            self.add_processor(processor)
            self._enable_passive(cast("ChannelT", channel_it), declare=True)

        return derived, step

    async def _passive_drainer(self, channel: ChannelT, declare: bool = False) -> None:  # noqa: FBT001, FBT002 - Faust's signature
        """Drive a stream that forwards; an error is its record's, not that of the reading agent."""
        try:
            if declare:
                await channel.maybe_declare()
            self._passive_started.set()
            async for _ in self:
                pass
        except Exception as error:  # noqa: BLE001 - loop root: the record is to blame
            runtime_of(self.app).failures.failed(self, error)
        finally:
            self._passive = False

    async def _after_abort(self) -> None:
        """Leave an aborted attempt: an agent's actor is replaced, any other stream reads on."""
        if self.restarted_by_agent:
            await ghost()
