"""Agents whose failures abort the epoch instead of losing the record.

Faust acknowledges the record on which an agent raised and starts the agent again on the next one.
Here the failure goes to the agent's ``on_error`` policy; the epoch is aborted, and after the rewind
the engine starts fresh actors on the same subscriptions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import faust
from faust.agents import agent as faust_agent

from onceflow.engine.records import current_record
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError, OutsideRecord
from onceflow.settings import OnError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from faust.types import ChannelT, StreamT

    from onceflow.engine.stream import Stream

    ActorRef = Any

__all__ = ["Agent"]
_current_agent = cast("Any", faust_agent)._current_agent  # noqa: SLF001 - faust.current_agent()


class Agent(faust.Agent):
    """A Faust agent. ``on_error`` may be a policy's name besides Faust's callback.

    Attributes:
        policy: the agent's own ``on_error`` policy, or None for the settings' one.
    """

    def __init__(self, fun: Any, *, on_error: Any = None, **options: Any) -> None:
        self.policy: OnError | None = None
        if isinstance(on_error, str):
            policies = [policy.value for policy in OnError]
            if on_error not in policies:
                raise ConfigError(
                    f"on_error={on_error!r} of agent {options.get('name')} is unknown. Nothing "
                    f"was consumed. Use one of {', '.join(policies)}, or a callback."
                )
            self.policy, on_error = OnError(on_error), None
        super().__init__(fun, on_error=on_error, **options)
        self._subscriptions: dict[str, Any] = {}

    def stream(
        self, channel: ChannelT | None = None, active_partitions: Any = None, **options: Any
    ) -> StreamT:
        """Make the stream of an actor; its derived subscriptions outlive the actor."""
        stream = cast(
            "Stream", super().stream(channel, active_partitions=active_partitions, **options)
        )
        stream.restarted_by_agent = True
        stream.subscriptions = self._subscriptions
        return stream

    async def _execute_actor(self, coro: Awaitable[Any], aref: ActorRef) -> None:
        _current_agent.set(self)
        try:
            await coro
        except asyncio.CancelledError:
            if self.should_stop:
                raise
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
        old = self.live_actors()
        for aref in old:
            aref.actor_task.cancel()
        await asyncio.gather(*(aref.actor_task for aref in old), return_exceptions=True)
        self._actors.clear()
        channels: dict[int, ChannelT] = {}
        for aref in old:
            root = cast("Stream", aref.stream.get_root_stream())
            channel = cast("ChannelT", root.channel)
            channels[id(channel)] = channel
            self.supervisor.discard(aref)
            await root.stop()
        for aref in old:
            replacement = await self._start_one(
                index=aref.index,
                active_partitions=aref.active_partitions,
                channel=cast("ChannelT", cast("Stream", aref.stream.get_root_stream()).channel),
            )
            self.supervisor.add(replacement)
            await replacement.maybe_start()
            if aref.active_partitions:
                for tp in aref.active_partitions:
                    self._actor_by_partition[tp] = replacement

    # -- requests that wait --

    async def ask(
        self, value: Any = None, *, delivery: str = "exactly_once", **options: Any
    ) -> Any:
        """Send a request and wait for its reply.

        Raises:
            OutsideRecord: called while processing a record with exactly-once delivery: the request
                would be sent by the very transaction that waits for its reply.
        """
        self._refuse_wait("ask", delivery)
        reply_to = options.pop("reply_to", None) or self.app.conf.reply_to
        consumer = cast("Any", self.app)._reply_consumer  # noqa: SLF001 - Faust's own wiring
        await consumer._start_fetcher(self._get_strtopic(reply_to))  # noqa: SLF001
        with runtime_of(self.app).sender.outside(delivery):
            return await super().ask(value, reply_to=reply_to, **options)

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

    def _refuse_wait(self, operation: str, delivery: str) -> None:
        if delivery == "exactly_once" and current_record() is not None:
            raise OutsideRecord(
                f"{operation}() inside an agent would wait for its own transaction: the request "
                "becomes visible only when the record that waits for the reply is committed. "
                "Nothing was sent. Use cast() or send() and read the answer from a topic, or "
                "ask(..., delivery='at_least_once'), which sends outside the transaction."
            )
