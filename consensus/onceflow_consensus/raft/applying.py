"""How far committed entries were handed to the state machine, and how far it has applied them.

Bounded in bytes: a state machine that falls behind is not flooded.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant

if TYPE_CHECKING:
    from onceflow_consensus.raft.log import RaftLog
    from onceflow_consensus.raft.messages import Entry, LogIndex


class ApplyCursor:
    """Position of the state machine in the log.

    applied_index: everything up to it is applied. Raised by the driver's report, and by a snapshot.
    applying_index: everything up to it was handed out.
        Invariant: ``applied_index <= applying_index <= log.commit_index``.
    """

    __slots__ = (
        "_applying_bytes",
        "_is_paused",
        "_log",
        "_max_bytes",
        "applied_index",
        "applying_index",
    )

    def __init__(self, log: RaftLog, max_bytes: int) -> None:
        self._log = log
        self._max_bytes = max_bytes
        self._applying_bytes = 0
        self._is_paused = False
        self.applied_index: LogIndex = log.commit_index
        self.applying_index: LogIndex = log.commit_index

    def has_next(self, *, allow_unstable: bool) -> bool:
        """Whether committed entries can be handed out at present."""
        if self._is_paused or self._log.unstable.raft_snapshot is not None:
            return False
        return self.applying_index < self._appliable_index(allow_unstable=allow_unstable)

    def next_entries(self, *, allow_unstable: bool) -> tuple[Entry, ...]:
        """Return the next committed entries.

        Args:
            allow_unstable: whether entries count that are not yet durable here. With a driver
                that writes before it applies they do; with one that applies in parallel an entry
                must be durable first.
        """
        if not self.has_next(allow_unstable=allow_unstable):
            return ()
        end = self._appliable_index(allow_unstable=allow_unstable) + 1
        left_bytes = self._max_bytes - self._applying_bytes
        return self._log.slice(self.applying_index + 1, end, left_bytes)

    def accept(self, index: LogIndex, entry_bytes: int, *, allow_unstable: bool) -> None:
        """Account for entries up to ``index`` that were handed out.

        When they were not all there are, the byte bound cut them: more follow only after some
        were applied.
        """
        invariant(
            self.applying_index <= index <= self._log.commit_index,
            "INV-RAFT-4: only committed entries are applied, in order",
            index=index,
            applying_index=self.applying_index,
            commit_index=self._log.commit_index,
        )
        self.applying_index = index
        self._applying_bytes += entry_bytes
        appliable = self._appliable_index(allow_unstable=allow_unstable)
        self._is_paused = self._applying_bytes >= self._max_bytes or index < appliable

    def applied_to(self, index: LogIndex, entry_bytes: int) -> None:
        """Take the report that everything up to ``index`` is applied.

        Raises:
            InvariantViolation: more is reported than is committed, or less than before: the state
                machine and the log do not belong together.
        """
        invariant(
            self.applied_index <= index <= self._log.commit_index,
            "INV-RAFT-4: what is applied is committed, and never taken back",
            index=index,
            applied_index=self.applied_index,
            commit_index=self._log.commit_index,
        )
        self.applied_index = index
        self.applying_index = max(self.applying_index, index)
        self._applying_bytes = max(0, self._applying_bytes - entry_bytes)
        self._is_paused = self._applying_bytes >= self._max_bytes

    def _appliable_index(self, *, allow_unstable: bool) -> LogIndex:
        if allow_unstable:
            return self._log.commit_index
        return min(self._log.commit_index, self._log.unstable.offset - 1)
