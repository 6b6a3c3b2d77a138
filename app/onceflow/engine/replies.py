"""Replies of ``ask``: read by this process alone, past the consumer group and the epochs.

A reply belongs to the process that asked. It is read committed, from the start of the process's
own reply topic, and offers no offsets to commit: after a crash nobody waits for it any more.
`ReplyConsumer` takes the place of Faust's: it starts without Faust's pause of 3 s, forgets
answered questions, and fails those whose request could not be sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from faust.agents.replies import ReplyConsumer as FaustReplyConsumer
from faust.models import maybe_model

from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.records import Batch
from onceflow.errors import DataAtRisk, OnceflowError
from onceflow.ids import Partition, Stamp
from onceflow.kafka.changelog import LOG_START
from onceflow.limits import REPLY_TOPICS_KEPT
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.agents.replies import ReplyPromise
    from faust.types import AppT, ChannelT

    from onceflow.engine.runtime import Runtime
    from onceflow.engine.topic import Topic
    from onceflow.kafka.records import Run

log = get_logger(__name__)

DELIVERY_HEADER = "onceflow-delivery"
"""Tells who answers that the question was sent outside of a transaction, and so must the reply."""

_POLL_RECORDS = 1000
_POLL_S = 0.05
_RETRY_S = 1.0
_STAMP = Stamp(-1, -1)
"""Replies are part of no attempt; their gate is always open."""


class ReplyConsumer(FaustReplyConsumer):
    """Hands replies to those who asked.

    Fields:
        answering: topics of other processes that replies went to, kept at hand.
    """

    def __init__(self, app: AppT, **options: Any) -> None:
        super().__init__(app, **options)
        self.answering: dict[str, Topic] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}

    async def add(self, correlation_id: str, promise: ReplyPromise) -> None:
        """Expect a reply; returns when its topic exists and is read.

        Raises:
            Unreachable: Kafka does not answer, so nobody could reply.
        """
        await self.start_reading(promise.reply_to)
        self._waiting[correlation_id].add(promise)

    async def start_reading(self, topic_name: str) -> None:
        """Make and read a reply topic of ours, once."""
        starting = self._starting.get(topic_name)
        if starting is None:
            starting = asyncio.ensure_future(self._begin_reading(topic_name))
            self._starting[topic_name] = starting
        try:
            await asyncio.shield(starting)
        except OnceflowError:
            self._starting.pop(topic_name, None)
            raise

    async def _begin_reading(self, topic_name: str) -> None:
        topic = self._reply_topic(topic_name)
        await topic.maybe_declare()
        self._fetchers[topic_name] = self.add_future(self._drain_replies(topic))

    async def _start_fetcher(self, topic_name: str) -> None:
        await self.start_reading(topic_name)

    async def _drain_replies(self, channel: ChannelT) -> None:
        async for reply in channel.stream():
            for promise in self._waiting.pop(reply.correlation_id, ()):
                if not promise.done():
                    promise.fulfill(reply.correlation_id, maybe_model(reply.value))

    def forget(self, correlation_id: str) -> None:
        """Expect this reply no more."""
        self._waiting.pop(correlation_id, None)

    def fail(self, correlation_id: str, error: BaseException) -> None:
        """Fail who waits for a reply that cannot come."""
        for promise in self._waiting.pop(correlation_id, ()):
            if not promise.done():
                promise.set_exception(error)

    def fail_all(self, error: BaseException) -> None:
        """Fail everybody who waits: replies are not read any more."""
        for correlation_id in list(self._waiting):
            self.fail(correlation_id, error)

    def answer_topic(self, name: str) -> Topic:
        """Return the topic to send a reply to; a missing one is made as a reply topic."""
        topic = self.answering.get(name)
        if topic is None:
            if len(self.answering) >= REPLY_TOPICS_KEPT:
                self.answering.clear()
            topic = self.answering[name] = cast("Topic", self._reply_topic(name))
        return topic


class Replies:
    """Reads reply topics into the streams that wait for them.

    Fields:
        topics: per reply topic the subscriptions that read it.
        positions: per reply topic the next offset to read.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.gate = Gate(_STAMP)
        self.gate.closed = False
        self.topics: dict[str, list[Topic]] = {}
        self.positions: dict[Partition, int] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def consumer(self) -> ReplyConsumer:
        """The service that knows who waits."""
        return cast("Any", self.runtime.app)._reply_consumer  # noqa: SLF001 - Faust's own wiring

    def follow(self, topic: Topic) -> None:
        """Read ``topic`` from here on; an iterated one receives the replies."""
        for name in topic.topics:
            readers = self.topics.setdefault(name, [])
            if topic.is_iterator and topic not in readers:
                topic.read_through(Cursor(self.gate, _keep_no_account))
                readers.append(topic)
                self.positions.setdefault(Partition(name, 0), LOG_START)
        if self._reading is None and self.positions:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._ended)

    async def _read(self) -> None:
        while True:
            try:
                await self._read_on()
            except DataAtRisk as error:
                # The topic was made again; nobody waits for what was in the old one.
                log.warning(LogEvent.REPLIES_INTERRUPTED, error=str(error))
                self.positions = dict.fromkeys(self.positions, LOG_START)
            except OnceflowError as error:
                log.warning(LogEvent.REPLIES_INTERRUPTED, error=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _read_on(self) -> None:
        """Read until an error; a topic that comes later is taken in by a new reader."""
        while True:
            following = dict(self.positions)
            reader = await asyncio.to_thread(self.runtime.clients.open_reader, following)
            try:
                while following.keys() == self.positions.keys():
                    for run in await asyncio.to_thread(reader.poll, _POLL_RECORDS, _POLL_S):
                        self._hand_out(run)
            finally:
                await asyncio.to_thread(reader.close)

    def _hand_out(self, run: Run) -> None:
        self.positions[run.partition] = run.offsets[-1] + 1
        readers = self.topics[run.topic]
        batch = Batch(run, _STAMP, len(readers))
        for topic in readers:
            topic.cursor.push(batch)

    def _ended(self, reading: asyncio.Task[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        if error is None:
            return
        self.consumer.fail_all(error)
        if self.runtime.is_worker:
            self.runtime.fail(error)

    async def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    def names(self) -> Iterable[str]:
        """Return the reply topics, which are not part of the group's subscription."""
        return self.topics.keys()


def _keep_no_account(batch: Batch) -> None:
    """Leave the back-pressure bound alone: replies are few and are not part of it."""
    del batch
