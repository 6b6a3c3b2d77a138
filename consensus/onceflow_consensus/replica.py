"""The door that both engines have, and the table from which a group picks its engine.

Whoever drives a replica (server, simulator) drives this door and nothing behind it: ticks and
messages in, ``Ready`` out. How, is said in ``raft/node.py``. Log entries, hard state, snapshots
and configurations are the same types for every engine, so that storage and state machine serve
all of them. Messages are the engine's own; a transport needs only ``to``, ``sender`` and ``kind``.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.raft.node import RaftNode

if TYPE_CHECKING:
    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog

Replica = RaftNode
"""One replica of a group."""


class Engine(Enum):
    """The engines by the names that users give them. All replicas of a group have the same one."""

    RAFT = "raft"


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


_ENGINES = {Engine.RAFT: RaftNode}
