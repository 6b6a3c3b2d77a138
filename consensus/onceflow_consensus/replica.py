"""The door that both engines have, and the table from which a group picks its engine.

Whoever drives a replica (server, simulator) drives this door and nothing behind it: ticks and
messages in, work out. How, is said in ``raft/node.py``. Log entries, hard state, snapshots and
configurations are the same types for every engine, so that storage and state machine serve all of
them. Messages are the engine's own; what a transport needs of them is said at
``PeerMessage``.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from onceflow_consensus.paxos.messages import PaxosMessage
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.ready import PaxosReady
from onceflow_consensus.raft.messages import Message
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.ready import Ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.confchange import ConfChange
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, LogIndex
    from onceflow_consensus.raft.node import Report, Status
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog


PeerMessage = Message | PaxosMessage
"""A message of whichever engine; fields of the same name mean the same to a driver.

That is ``to``, ``sender``, ``kind``, ``term``, and in messages to the local threads ``entries``,
``vote``, ``commit_index``, ``raft_snapshot`` and ``responses``. The sending of any message that
carries ``raft_snapshot`` has to be reported on, see ``Report``.
"""

ReplicaReady = Ready | PaxosReady
"""Work for the driver; the fields are described in ``raft/ready.py``."""


class Replica(Protocol):
    """One replica of a group. What each call does and raises is said in ``raft/node.py``."""

    def tick(self, fresh_timeout_ticks: int) -> None:
        """Let one tick pass."""
        ...

    def campaign(self) -> None:
        """Try to lead, without waiting for a timeout."""
        ...

    def propose(self, *payloads: bytes) -> None:
        """Propose entries, together or not at all."""
        ...

    def propose_conf_change(self, change: ConfChange) -> None:
        """Propose a change of the membership."""
        ...

    def apply_conf_change(self, entry: Entry) -> Configuration | None:
        """Put a committed membership change into force."""
        ...

    def step(self, message: Any) -> None:
        """Take a message of this engine."""
        ...

    def read_index(self, request_context: bytes) -> None:
        """Ask for an index at which a read is linearizable."""
        ...

    def transfer_leadership(self, transferee: PeerId) -> None:
        """Hand leadership over."""
        ...

    def report(self, peer_id: PeerId, report: Report) -> None:
        """Tell how sending to a peer went."""
        ...

    def has_ready(self) -> bool:
        """Whether there is work."""
        ...

    def ready(self) -> ReplicaReady:
        """Take the work."""
        ...

    def advance(self) -> None:
        """Tell that the work is done, with ``StorageMode.READY``."""
        ...

    @property
    def status(self) -> Status:
        """Return how the replica sees itself."""
        ...


class Engine(Enum):
    """The engines by the names that users give them. All replicas of a group have the same one."""

    RAFT = "raft"
    PAXOS = "paxos"


_ENGINES: dict[Engine, Callable[..., Replica]] = {
    Engine.RAFT: RaftNode,
    Engine.PAXOS: PaxosNode,
}


def start_replica(
    engine: Engine, options: RaftOptions, stable: StableLog, *, applied_index: LogIndex = 0
) -> Replica:
    """Start a replica, or start it again, from what ``stable`` holds.

    Args:
        engine: which engine the group runs; never another one on the same log.
        options: see ``RaftOptions``.
        stable: the durable log.
        applied_index: what the state machine holds already.

    Raises:
        InvalidOptions: the engine does not know an option; correct it.
        InvariantViolation: the durable log contradicts itself.
    """
    return _ENGINES[engine](options, stable, applied_index=applied_index)
