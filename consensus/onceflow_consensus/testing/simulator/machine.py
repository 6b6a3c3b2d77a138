"""The state machine of a simulated replica: a checksum of everything that it applied.

Equal checksums at equal positions mean equal histories, whatever was replayed, skipped or brought
by a snapshot. It is as strict as a real machine must be: entries come in order, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from onceflow_consensus.raft.messages import EntryKind, RaftSnapshot
from onceflow_consensus.testing.simulator.ledger import Ledger, Property, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, LogIndex

_CHAIN_BYTES = 4
_MASK = 2**32 - 1


class Machine:
    """What one replica has applied.

    index, term: the last entry applied. configuration: the members in force there.
    begun: the state that it starts from.
    reconfigure: puts a membership entry into force; None means that a snapshot overtook it.
    """

    def __init__(
        self,
        peer_id: PeerId,
        ledger: Ledger,
        reconfigure: Callable[[Entry], Configuration | None],
        begun: RaftSnapshot,
    ) -> None:
        self._peer_id = peer_id
        self._ledger = ledger
        self._reconfigure = reconfigure
        # A replica that starts again is handed nothing that its state holds already.
        self.restore(begun)
        self._restored_index: LogIndex = 0
        self._is_overtaken = False

    def restore(self, received: RaftSnapshot) -> None:
        """Become the state of a snapshot.

        Raises:
            Violation: it is not the state that others had there.
        """
        self.index, self.term = received.index, received.term
        self.configuration = received.configuration
        self._chain = int.from_bytes(received.data, "little")
        self._restored_index = received.index
        self._is_overtaken = False
        if received.index:
            self._ledger.applied(self._peer_id, self.index, self._chain, self.configuration)

    def state(self) -> RaftSnapshot:
        """Return the present state as a snapshot."""
        data = self._chain.to_bytes(_CHAIN_BYTES, "little")
        return RaftSnapshot(self.index, self.term, self.configuration, data)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """Apply committed entries.

        Those that a snapshot brought already are skipped: they were handed out before it.

        Raises:
            Violation: they do not follow, or the state is not the one that others have.
        """
        for entry in entries:
            # Of what was handed out before a snapshot came, nothing is applied any more.
            if self._is_overtaken or entry.index <= self._restored_index:
                continue
            if entry.index != self.index + 1:
                raise Violation(
                    Property.APPLIED_ONCE,
                    f"{self._peer_id} is to apply {entry.index} after {self.index}",
                )
            if entry.kind is not EntryKind.NORMAL:
                configuration = self._reconfigure(entry)
                if configuration is None:
                    self._is_overtaken = True
                    return
                self.configuration = configuration
            self._chain = crc32(entry.data, (self._chain + entry.index) & _MASK)
            self.index, self.term = entry.index, entry.term
            self._ledger.applied(self._peer_id, self.index, self._chain, self.configuration)
            self._ledger.acknowledge(self._peer_id, entry)
