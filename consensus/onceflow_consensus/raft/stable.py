"""What the engine asks of the durable log, and nothing more.

The engine only reads; it writes by handing entries, hard state and snapshots to its driver. Reads
happen inside a step and must therefore not block for long: recent entries belong in memory.
Implementations: the in-memory one for tests and simulation, and the segmented one on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
