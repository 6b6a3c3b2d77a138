"""The Kafka clients of one process: administration, producers, offsets, and their threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from onceflow.decisions.marker import CommittedOffset, parse
from onceflow.ids import Offset
from onceflow.kafka.admin import Admin
from onceflow.kafka.changelog import ChangelogReader
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.offsets import CommittedOffsets, Stability
from onceflow.kafka.plain import PlainProducer
from onceflow.kafka.producer import TransactionalProducer
from onceflow.kafka.threads import CallThread
from onceflow.limits import FENCE_S_MAX, OFFSETS_S_MAX
from onceflow.observe.logs import librdkafka_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from faust.types import AppT

    from onceflow.ids import Incarnation, Partition
    from onceflow.settings import Settings

PRODUCER_NUMBERS = (0, 1)
"""Ends of the two transactional ids of an incarnation; a takeover fences both."""


class Makers(NamedTuple):
    """What makes each kind of client; the topology driver puts a log in memory in their place."""

    admin: Callable[[ClientConfig], Admin]
    plain: Callable[[ClientConfig, asyncio.AbstractEventLoop], PlainProducer]
    transactional: Callable[[ClientConfig, str, int], TransactionalProducer]
    offsets: Callable[[ClientConfig], CommittedOffsets]
    reader: Callable[[ClientConfig, Mapping[Partition, int]], ChangelogReader]


KAFKA = Makers(Admin, PlainProducer, TransactionalProducer, CommittedOffsets, ChangelogReader)


class Clients:
    """Clients that are made when they are first needed, or when the worker starts.

    Fields:
        config: where Kafka is and how to reach it.
        transaction: the transactional producer of the present epoch; advanced by `take_turns`.
        transaction_thread: runs blocking transaction calls.
        makers: what the clients are made by.
    """

    def __init__(
        self, app: AppT, bootstrap_servers: str, settings: Settings, incarnation: Incarnation
    ) -> None:
        self.config = ClientConfig(
            bootstrap_servers,
            cast("dict[str, str]", dict(settings.kafka)),
            client_id=cast("Any", app).conf.broker_client_id,
            logger=librdkafka_logger(),
        )
        self.makers = KAFKA
        self.transaction_thread: CallThread = cast("Any", None)
        self.transaction: TransactionalProducer = cast("Any", None)
        self._app = app
        self._settings = settings
        self._incarnation = incarnation
        self._transactions: list[TransactionalProducer] = []
        self._turn = 0
        self._admin: Admin | None = None
        self._plain: PlainProducer | None = None
        self._offsets: CommittedOffsets | None = None

    @property
    def admin(self) -> Admin:
        """Administration of the cluster."""
        if self._admin is None:
            self._admin = self.makers.admin(self.config)
        return self._admin

    def plain(self) -> PlainProducer:
        """Return the producer of sends outside of transactions."""
        if self._plain is None:
            self._plain = self.makers.plain(self.config, asyncio.get_running_loop())
        return self._plain

    def open_reader(self, positions: Mapping[Partition, int]) -> ChangelogReader:
        """Open a reader of whole partitions, for one thread; blocks. Raises as the reader does."""
        return self.makers.reader(self.config, positions)

    async def start(self) -> None:
        """Make the transactional producers of this incarnation.

        Raises:
            Unreachable: Kafka does not answer; exit 3.
            ConfigError: a setting or right is wrong; exit 2.
        """
        await self.admin.cluster_id()
        self.transaction_thread = CallThread()
        self._transactions = [await self._make_producer(number) for number in PRODUCER_NUMBERS]
        self.transaction = self._transactions[self._turn]

    async def _make_producer(self, number: int) -> TransactionalProducer:
        transactional_id = f"{self._app.conf.id}.{self._incarnation}.{number}"
        producer = self.makers.transactional(
            self.config, transactional_id, self._settings.transaction_timeout_ms
        )
        await self.transaction_thread.run(producer.init, FENCE_S_MAX, timeout_s=FENCE_S_MAX * 2)
        return producer

    def take_turns(self) -> None:
        """Let the other producer carry the next epoch.

        The first produce of a transaction waits until the markers of the same producer's last one
        are written (20 ms and more); with two in turn they are written meanwhile. There is still
        one transaction at a time: an epoch begins after the last one's outcome is known.
        """
        self._turn = (self._turn + 1) % len(self._transactions)
        self.transaction = self._transactions[self._turn]

    async def replace_producer(self) -> None:
        """Destroy a spent producer and make one with the same id, which fences the old one."""
        await self.transaction_thread.run(self.transaction.destroy, timeout_s=FENCE_S_MAX)
        self.transaction = await self._make_producer(self._turn)
        self._transactions[self._turn] = self.transaction

    async def read_offsets(
        self, partitions: Iterable[Partition], stability: Stability
    ) -> dict[Partition, CommittedOffset]:
        """Read committed offsets and markers of the app's group.

        Raises:
            Pending: a transaction holds them back (stable reads only).
            Unreachable: no answer within the bound.
            DataAtRisk: metadata that this version does not understand.
        """
        if self._offsets is None:
            self._offsets = self.makers.offsets(self.config)
        found = await self._offsets.committed(
            self._app.conf.id, partitions, stability, OFFSETS_S_MAX
        )
        return {
            partition: CommittedOffset(
                None if at.offset is None else Offset(at.offset), parse(at.metadata)
            )
            for partition, at in found.items()
        }

    async def flush_plain(self, timeout_s: float) -> None:
        """Wait for sends outside of transactions."""
        if self._plain is not None:
            await self._plain.flush(timeout_s)

    async def stop(self) -> None:
        """End all clients and their threads."""
        if self._plain is not None:
            await self._plain.stop()
        for transaction in self._transactions:
            await self.transaction_thread.run(transaction.destroy, timeout_s=FENCE_S_MAX)
        if self._transactions:
            self.transaction_thread.stop()
        if self._offsets is not None:
            # Waits for threads of the client library to end.
            await asyncio.to_thread(self._offsets.close)
        if self._admin is not None:
            self._admin.close()
