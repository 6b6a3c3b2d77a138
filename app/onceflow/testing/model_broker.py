"""A broker as the commit protocol sees it: transactions, pending offsets, fencing, memberships.

For tests of decisions without Kafka: no network, no threads, no time; every call is one step, and
what is slow on a network (an EndTxn on its way) is a value that a test delivers when it likes. It
models the first transaction protocol, which librdkafka speaks, with its hole: an EndTxn that comes
late ends whatever transaction of that producer is open. It is not a Kafka for applications: records
have no bytes, and every group offset lives in one place, as a group's offsets do in Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from onceflow.decisions.marker import CommittedOffset, parse
from onceflow.errors import Fenced, TransactionAborted

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from onceflow.decisions.epoch_effects import PositionToCommit
    from onceflow.ids import Offset, Partition


@dataclass(frozen=True, slots=True)
class Producer:
    """A transactional producer as one ``init_transactions`` made it."""

    transactional_id: str
    producer_epoch: int


@dataclass(frozen=True, slots=True)
class Membership:
    """Group metadata as taken in a callback: who, and at which generation."""

    member: str
    generation: int


@dataclass(slots=True)
class Transaction:
    """What one transactional id has open."""

    records: list[Hashable] = field(default_factory=list["Hashable"])
    pending: dict[Partition, PositionToCommit] = field(
        default_factory=dict["Partition", "PositionToCommit"]
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """Which member owns a partition, and since which generation of its."""

    member: str
    generation: int


class ModelBroker:
    """One broker with one consumer group."""

    def __init__(self) -> None:
        self.records: Final[list[Hashable]] = []
        """Committed records in the order of their commits: what a read_committed reader sees."""
        self.offsets: Final[dict[Partition, PositionToCommit]] = {}
        """Committed offsets and metadata of the group."""
        self.transactions: Final[dict[str, Transaction]] = {}
        """Open transactions by transactional id."""
        self.grants: Final[dict[Partition, Grant]] = {}
        """Who owns what, as the group coordinator knows it."""
        self._producer_epochs: Final[dict[str, int]] = {}
        self._generations: Final[dict[str, int]] = {}

    # Transactions.

    def init_transactions(self, transactional_id: str) -> Producer:
        """Fence earlier producers of this id and abort what they left open."""
        self.transactions.pop(transactional_id, None)
        epoch_of_producer = self._producer_epochs.get(transactional_id, -1) + 1
        self._producer_epochs[transactional_id] = epoch_of_producer
        return Producer(transactional_id, epoch_of_producer)

    def is_fenced(self, producer: Producer) -> bool:
        """Whether a later producer of the same id exists."""
        return self._producer_epochs[producer.transactional_id] != producer.producer_epoch

    def produce(self, producer: Producer, record: Hashable) -> None:
        """Add a record to the open transaction, beginning one if there is none.

        Raises:
            Fenced: a later producer of the same id exists.
        """
        self._open(producer).records.append(record)

    def send_offsets(
        self,
        producer: Producer,
        membership: Membership,
        offsets: Mapping[Partition, PositionToCommit],
    ) -> None:
        """Add offsets to the open transaction (TxnOffsetCommit).

        The rule is that of KIP-848, laxer than the classic one: fresh metadata are accepted for any
        partition, stale ones only for partitions kept since they were taken. An empty list is
        accepted without looking at anything. Both are as seen on Kafka 4.3.

        Raises:
            Fenced: a later producer of the same id exists.
            TransactionAborted: the membership is stale (ILLEGAL_GENERATION): abort.
        """
        transaction = self._open(producer)
        fresh = self.membership(membership.member) == membership
        if not fresh and not all(self._kept_since(membership, partition) for partition in offsets):
            raise TransactionAborted("the membership is stale: abort, wait for the rebalance")
        transaction.pending.update(offsets)

    def _kept_since(self, membership: Membership, partition: Partition) -> bool:
        grant = self.grants.get(partition)
        return (
            grant is not None
            and grant.member == membership.member
            and grant.generation <= membership.generation
        )

    def end_transaction(self, producer: Producer, *, commits: bool) -> None:
        """End whatever transaction of this producer is open (EndTxn); nothing if none is.

        Raises:
            Fenced: a later producer of the same id exists.
        """
        if self.is_fenced(producer):
            raise Fenced("a later producer of this transactional id exists: read the markers")
        transaction = self.transactions.pop(producer.transactional_id, None)
        if transaction is not None and commits:
            self.records.extend(transaction.records)
            self.offsets.update(transaction.pending)

    def expire_transaction(self, transactional_id: str) -> None:
        """Time a transaction out: aborted, and its producer fenced, as Kafka does."""
        if self.transactions.pop(transactional_id, None) is not None:
            self._producer_epochs[transactional_id] += 1

    def _open(self, producer: Producer) -> Transaction:
        if self.is_fenced(producer):
            raise Fenced("a later producer of this transactional id exists: read the markers")
        return self.transactions.setdefault(producer.transactional_id, Transaction())

    # Offsets.

    def committed(self, partition: Partition) -> CommittedOffset:
        """The last committed offset and marker, whatever is pending (not a stable read)."""
        position = self.offsets.get(partition)
        if position is None:
            return CommittedOffset(None, None)
        return CommittedOffset(position.offset, parse(position.metadata))

    def is_pending(self, partition: Partition) -> bool:
        """Whether an open transaction has an offset of it: a stable read must wait."""
        return any(partition in each.pending for each in self.transactions.values())

    def committed_offset(self, partition: Partition) -> Offset | int:
        """The committed offset, 0 if there is none."""
        position = self.offsets.get(partition)
        return 0 if position is None else position.offset

    # The group.

    def membership(self, member: str) -> Membership:
        """A member's metadata at this moment; what is taken here is only then fresh."""
        return Membership(member, self._generations.setdefault(member, 0))

    def grant(self, partition: Partition, member: str) -> Membership:
        """Assign a partition; returns the metadata that the callback would take."""
        generation = self._generations.get(member, 0) + 1
        self._generations[member] = generation
        self.grants[partition] = Grant(member, generation)
        return Membership(member, generation)

    def take_back(self, partition: Partition) -> None:
        """The member gave the partition back after a revoke."""
        self.grants.pop(partition, None)

    def expel(self, member: str) -> None:
        """Time a member's session out: its partitions are free, and it rejoins unknowingly."""
        for partition in [each for each, grant in self.grants.items() if grant.member == member]:
            del self.grants[partition]
        self._generations[member] = self._generations.get(member, 0) + 1
