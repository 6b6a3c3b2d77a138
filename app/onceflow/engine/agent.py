"""Agents whose failures abort the epoch instead of losing the record.

Faust acknowledges the record on which an agent raised and starts the agent again on the next one.
Here the failure goes to the agent's ``on_error`` policy; the epoch is aborted, and after the rewind
the engine starts fresh actors on the same subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import faust
from faust.agents import agent as faust_agent
from faust.agents.replies import ReplyPromise

from onceflow.engine.records import current_record
from onceflow.engine.replies import DELIVERY_HEADER
from onceflow.engine.runtime import runtime_of
from onceflow.engine.topic import Topic
from onceflow.errors import ConfigError, OutsideRecord, ProcessingError
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.settings import OnError
from onceflow.sinks.outbox import OutboxSink
from onceflow.sinks.participant import Participant

if TYPE_CHECKING:
    from faust.types import ChannelT, StreamT
    from mode.utils.types.trees import NodeT

    from onceflow.engine.sender import Sender
    from onceflow.engine.stream import Stream

    ActorRef = Any

__all__ = ["Agent"]

log = get_logger(__name__)

_OURS = (Participant, OutboxSink)
"""Sinks that Faust does not know."""

_CANCELS = 5
_CANCEL_S = 0.5
"""How often, and how far apart, actors of an aborted attempt are cancelled: a revoke has 5 s."""
_current_agent = cast("Any", faust_agent)._current_agent  # noqa: SLF001 - faust.current_agent()
_current_actor: ContextVar[ActorRef] = ContextVar("current_actor")
"""The actor that the running task is, for the records that its yields are made of."""


class Agent(faust.Agent):
    """A Faust agent, with a policy of its own for failing records if it is given one.

    Attributes:
        policy: the agent's own ``on_error`` policy, or None for the settings' one.
        participants: two-phase sinks among the agent's sinks.
        outbox_sinks: those of its sinks whose rows follow Kafka's decision.
    """

    def __init__(self, fun: Any, *, error_policy: str | None = None, **options: Any) -> None:
        """Make the agent; ``error_policy`` is what `onceflow.App.agent` takes as ``on_error``.

        Raises:
            ConfigError: there is no such policy; nothing was consumed.
        """
        self.policy: OnError | None = None
        if error_policy is not None:
            policies = [policy.value for policy in OnError]
            if error_policy not in policies:
                raise ConfigError(
                    f"on_error={error_policy!r} of an agent is unknown. Nothing was consumed. "
                    f"Use one of {', '.join(policies)}."
                )
            self.policy = OnError(error_policy)
        self.participants: list[Participant] = []
        self.outbox_sinks: list[OutboxSink] = []
        sinks: list[Any] = list(options.pop("sink", None) or ())
        super().__init__(fun, sink=[s for s in sinks if not isinstance(s, _OURS)], **options)
        for sink in sinks:
            if isinstance(sink, _OURS):
                self.add_sink(sink)
        self._subscriptions: dict[str, Any] = {}

    def add_sink(self, sink: Any) -> None:
        """Add a sink: any that Faust takes, or one of ours before the worker starts."""
        if isinstance(sink, Participant):
            if all(each is not sink for each in self.participants):
                self.participants.append(sink)
        elif isinstance(sink, OutboxSink):
            if all(each is not sink for each in self.outbox_sinks):
                self.outbox_sinks.append(sink)
        else:
            super().add_sink(sink)

    async def _delegate_to_sinks(self, value: Any) -> None:
        if self.participants or self.outbox_sinks:
            stream = cast("Stream", _current_actor.get().stream.get_active_stream())
            runtime = runtime_of(self.app)
            for participant in self.participants:
                runtime.participants.rows.add(participant, value, stream)
            for sink in self.outbox_sinks:
                runtime.outbox_sinks.add(sink, value, stream)
        await super()._delegate_to_sinks(value)

    async def _prepare_actor(self, aref: ActorRef, beacon: NodeT) -> ActorRef:
        if (self.participants or self.outbox_sinks) and isinstance(aref, Awaitable):
            raise ConfigError(
                f"Agent {self.name} has sinks, but yields nothing to them. Nothing was consumed. "
                "Yield the rows, or take the sinks away."
            )
        return await super()._prepare_actor(aref, beacon)

    def stream(
        self, channel: ChannelT | None = None, active_partitions: Any = None, **options: Any
    ) -> StreamT:
        """Make the stream of an actor; its derived subscriptions outlive the actor."""
        stream = cast(
            "Stream", super().stream(channel, active_partitions=active_partitions, **options)
        )
        stream.restarted_by_agent = True
        stream.reader = self.name
        stream.subscriptions = self._subscriptions
        return stream

    async def _execute_actor(self, coro: Awaitable[Any], aref: ActorRef) -> None:
        if not isinstance(self.channel, Topic):
            # Values in memory have no offsets to replay: Faust's own way, a supervised restart.
            await super()._execute_actor(coro, aref)
            return
        _current_agent.set(self)
        _current_actor.set(aref)
        try:
            await coro
        except asyncio.CancelledError as error:
            if self.should_stop:
                raise
            if not _is_cancelled():
                # The agent awaited something that somebody else cancelled. Its record is not done.
                failure = ProcessingError(
                    f"agent {self.name} awaited something that was cancelled ({error!r}); its "
                    "record is replayed. Catch CancelledError where that is expected."
                )
                failure.__cause__ = error
                await self._report(cast("Stream", aref.stream.get_active_stream()), failure)
        except Exception as error:  # noqa: BLE001 - loop root: the agent's own code raised
            await self._report(cast("Stream", aref.stream.get_active_stream()), error)

    async def _report(self, stream: Stream, error: Exception) -> None:
        """Tell the failure to the policy and to the user's callback; a bug in either is fatal."""
        runtime = runtime_of(self.app)
        try:
            runtime.failures.failed(stream, error)
            if self._on_error is not None:
                await self._on_error(self, error)
        except Exception as fault:  # noqa: BLE001 - loop root: else the epoch would never drain
            runtime.fail(fault)

    def live_actors(self) -> list[ActorRef]:
        """Return the actors that run."""
        return [aref for aref in self._actors if aref.actor_task is not None]

    async def replace_actors(self) -> None:
        """End all actors and start fresh ones on the same subscriptions (after an abort)."""
        if not isinstance(self.channel, Topic):
            return
        old = self.live_actors()
        channels = [aref.stream.get_root_stream().channel for aref in old]
        topics = [channel for channel in channels if isinstance(channel, Topic)]
        for topic in topics:
            topic.is_kept = True
        await self._end_actors([aref.actor_task for aref in old])
        self._actors.clear()
        for aref in old:
            self.supervisor.discard(aref)
            await cast("Stream", aref.stream.get_root_stream()).stop()
        for topic in topics:
            topic.is_kept = False
        for aref, channel in zip(old, channels, strict=True):
            replacement = await self._start_one(
                index=aref.index, active_partitions=aref.active_partitions, channel=channel
            )
            self.supervisor.add(replacement)
            await replacement.maybe_start()
            for tp in aref.active_partitions or ():
                self._actor_by_partition[tp] = replacement

    async def restart(self) -> None:
        """Start fresh actors on the same subscriptions; returns when they read.

        What is not committed is processed again, the records in progress with it.
        """
        runtime = runtime_of(self.app)
        if isinstance(self.channel, Topic) and runtime.is_worker:
            await runtime.epochs.replay()
        else:
            await super().restart()

    async def _end_actors(self, actors: list[asyncio.Task[Any]]) -> None:
        """Cancel actors until they end: user code, and ``asyncio.wait_for``, may swallow one.

        One that still does not end is left behind as a ghost. It can do no harm, since its attempt
        is aborted and what it writes and sends is refused; waiting would stop the worker.
        """
        left = {actor for actor in actors if not actor.done()}
        for _ in range(_CANCELS):
            if not left:
                return
            for actor in left:
                actor.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_S)
        log.error(
            LogEvent.RECORD_FAILED,
            agent=self.name,
            error=f"{len(left)} actors of an aborted attempt do not end when they are cancelled; "
            "they are left behind. Let CancelledError pass in the agent",
        )

    # -- requests that wait --

    async def ask(
        self,
        value: Any = None,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        reply_to: Any = None,
        correlation_id: str | None = None,
        delivery: str = "exactly_once",
    ) -> Any:
        """Send a request and wait for its reply.

        Raises:
            OutsideRecord: called while processing a record with exactly-once delivery: the request
                would be sent by the very transaction that waits for its reply.
            SerializationError: the request cannot be encoded or is too large.
            OutcomeUnknown: whether the request was sent cannot be told any more.
        """
        self._refuse_wait("ask", delivery)
        runtime = runtime_of(self.app)
        replies = runtime.replies.consumer
        if delivery != "exactly_once":
            self._refuse_hidden(runtime.sender)
            # Behind a reply of an open epoch another one could not be read, so these have a topic
            # of their own.
            reply_to = reply_to or f"{self.app.conf.reply_to}-outside"
        reply_to = self._get_strtopic(reply_to or self.app.conf.reply_to)
        promise = ReplyPromise(reply_to, correlation_id or str(uuid4()))
        await replies.add(promise.correlation_id, promise)
        if delivery != "exactly_once":
            headers = [*_pairs(headers), (DELIVERY_HEADER, delivery)]
        with runtime.sender.outside(delivery):
            await self._request(promise, key, value, partition, timestamp, headers)
        try:
            await cast("Any", self.app).maybe_start_client()
            if current_record() is None:
                return await promise
            with runtime.gate.answering(self._get_strtopic(self.channel)):
                return await promise
        finally:
            replies.forget(promise.correlation_id)

    async def ask_nowait(
        self,
        value: Any = None,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        reply_to: Any = None,
        correlation_id: str | None = None,
        force: bool = False,
    ) -> ReplyPromise:
        """Send a request and return the promise of its reply."""
        del force
        if reply_to is None:
            message = "Missing reply_to argument"
            raise TypeError(message)
        promise = ReplyPromise(self._get_strtopic(reply_to), correlation_id or str(uuid4()))
        await self._request(promise, key, value, partition, timestamp, headers)
        return promise

    async def _request(
        self,
        promise: ReplyPromise,
        key: Any,
        value: Any,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
    ) -> None:
        """Send a request; who waits for its reply fails with it if it cannot be sent."""
        value, headers = self._create_req(
            key, value, promise.reply_to, promise.correlation_id, headers
        )
        sent = await self.channel.send(
            key=key, value=value, partition=partition, timestamp=timestamp, headers=headers
        )
        replies = runtime_of(self.app).replies.consumer

        def failed(done: asyncio.Future[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                replies.fail(promise.correlation_id, error)

        if isinstance(sent, asyncio.Future):
            sent.add_done_callback(failed)

    async def _reply(self, key: Any, value: Any, reply_to: str, correlation_id: str) -> None:
        response = self._response_class(value)(key=key, value=value, correlation_id=correlation_id)
        event = current_record()
        asked_outside = event is not None and DELIVERY_HEADER in event.headers
        await (
            runtime_of(self.app)
            .replies.consumer.answer_topic(reply_to)
            .send(value=response, delivery="at_least_once" if asked_outside else "exactly_once")
        )

    def map(self, values: Any, key: Any = None, reply_to: Any = None) -> Any:
        """Send requests for ``values`` and iterate over the replies as they come."""
        self._refuse_wait("map", "exactly_once")
        return super().map(values, key=key, reply_to=reply_to)

    def kvmap(self, items: Any, reply_to: Any = None) -> Any:
        """Send keyed requests and iterate over the replies as they come."""
        self._refuse_wait("kvmap", "exactly_once")
        return super().kvmap(items, reply_to=reply_to)

    async def join(self, values: Any, key: Any = None, reply_to: Any = None) -> list[Any]:
        """Send requests for ``values`` and return all replies in order."""
        self._refuse_wait("join", "exactly_once")
        return await super().join(values, key=key, reply_to=reply_to)

    async def kvjoin(self, items: Any, reply_to: Any = None) -> list[Any]:
        """Send keyed requests and return all replies in order."""
        self._refuse_wait("kvjoin", "exactly_once")
        return await super().kvjoin(items, reply_to=reply_to)

    def _refuse_hidden(self, sender: Sender) -> None:
        """Refuse a question that nobody could read before the record that asks it is committed."""
        if current_record() is None or not sender.produced.get(self._get_strtopic(self.channel)):
            return
        raise OutsideRecord(
            f"The present epoch has sent to {self.channel}, and what is written behind its open "
            "transaction cannot be read before its commit, which waits for this record. Nothing "
            "was asked. The record is replayed alone, which helps unless it sends to that agent "
            "itself before it asks; let another topic carry either."
        )

    def _refuse_wait(self, operation: str, delivery: str) -> None:
        if delivery == "exactly_once" and current_record() is not None:
            raise OutsideRecord(
                f"{operation}() inside an agent would wait for its own transaction: the request "
                "becomes visible only when the record that waits for the reply is committed. "
                "Nothing was sent. Use cast() or send() and read the answer from a topic, or "
                "ask(..., delivery='at_least_once'), which sends outside the transaction."
            )


def _is_cancelled() -> bool:
    """Return whether somebody asked the running task itself to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    """Return Faust's headers, a mapping or pairs, as pairs."""
    return list(headers.items() if isinstance(headers, Mapping) else headers or ())
