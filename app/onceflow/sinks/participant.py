"""The protocol of two-phase sinks: what a system must do so that its rows match the stream exactly.

A *participant* is one configured sink that can prepare. What one commit epoch does in it is a
*branch*: rows, and as the last statement the compare-and-set of the *marker row*, all in one
transaction of the foreign system, which is then prepared: durable, invisible, and finished later by
whoever knows what Kafka decided. The marker row is the proof of commit, and its ``raised`` keeps
a stopped process from preparing after others have judged its incarnation.

Decided here: the shape of the protocol. Who calls what, and when, is the engine's and the
decisions' matter. ``onceflow.testing.participant_contract`` checks an implementation line by line.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow.ids import BranchId, CommitEpoch, Incarnation
    from onceflow.sinks.gid import Scope


class Standing(StrEnum):
    """Whether an incarnation may still prepare in a participant."""

    ACTIVE = "active"
    RAISED = "raised"
    """Another process took its partitions over: every later prepare of it fails."""


class FinishOutcome(StrEnum):
    """What became of a branch that was to be committed."""

    DONE = "done"
    """It is committed: by this call, or before, as the marker row proves."""
    MISSING = "missing"
    """Neither prepared nor shown by the marker row: rows were lost outside of our protocol, for
    instance by a restored backup. A heuristic outcome, for people to judge."""


@dataclass(frozen=True, slots=True)
class MarkerRow:
    """What a participant remembers of one incarnation."""

    commit_epoch: CommitEpoch
    """Of its last committed branch here; 0 for none."""
    raised: Standing


class EncodedRows(NamedTuple):
    """The rows of one yield, ready to be sent. A tuple, because one is made for each yield."""

    rows: int
    """How many rows."""
    size_bytes: int
    """What they take, roughly; the engine bounds an epoch by the sum."""
    payload: Any
    """What only the participant that encoded them can read."""


class Participant(ABC):
    """A sink whose rows commit with the epoch. Write one by implementing every method.

    All calls block, and all but ``encode`` come from one thread. Each is bounded: ``prepare`` by
    ``PREPARE_S_MAX``, the others by ``FINISH_S_MAX``; past it, or when the system does not answer,
    they raise ParticipantUnavailable, and the caller tries again later. A call after a lost
    connection connects again by itself. Every call but ``prepare`` may be repeated.

    Attributes:
        name: 1 to 16 of ``[a-z0-9_]``, unique in the application, the same in every process.
    """

    name: str

    @abstractmethod
    def encode(self, value: object) -> EncodedRows:
        """Turn what an agent yielded into rows: a dict, a record, a list of them, Arrow columns.

        Called after ``open``, on the event loop while the record is processed, and does no I/O, so
        that an error has a record to blame.

        Raises:
            SerializationError: the value cannot become rows of this sink; the agent's ``on_error``
                decides about the record.
        """

    @abstractmethod
    def open(self, scope: Scope) -> None:
        """Connect and check everything that could fail later, before any record is taken.

        Idempotent. Makes the marker table (or what stands for it).

        Raises:
            ConfigError: settings of the server, rights, or the table do not fit; the worker ends
                with exit code 2.
            Unreachable: no answer; exit code 3.
        """

    @abstractmethod
    def prepare(self, branch: BranchId, rows: Sequence[EncodedRows]) -> None:
        """Write the rows and the marker row, then prepare; durable at return, and not yet visible.

        Rows take effect in their order; where rows have a key, the last one of a key wins. With
        no rows the marker row alone is written.

        Raises:
            RowsRefused: the data is to blame; nothing is prepared.
            Superseded: the marker row was raised, or shows this epoch or a later one; nothing is
                prepared. The worker starts again as a new incarnation.
            ParticipantUnavailable: anything else. Nothing is known: the branch may exist, and be
                listed later.
        """

    @abstractmethod
    def commit(self, branch: BranchId) -> FinishOutcome:
        """Commit a prepared branch, as often as asked.

        An unknown branch counts as done only if the marker row shows this very commit epoch.

        Raises:
            ParticipantUnavailable: not known to be committed; try again.
        """

    @abstractmethod
    def roll_back(self, branch: BranchId) -> None:
        """Roll a branch back; one that does not exist is fine.

        Raises:
            ParticipantUnavailable: not known to be gone; try again.
        """

    @abstractmethod
    def branches(self) -> list[BranchId]:
        """All prepared branches of our scope and of this participant's name, of any incarnation.

        Raises:
            ParticipantUnavailable: try again.
        """

    @abstractmethod
    def marker_row(self, incarnation: Incarnation) -> MarkerRow | None:
        """What is committed about an incarnation; None if it never wrote here.

        Raises:
            ParticipantUnavailable: try again.
        """

    @abstractmethod
    def raise_marker(self, incarnation: Incarnation) -> None:
        """Make every later ``prepare`` of that incarnation fail with Superseded, for ever.

        Keeps the row's commit epoch, the proof of commit. A transaction of that incarnation that
        is still at work and holds the row is ended together with its connection. Branches that
        are prepared already stay: they are listed again after this.

        Raises:
            ParticipantUnavailable: not known to be raised; also while a prepared branch of that
                incarnation holds the row. Finish that one first, then try again.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. Prepared branches stay. Never raises for a dead connection."""
