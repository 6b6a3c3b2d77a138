"""Topics whose subscriptions read whole batches, and whose sends join the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import faust

from onceflow.engine.codecs import (
    is_stock_schema,
    key_decoder,
    key_encoder,
    value_decoder,
    value_encoder,
)
from onceflow.engine.declaring import note_topic
from onceflow.engine.runtime import runtime_of
from onceflow.engine.sender import not_encoded
from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faust.types import AppT, EventT, FutureMessage, RecordMetadata

    from onceflow.engine.gate import Cursor
    from onceflow.engine.sender import Sender


class _Codecs(NamedTuple):
    decode_key: Callable[[bytes | None], Any]
    decode_value: Callable[[bytes | None], Any]
    encode_key: Callable[[Any], bytes | None]
    encode_value: Callable[[Any], bytes | None]


class Topic(faust.Topic):
    """A Faust topic. One that is iterated has a `Cursor`, through which its streams read."""

    is_kept = False
    """Whether the agent that reads it is being restarted: the subscription outlives its readers."""

    _cursor: Cursor | None = None
    _sender: Sender | None = None

    def __init__(self, app: AppT, **options: Any) -> None:
        if options.get("pattern") is not None:
            message = (
                f"The topic pattern {options['pattern']!r} cannot be used: which topics form a "
                "task would change while the app runs, and state would land on other partitions. "
                "Nothing was consumed. Name the topics instead: app.topic('a', 'b')."
            )
            raise ConfigError(message)
        super().__init__(app, **options)
        self._codecs: _Codecs | None = None
        if options.get("root") is None:
            note_topic(self)

    def _compile_decode(self) -> None:
        """Leave Faust's per-message decoder out: batches are decoded by the stream."""

    @property
    def codecs(self) -> _Codecs:
        """The functions that decode and encode this topic's keys and values.

        Raises:
            ConfigError: a schema that needs a message per record; nothing was consumed.
        """
        if self._codecs is None:
            if not is_stock_schema(self.schema):
                raise ConfigError(
                    f"The schema {type(self.schema).__name__} of topic {self} overrides how keys "
                    "or values are loaded or dumped, which needs a message per record. Nothing "
                    "was consumed. Put the decoding into a codec (faust.Codec) or into the value "
                    "type instead."
                )
            self._codecs = _Codecs(
                key_decoder(self.app, self),
                value_decoder(self.app, self),
                key_encoder(self.app, self),
                value_encoder(self.app, self),
            )
        return self._codecs

    @property
    def cursor(self) -> Cursor:
        """The reading place of this subscription, shared by the actors that iterate it."""
        if self._cursor is None:
            self._cursor = runtime_of(self.app).new_cursor()
        return self._cursor

    def read_through(self, cursor: Cursor) -> None:
        """Use ``cursor`` instead of one that takes part in the epochs (reply topics)."""
        self._cursor = cursor

    async def send(  # noqa: PLR0913 - Faust's signature, and how it is delivered
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        schema: Any = None,
        key_serializer: Any = None,
        value_serializer: Any = None,
        callback: Any = None,
        force: bool = False,
        delivery: str = "exactly_once",
    ) -> Awaitable[RecordMetadata]:
        """Send a record: in the epoch of the record being processed, or through the outbox.

        Takes Faust's arguments, and ``delivery="at_least_once"`` to send outside the transaction
        at once, with what its name says.

        Raises:
            SerializationError: key or value cannot be encoded or is too large; the record being
                processed is to blame.
        """
        del force
        name = self.get_topic_name()
        try:
            if schema is None and key_serializer is None and value_serializer is None:
                codecs = self._codecs or self.codecs
                key_bytes, value_bytes = codecs.encode_key(key), codecs.encode_value(value)
            else:
                key_bytes, _ = self.prepare_key(key, key_serializer, schema, {})
                value_bytes, _ = self.prepare_value(value, value_serializer, schema, {})
        except Exception as error:
            raise not_encoded(name, key, value, error) from error
        sender = self._sender or self.sender
        if name not in sender.existing:
            await sender.declarations.ensure(name)
        sent = sender.send(
            name, key_bytes, value_bytes, partition, timestamp, headers, delivery=delivery
        )
        if callback is not None:
            sender.call_back(
                sent,
                self.as_future_message(
                    key_bytes,
                    value_bytes,
                    partition,
                    timestamp,
                    headers,
                    key_serializer="raw",
                    value_serializer="raw",
                    callback=callback,
                ),
            )
        return sent

    @property
    def sender(self) -> Sender:
        """Where the app's sends go, kept at hand."""
        if self._sender is None:
            self._sender = runtime_of(self.app).sender
        return self._sender

    async def publish_message(
        self,
        fut: FutureMessage,
        wait: bool = False,  # noqa: FBT001, FBT002 - Faust's signature
    ) -> Awaitable[RecordMetadata]:
        """Send an already encoded message (Faust's internal path)."""
        name = self._topic_name_or_default(fut.message.channel)
        await self.sender.declarations.ensure(name)
        sent = self.sender.send_message(name, fut)
        if wait:
            await sent
        return sent

    async def maybe_declare(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - Faust wraps its own in an object
        """Make the topic if it is missing; see `declare`.

        Faust shares one call among its callers, and one of them that is cancelled, because the
        worker is stopped while it starts, makes the others fail.
        """
        await self.declare()

    async def declare(self) -> None:
        """Make the topic if it is missing, with the brokers' replication unless one was set.

        Raises:
            TopologyError: it belongs to the app (a changelog, a repartition topic) and exists with
                another number of partitions.
        """
        if not self.app.conf.topic_allow_declare:
            return
        declarations = self.sender.declarations
        for name in self.topics:
            if self.internal:
                await declarations.declare_own(name)
            else:
                await declarations.ensure(name)

    async def throw(self, exc: BaseException) -> None:
        """Raise ``exc`` in the stream that iterates this subscription."""
        self._throw(exc)

    def _throw(self, exc: BaseException) -> None:
        self.cursor.throw(exc)

    async def put(self, event: EventT) -> None:  # noqa: ARG002 - Faust's signature
        """Refuse: an event put past Kafka has no offset, so it could not be exactly once."""
        message = (
            f"put() on topic {self} bypasses Kafka: the event would have no offset and be lost or "
            "repeated by a crash. Send it to the topic, or use app.channel() for in-memory events."
        )
        raise ConfigError(message)

    def forget_cursor(self) -> None:
        """Read through a new cursor the next time."""
        self._cursor = None

    def on_stop_iteration(self) -> None:
        """Take part in no further epoch once an isolated partition's iteration ended."""
        if self.is_kept:
            return
        if self.active_partitions is not None and self._cursor is not None:
            runtime_of(self.app).gate.discard(self._cursor)
        super().on_stop_iteration()
