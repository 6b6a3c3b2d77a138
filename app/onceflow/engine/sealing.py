"""The seal of an epoch: what tables and aggregates changed becomes changelog and rows.

Everything that keeps state in stores takes part through one interface (`Sealable`): tables and
columnar aggregates. Changelog records go out once per changed key; the delivery report of the last
one per changelog partition tells the position that the store will have after the epoch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from onceflow.errors import TransactionAborted, invariant
from onceflow.kafka.errors import ProducerFull
from onceflow.state.overlay import Changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.engine.table_partition import SealedRows
    from onceflow.kafka.producer import TransactionalProducer


class Sealable(Protocol):
    """State that is sealed with an epoch: `tables.Table` and `aggregates.WindowedAggregate`."""

    name: str
    changelog_topic_name: str

    def seal(self) -> dict[int, SealedRows]:
        """Return the changed rows per partition number."""
        ...


class Sealed:
    """What one epoch changes in the stores.

    Fields:
        changes: per (table, partition number) the rows to apply.
        positions: per (table, partition number) the changelog offset after the epoch; filled by
            delivery reports on the transaction thread before the commit returns.
        is_committed: whether Kafka committed the epoch and the changes have their positions.
    """

    __slots__ = ("changes", "is_committed", "positions", "records")

    def __init__(self) -> None:
        self.changes: dict[tuple[str, int], Changes] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.records: dict[str, int] = {}
        self.is_committed = False

    def placed(self) -> None:
        """Give the changes their positions, once the transaction is committed."""
        unplaced = sorted(self.changes.keys() - self.positions.keys())
        invariant(
            not unplaced,
            "INV-STATE-1: an epoch is applied only with the changelog positions of its commit",
            unplaced=unplaced,
        )
        self.changes = {
            where: change._replace(position=self.positions[where])
            for where, change in self.changes.items()
        }
        self.is_committed = True


async def seal(sources: Iterable[Sealable], transaction: TransactionalProducer) -> Sealed:
    """Produce the changelog records of all changes into the open transaction.

    Raises:
        TransactionAborted: the producer's queue did not drain; the epoch is aborted and replayed.
        SerializationError: a row is too large for Kafka; the epoch is aborted.
    """
    sealed = Sealed()
    for source in sources:
        for number, rows in source.seal().items():
            where = (source.name, number)
            sealed.changes[where] = Changes(
                list(zip(rows.store_keys, rows.values, strict=True)), tuple(rows.deleted_ranges)
            )
            sealed.records[source.changelog_topic_name] = sealed.records.get(
                source.changelog_topic_name, 0
            ) + len(rows)
            await _produce(source.changelog_topic_name, where, rows, sealed, transaction)
    return sealed


async def _produce(
    topic: str,
    where: tuple[str, int],
    rows: SealedRows,
    sealed: Sealed,
    transaction: TransactionalProducer,
) -> None:
    last = len(rows) - 1
    keys, values = rows.changelog_keys, rows.produced_values()
    await produce_all(transaction, topic, where[1], keys[:last], values[:last])

    def delivered(error: Any, message: Any) -> None:
        if error is None:
            sealed.positions[where] = message.offset() + 1

    for _ in range(_ROUNDS):
        try:
            transaction.produce(topic, values[last], keys[last], where[1], on_delivery=delivered)
        except ProducerFull:
            transaction.poll()
            await asyncio.sleep(_ROUND_S)
        else:
            return
    raise _no_room(1, topic)


async def produce_all(
    transaction: TransactionalProducer,
    topic: str,
    number: int | None,
    keys: list[bytes],
    values: list[bytes | None],
) -> None:
    """Produce columns, serving the producer's queue when it is full.

    Raises:
        TransactionAborted: the queue did not drain within the bound: the broker is away.
    """
    done = 0
    for _ in range(_ROUNDS):
        done += transaction.produce_many(topic, number, keys[done:], values[done:])
        if done == len(keys):
            return
        transaction.poll()
        await asyncio.sleep(_ROUND_S)
    raise _no_room(len(keys) - done, topic)


def _no_room(records: int, topic: str) -> TransactionAborted:
    return TransactionAborted(
        f"{records} records for {topic} found no room in the producer's queue within "
        f"{_ROUNDS * _ROUND_S:.0f} s: the brokers do not take them. The epoch is aborted and "
        "replayed; nothing is lost."
    )


_ROUNDS = 1000
_ROUND_S = 0.01
