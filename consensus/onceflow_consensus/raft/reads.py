"""Reads that wait until a quorum confirms that the leader still leads.

Theory of operation: reads are numbered in the order of their arrival. Each heartbeat carries the
number of the youngest read; an answer to it proves that its sender still followed this leader
after all reads up to that number had arrived. The number that a quorum has answered is therefore
found as a commit index is, and confirms every read up to it at once.
Must never import anything that does I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import LogIndex, Message

_NUMBER_BYTES = 8


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read that may be answered once everything up to ``index`` is applied.

    ``request_context`` is what the reader gave to recognise its request.
    """

    index: LogIndex
    request_context: bytes


class PendingRead(msgspec.Struct, frozen=True, gc=False):
    """A request with the commit index at its arrival: the least that its answer must reflect."""

    request: Message
    index: LogIndex


class ReadQueue:
    """Reads of one leadership; a new term starts with an empty one."""

    __slots__ = ("_acked", "_confirmed_count", "_unconfirmed")

    def __init__(self) -> None:
        self._acked: dict[PeerId, int] = {}
        self._confirmed_count = 0
        self._unconfirmed: deque[PendingRead] = deque()

    def __len__(self) -> int:
        return len(self._unconfirmed)

    def add(self, read: PendingRead) -> None:
        """Number a read and let it wait."""
        self._unconfirmed.append(read)

    def heartbeat_context(self) -> bytes:
        """Return what heartbeats carry to ask for confirmation; nothing if no read waits."""
        if not self._unconfirmed:
            return b""
        number = self._confirmed_count + len(self._unconfirmed)
        return number.to_bytes(_NUMBER_BYTES, "big")

    def acknowledge(self, peer_id: PeerId, context: bytes) -> None:
        """Take the context of a heartbeat that ``peer_id`` answered; late answers do nothing."""
        number = int.from_bytes(context, "big")
        self._acked[peer_id] = max(self._acked.get(peer_id, 0), number)

    def take_confirmed(self, voters: JointVoters) -> list[PendingRead]:
        """Return the reads that a quorum has confirmed, oldest first, and drop them."""
        newly = voters.committed_index(self._acked) - self._confirmed_count
        confirmed = [self._unconfirmed.popleft() for _ in range(min(newly, len(self)))]
        self._confirmed_count += len(confirmed)
        return confirmed
