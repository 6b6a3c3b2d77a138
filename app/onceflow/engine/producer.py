"""Faust's producer service: every send of the app goes through the runtime's sender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from faust.transport.producer import Producer as FaustProducer
from faust.types import TP

from onceflow.engine.declaring import TopicArguments, replication_factor, topic_config
from onceflow.errors import TopologyError
from onceflow.kafka.partitioner import partition_for
from onceflow.limits import PRODUCER_STOP_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from faust.types import FutureMessage, RecordMetadata

    from onceflow.engine.runtime import Runtime


class Producer(FaustProducer):
    """The producer that Faust's app sees; also its transaction manager.

    Faust's transaction manager opens one transaction per destination partition, apart from the
    input offsets; here there is one per worker and epoch, so both are the same object.
    """

    def __init__(self, transport: Any, *args: Any, **options: Any) -> None:
        self.runtime: Runtime = transport.runtime
        super().__init__(transport, *args, **options)

    async def on_start(self) -> None:
        """Look whether somebody listens to sends; producers are made when they are needed."""
        signal = cast("Any", self.app).on_produce_message
        if any(True for _ in signal.iter_receivers(self.app)):
            self.runtime.sender.announce = signal.send

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Send an encoded record in the epoch, or through the outbox."""
        del transactional_id
        await self.runtime.declarations.ensure(topic)
        return self.runtime.sender.send(topic, key, value, partition, timestamp, headers)

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send and await the answer: at once for a record, after the commit from outside."""
        del transactional_id
        return await (await self.send(topic, key, value, partition, timestamp, headers))

    def send_soon(self, fut: FutureMessage) -> None:
        """Send from code that cannot await."""
        name = cast("Any", fut.message.channel).get_topic_name()
        self.runtime.sender.send_message(name, fut)

    async def flush(self) -> None:
        """Wait for sends outside of transactions; those inside are flushed by their commit."""
        if not self.runtime.is_worker:
            await self.runtime.clients.flush_plain(PRODUCER_STOP_S)

    async def create_topic(  # noqa: PLR0913 - Faust's signature
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Any = 30.0,  # noqa: ASYNC109 - Faust's signature
        retention: Any = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Make a topic if it does not exist.

        Raises:
            TopologyError: it exists with another partition count.
        """
        del ensure_created, timeout
        described = TopicArguments(config or {}, compacting, deleting, retention)
        description = await self.runtime.clients.admin.create_topic(
            topic,
            partitions,
            replication_factor=replication_factor(self.app, replication),
            config=topic_config(described),
        )
        self.runtime.declarations.seen(topic, description)

    def key_partition(self, topic: str, key: bytes | None) -> TP:
        """Return where a key goes: murmur2, as Java's producer decides.

        Raises:
            TopologyError: the topic's partition count is not known to this process.
        """
        count = self.runtime.partition_counts_known.get(topic)
        if count is None:
            raise TopologyError(
                f"The partition count of {topic} is not known in this process, so the partition "
                "of a key cannot be told. Nothing was sent. Declare the topic first: "
                "await topic.maybe_declare()."
            )
        return TP(topic, partition_for(key, count) or 0)

    def supports_headers(self) -> bool:
        """Return True."""
        return True

    # -- as transaction manager --

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Have nothing to do: the epochs commit and release."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP]
    ) -> None:
        """Have nothing to do: the takeover claims."""
