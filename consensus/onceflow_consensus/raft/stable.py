"""What the engine asks of the durable log, and nothing more.

The engine only reads; it writes by handing entries, hard state and snapshots to its driver. Reads
happen inside a step and must therefore not block for long: recent entries belong in memory.
Implementations: the in-memory one for tests and simulation, and the segmented one on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import EntryId, limit_bytes

if TYPE_CHECKING:
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import (
        Entry,
        HardState,
        LogIndex,
        RaftSnapshot,
        Term,
    )


class StableLog(Protocol):
    """The durable part of a replica's log, contiguous from ``first_index`` to ``last_index``.

    Entries below ``first_index`` are covered by a snapshot. Their application was reported to the
    engine before they were dropped: it may read any entry above ``Status.applied_index``. An
    empty log has ``last_index == first_index - 1``.
    """

    @property
    def first_index(self) -> LogIndex:
        """Return the lowest index whose entry is kept."""
        ...

    @property
    def last_index(self) -> LogIndex:
        """Return the highest index that is stored."""
        ...

    def initial_state(self) -> tuple[HardState, Configuration]:
        """Return what a restarted replica begins with: hard state, and the snapshot's members."""
        ...

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term of an entry from ``first_index - 1`` on, None where it is not known."""
        ...

    def entries(self, low: LogIndex, high: LogIndex, max_bytes: int) -> tuple[Entry, ...]:
        """Return the entries of ``[low, high)`` within ``max_bytes``, but at least one.

        Only asked for indices from ``first_index`` to ``last_index``.
        """
        ...

    def latest_snapshot(self) -> RaftSnapshot | None:
        """Return the newest snapshot; None if none can be sent at present."""
        ...


class HeldEntries:
    """The reading half of a ``StableLog`` whose entries are all in memory.

    base: position below the first entry, whose term is known though its entry is dropped.
    """

    def __init__(self, base: EntryId) -> None:
        self._base = base
        self._entries: list[Entry] = []

    @property
    def base(self) -> EntryId:
        """Return the position below the first entry."""
        return self._base

    @property
    def first_index(self) -> LogIndex:
        """See ``StableLog``."""
        return self._base.index + 1

    @property
    def last_index(self) -> LogIndex:
        """See ``StableLog``."""
        return self._base.index + len(self._entries)

    def term_at(self, index: LogIndex) -> Term | None:
        """See ``StableLog``."""
        if index == self._base.index:
            return self._base.term
        position = index - self._base.index - 1
        return self._entries[position].term if 0 <= position < len(self._entries) else None

    def entries(self, low: LogIndex, high: LogIndex, max_bytes: int) -> tuple[Entry, ...]:
        """See ``StableLog``."""
        first = self.first_index
        invariant(
            first <= low <= high <= self.last_index + 1,
            "INV-RAFT-14: only entries that are there are read",
            low=low,
            high=high,
        )
        return limit_bytes(tuple(self._entries[low - first : high - first]), max_bytes)

    def put(self, entries: tuple[Entry, ...]) -> None:
        """Hold entries at their indices, dropping what stood there and above.

        Entries up to the base are skipped: a snapshot has overtaken them.
        """
        if entries and entries[0].index == self.last_index + 1:
            # As nearly always: they follow what is held.
            self._entries.extend(entries)
            return
        kept = [entry for entry in entries if entry.index > self._base.index]
        if not kept:
            return
        invariant(
            kept[0].index <= self.last_index + 1,
            "INV-RAFT-12: the log has no holes",
            first=kept[0].index,
            last_index=self.last_index,
        )
        del self._entries[kept[0].index - self.first_index :]
        self._entries.extend(kept)

    def drop_to(self, base: EntryId) -> None:
        """Drop the entries up to ``base``; a position below what is dropped changes nothing.

        Of the same position the term that is given later counts.
        """
        if base.index >= self._base.index:
            del self._entries[: base.index - self._base.index]
            self._base = base

    def begin_at(self, base: EntryId) -> None:
        """Hold nothing above ``base``: a snapshot has replaced the log."""
        self._base = base
        self._entries = []
