"""Two-phase sinks and a broker that remembers decisions: what a simulated sink does and checks.

A `ModelSink` prepares with the compare-and-set of a marker row, keeps branches through anything,
and lets a PREPARE arrive late. Ghosts that no worker can see (which epochs Kafka committed) make
the invariants of DESIGN checkable at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.epoch_worker import demand
from onceflow.decisions.marker import parse
from onceflow.errors import ParticipantUnavailable, Superseded
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition
from onceflow.testing.model_broker import ModelBroker, Producer

Row = tuple[Partition, int]
"""A row is the record that it was made from."""


class DecidingBroker(ModelBroker):
    """A broker that knows which commit epochs it committed, and checks what a commit means."""

    def __init__(self, sinks: dict[str, ModelSink]) -> None:
        super().__init__()
        self.sinks = sinks
        self.decided: set[BranchId] = set()
        """Committed commit epochs, all of them, for ever."""
        self.changes = 0
        """Grows with every commit, so that checks know whether there is something new."""

    def end_transaction(self, producer: Producer, *, commits: bool) -> None:
        before = dict(self.offsets)
        transaction = self.transactions.get(producer.transactional_id)
        super().end_transaction(producer, commits=commits)
        if not commits or transaction is None:
            return
        self.changes += 1
        for partition, position in transaction.pending.items():
            marker = parse(position.metadata)
            assert marker is not None
            branch = BranchId(marker.incarnation, marker.commit_epoch)
            self.decided.add(branch)
            if marker.with_participants == marker.commit_epoch:
                for sink in self.sinks.values():
                    demand(
                        branch in sink.prepared or branch in sink.lost,
                        "INV-2PC-2: an epoch with participants is committed without its branch",
                        branch=branch,
                        sink=sink.name,
                    )
            old = before.get(partition)
            self._check_owner(partition, parse(old.metadata) if old is not None else None, marker)

    def _check_owner(self, partition: Partition, old: Any, new: Any) -> None:
        if old is None or old.incarnation == new.incarnation:
            return
        branch = BranchId(old.incarnation, old.with_participants)
        for sink in self.sinks.values():
            demand(
                branch not in sink.prepared,
                "INV-2PC-5: claimed over an unfinished branch of the marker's epoch",
                partition=partition,
                branch=branch,
                sink=sink.name,
            )


@dataclass
class ModelSink:
    """One participant: prepared branches, committed rows, marker rows, PREPAREs on their way."""

    name: str
    prepared: dict[BranchId, frozenset[Row]] = field(default_factory=dict)
    rows: dict[Row, int] = field(default_factory=dict)
    """How often each row is visible."""
    shown: dict[Incarnation, CommitEpoch] = field(default_factory=dict)
    raised: set[Incarnation] = field(default_factory=set)
    on_the_way: list[tuple[BranchId, frozenset[Row]]] = field(default_factory=list)
    lost: set[BranchId] = field(default_factory=set)
    """Branches that a failing server forgot."""
    broker: DecidingBroker | None = None
    changes: int = 0
    """Grows with every change of rows and branches."""
    compares: bool = True
    """Whether a PREPARE compares the marker row; only a broken variant lets that be."""

    @property
    def decided(self) -> set[BranchId]:
        assert self.broker is not None
        return self.broker.decided

    def prepare(self, branch: BranchId, rows: frozenset[Row]) -> None:
        """As the protocol of sinks says, the lock of the marker row included."""
        incarnation, commit_epoch = branch
        self.changes += 1
        if not self.compares:
            self.prepared[branch] = rows
            return
        if any(each.incarnation == incarnation for each in self.prepared):
            raise ParticipantUnavailable("the marker row is held by another branch")
        if incarnation in self.raised or self.shown.get(incarnation, 0) >= commit_epoch:
            raise Superseded("the marker row was raised")
        self.prepared[branch] = rows

    def check_free(self, branch: BranchId) -> None:
        """A worker is about to prepare: nothing of a committed epoch of its is unfinished."""
        left = {
            each
            for each in self.prepared.keys() & self.decided
            if each.incarnation == branch.incarnation
        }
        demand(not left, "INV-2PC-5: prepared over an unfinished branch", left=left, next=branch)

    def commit(self, branch: BranchId) -> bool:
        """Commit; returns whether it is done, now or before."""
        rows = self.prepared.pop(branch, None)
        if rows is None:
            return self.shown.get(branch.incarnation) == branch.commit_epoch
        self.changes += 1
        demand(branch in self.decided, "INV-2PC-1: a branch of no committed epoch", branch=branch)
        for row in rows:
            self.rows[row] = self.rows.get(row, 0) + 1
        self.shown[branch.incarnation] = branch.commit_epoch
        return True

    def roll_back(self, branch: BranchId) -> None:
        if self.prepared.pop(branch, None) is not None:
            self.changes += 1
            demand(
                branch not in self.decided,
                "INV-2PC-2: a branch of a committed epoch is rolled back",
                branch=branch,
                sink=self.name,
            )

    def raise_marker(self, incarnation: Incarnation) -> None:
        if any(each.incarnation == incarnation for each in self.prepared):
            raise ParticipantUnavailable("the marker row is held by a branch")
        self.raised.add(incarnation)

    def arrive(self, index: int) -> bool:
        """A PREPARE whose sender waits no longer reaches the server."""
        if not self.on_the_way:
            return False
        branch, rows = self.on_the_way.pop(index % len(self.on_the_way))
        try:
            self.prepare(branch, rows)
        except (ParticipantUnavailable, Superseded):
            return True
        return True

    def lose(self, index: int) -> bool:
        """The server is restored without a prepared branch."""
        branches = sorted(self.prepared)
        if not branches:
            return False
        branch = branches[index % len(branches)]
        del self.prepared[branch]
        self.lost.add(branch)
        self.changes += 1
        return True
