"""Reads that wait until a quorum confirms that nobody else leads.

Theory of operation: reads are numbered. A confirmation carries the number of the youngest read
that its sender was asked about, and so proves that at that time it had promised no higher ballot.
A number that a quorum has confirmed confirms every read up to it.
Must never import anything that does I/O.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import LogIndex


@dataclass(frozen=True, slots=True)
class WaitingRead:
    """A read: who asked, what it is recognised by, and the least index it must reflect."""

    reader: PeerId
    request_context: bytes
    index: LogIndex


class ReadRounds:
    """Reads of one ballot, in the order of their arrival."""

    __slots__ = ("_confirmed_by", "_first_number", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[WaitingRead] = deque()
        self._first_number = 1
        self._confirmed_by: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def youngest(self) -> int:
        """Number of the youngest read; below the oldest that waits if none does."""
        return self._first_number + len(self._waiting) - 1

    def add(self, read: WaitingRead) -> None:
        """Let a read wait."""
        self._waiting.append(read)

    def confirm(self, peer_id: PeerId, number: int) -> None:
        """Take a confirmation; one of an older round changes nothing."""
        self._confirmed_by[peer_id] = max(number, self._confirmed_by.get(peer_id, 0))

    def take_confirmed(self, voters: JointVoters) -> list[WaitingRead]:
        """Return the reads that a quorum confirmed, oldest first, and forget them."""
        number = min(voters.committed_index(self._confirmed_by), self.youngest)
        taken: list[WaitingRead] = []
        while self._first_number <= number:
            taken.append(self._waiting.popleft())
            self._first_number += 1
        return taken
