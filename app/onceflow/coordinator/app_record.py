"""What the record keeps of one application: transactions, offsets, workers, and their bounds.

Theory of operation: an ``AppRecord`` changes only in ``apply``. All that it holds are immutable
values in dictionaries, which keep the order in which things came; so the same changes give the same
record, and a copy of the dictionaries is a copy of the record. A transaction stands in exactly one
of three dictionaries, by its ``Standing``. Open ones and heuristic ones are never dropped; of those
that ended in order the last ones are kept, and of each incarnation up to which epoch it was
forgotten, so that what comes late does not open a transaction again.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from onceflow.coordinator.transactions import STEPS, judge, moved, noted
from onceflow.coordinator.vocabulary import (
    Ended,
    Heuristic,
    Lease,
    Leased,
    Left,
    Observed,
    OffsetNote,
    OffsetsMoved,
    Outcome,
    Standing,
    Transaction,
    TxnState,
)
from onceflow.errors import invariant
from onceflow.limits import (
    COORDINATOR_ENDED_KEPT,
    COORDINATOR_FORGOTTEN_KEPT,
    COORDINATOR_HEURISTICS_MAX,
    COORDINATOR_NOTES_MAX,
    COORDINATOR_OPEN_MAX,
    COORDINATOR_PARTITIONS_MAX,
    COORDINATOR_WORKERS_MAX,
)

if TYPE_CHECKING:
    from onceflow.coordinator.transactions import Step
    from onceflow.coordinator.vocabulary import Alarm, Change

Key = tuple[str, int]
"""Incarnation and commit epoch."""

_CAPACITY = {
    Standing.OPEN: COORDINATOR_OPEN_MAX,
    Standing.HEURISTIC: COORDINATOR_HEURISTICS_MAX,
    Standing.ENDED: COORDINATOR_ENDED_KEPT,
}


def standing_of(transaction: Transaction) -> Standing:
    """Return where a transaction stands."""
    if transaction.state is not TxnState.ENDED:
        return Standing.OPEN
    return Standing.HEURISTIC if transaction.heuristics else Standing.ENDED


@dataclass(frozen=True, slots=True)
class When:
    """When a command is applied: log index, log time, and the wall clock of who told it."""

    index: int
    log_time_ms: int
    told_unix_ms: int


def _empty() -> dict[Standing, dict[Key, Transaction]]:
    return {standing: {} for standing in Standing}


@dataclass(slots=True)
class AppRecord:
    """The record of one application.

    scope: identity. name: what its last teller calls it. moves: counts what was placed; the next
    transaction that is placed gets this number plus one. transactions: by standing, in the order of
    their sequence. forgotten: by incarnation, up to which epoch transactions were dropped.
    """

    scope: str
    name: str
    moves: int = 0
    transactions: dict[Standing, dict[Key, Transaction]] = field(default_factory=_empty)
    offsets: dict[tuple[str, int], OffsetNote] = field(
        default_factory=dict[tuple[str, int], OffsetNote]
    )
    leases: dict[str, Lease] = field(default_factory=dict[str, Lease])
    forgotten: dict[str, int] = field(default_factory=dict[str, int])

    def copy(self) -> AppRecord:
        """Return a record of its own with the same content."""
        return AppRecord(
            self.scope,
            self.name,
            self.moves,
            {standing: dict(rows) for standing, rows in self.transactions.items()},
            dict(self.offsets),
            dict(self.leases),
            dict(self.forgotten),
        )

    def find(self, incarnation: str, commit_epoch: int) -> Transaction | None:
        """Return a transaction wherever it stands, None if it is not in the record."""
        key = (incarnation, commit_epoch)
        for rows in self.transactions.values():
            if key in rows:
                return rows[key]
        return None

    def is_forgotten(self, incarnation: str, commit_epoch: int) -> bool:
        """Whether a transaction may have ended and been dropped."""
        return commit_epoch <= self.forgotten.get(incarnation, -1)

    def apply(self, change: Change, when: When) -> Outcome:
        """Carry out a change that is within the bounds of ``bounds.fault_of``."""
        match change:
            case Observed():
                return Outcome.APPLIED
            case Left():
                gone = self.leases.pop(change.incarnation, None)
                return Outcome.ALREADY if gone is None else Outcome.APPLIED
            case Leased():
                return self._lease(change, when)
            case OffsetsMoved():
                return self._move_offsets(change, when)
            case Heuristic():
                return self._note(change, when)
            case _:
                return self._step(change, when)

    def expire(self, log_time_ms: int) -> None:
        """Drop the leases that ran out."""
        for incarnation in [*self.expired(log_time_ms)]:
            del self.leases[incarnation]

    def expired(self, log_time_ms: int) -> list[str]:
        """Return whose leases ran out."""
        return [each for each, row in self.leases.items() if row.expires_log_ms <= log_time_ms]

    def _step(self, step: Step, when: When) -> Outcome:
        known = self.find(step.incarnation, step.commit_epoch)
        if isinstance(step, Ended):
            self._end_earlier(step, when)
        if known is None and None not in STEPS[type(step)]:
            return Outcome.ALREADY
        if known is None and self.is_forgotten(step.incarnation, step.commit_epoch):
            return Outcome.FORGOTTEN
        outcome, state = judge(known, step)
        if outcome is not Outcome.APPLIED or state is None:
            return outcome
        after = moved(known, step, state, when.told_unix_ms, when.index)
        return self._place(known, after)

    def _end_earlier(self, last: Ended, when: When) -> None:
        earlier = [
            row
            for row in self.transactions[Standing.OPEN].values()
            if row.incarnation == last.incarnation and row.commit_epoch < last.commit_epoch
        ]
        for row in earlier:
            after = moved(row, last, TxnState.ENDED, when.told_unix_ms, when.index)
            self._place(row, after)

    def _note(self, found: Heuristic, when: When) -> Outcome:
        known = self.find(found.incarnation, found.commit_epoch)
        after = noted(known, found, when.told_unix_ms, when.index)
        if after is None:
            return Outcome.ALREADY
        if len(after.heuristics) > COORDINATOR_NOTES_MAX:
            return Outcome.FULL
        return self._place(known, after)

    def _place(self, before: Transaction | None, after: Transaction) -> Outcome:
        """Let ``after`` stand where it belongs, instead of ``before``."""
        key = (after.incarnation, after.commit_epoch)
        to = standing_of(after)
        rows = self.transactions[to]
        if before is not None and standing_of(before) is to:
            rows[key] = msgspec.structs.replace(after, sequence=before.sequence)
            return Outcome.APPLIED
        if len(rows) >= _CAPACITY[to]:
            if to is not Standing.ENDED:
                return Outcome.FULL
            self._forget_oldest()
        if before is not None:
            del self.transactions[standing_of(before)][key]
        self.moves += 1
        rows[key] = msgspec.structs.replace(after, sequence=self.moves)
        return Outcome.APPLIED

    def _forget_oldest(self) -> None:
        """Drop the transaction that ended first."""
        rows = self.transactions[Standing.ENDED]
        incarnation, commit_epoch = next(iter(rows))
        dropped = rows.pop((incarnation, commit_epoch))
        invariant(
            dropped.state is TxnState.ENDED and not dropped.heuristics,
            "INV-META-2: what is in doubt or heuristic is never dropped",
            transaction=(incarnation, commit_epoch),
        )
        last = self.forgotten.pop(incarnation, -1)
        self.forgotten[incarnation] = max(last, commit_epoch)
        if len(self.forgotten) > COORDINATOR_FORGOTTEN_KEPT:
            del self.forgotten[next(iter(self.forgotten))]

    def _lease(self, leased: Leased, when: When) -> Outcome:
        is_full = len(self.leases) >= COORDINATOR_WORKERS_MAX
        if is_full and leased.incarnation not in self.leases:
            return Outcome.FULL
        self.leases[leased.incarnation] = Lease(
            leased.incarnation,
            leased.worker,
            leased.host,
            leased.pid,
            when.log_time_ms + leased.lease_ms,
            when.told_unix_ms,
        )
        return Outcome.APPLIED

    def _move_offsets(self, told: OffsetsMoved, when: When) -> Outcome:
        outcome = Outcome.APPLIED
        for topic, number, offset in told.rows:
            known = self.offsets.get((topic, number))
            if known is not None and self._is_late(known, told, offset):
                continue
            if known is None and len(self.offsets) >= COORDINATOR_PARTITIONS_MAX:
                outcome = Outcome.FULL
                continue
            self.offsets[topic, number] = OffsetNote(
                topic,
                number,
                offset,
                told.marker,
                told.incarnation,
                told.commit_epoch,
                when.told_unix_ms,
            )
        return outcome

    def _is_late(self, known: OffsetNote, told: OffsetsMoved, offset: int) -> bool:
        """Whether what is told was overtaken by what is known.

        Of two owners the one that lives and is further is believed: offsets go back only when
        somebody sets them back, and that is done while no worker of the application runs.
        """
        if known.incarnation == told.incarnation:
            return told.commit_epoch < known.commit_epoch
        return offset < known.offset and known.incarnation in self.leases


@dataclass(slots=True)
class Content:
    """All that a replica's record holds.

    apps: by scope. alarms: the last ones; alarms_total counts all. log_time_ms: that of the last
    command. next_sweep_ms: log time from which on leases that ran out are looked for.
    """

    log_time_ms: int = 0
    next_sweep_ms: int = 0
    alarms_total: int = 0
    apps: dict[str, AppRecord] = field(default_factory=dict[str, AppRecord])
    alarms: list[Alarm] = field(default_factory=list["Alarm"])
