"""What a replica is told once: its identity, its timing in ticks, its bounds, its features.

Each option says what breaks if it is chosen badly. Nothing here changes while a replica runs.
Must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus import limits
from onceflow_consensus.errors import InvalidOptions
from onceflow_consensus.raft.messages import APPLY_THREAD

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId


class StorageMode(Enum):
    """How writes to the replica's own disk are handed out.

    READY: with each ``Ready``, to be done before ``advance``. MESSAGES: as messages to the local
    writer and state machine, which may lag behind; a leader's own write then runs in parallel with
    its followers'.
    """

    READY = "ready"
    MESSAGES = "messages"


class ReadMode(Enum):
    """How a leader makes sure that it still leads before it answers a read.

    SAFE: a round of heartbeats. LEASE: it trusts that no other leader can exist within an
    election timeout of the last quorum check, which is only true if clocks run alike: a paused or
    slow clock makes stale reads possible.
    """

    SAFE = "safe"
    LEASE = "lease-based"


@dataclass(frozen=True, slots=True)
class RaftOptions:
    """Options of one replica.

    peer_id: who it is; never given to another replica, even after its removal.
    election_ticks: ticks without a leader before it campaigns, at least; the driver adds the
        random part. Must exceed ``heartbeat_ticks``, else followers campaign between heartbeats.
    heartbeat_ticks: ticks between heartbeats of a leader.
    storage: how writes are handed out.
    read_mode: how linearizable reads are confirmed; LEASE needs ``check_quorum``.
    pre_vote: ask whether an election could be won before disturbing the group with a new term.
    check_quorum: a leader that hears no quorum steps down, and votes are refused while a leader
        lives. Without it a cut-off leader goes on believing that it leads.
    forward_proposals: whether a follower passes proposals on to its leader.
    validate_conf_changes: whether a leader replaces changes that do not fit by empty entries.
        Switched off, a change that no replica can apply may enter the log.
    step_down_on_removal: whether a leader that was removed or became a learner stops leading.
    refusals_tell_commit: whether a refused vote tells what is committed. Without it a group can be
        stuck for ever if a leader left before the last voter heard of the change that it left by.
    max_message_bytes: entries in one append; a single entry may be larger.
    max_inflight_messages, max_inflight_bytes: the pipeline to each follower.
    max_uncommitted_bytes: data proposed and not yet applied; beyond it proposals are dropped.
    max_applying_bytes: committed entries handed out and not yet reported as applied.
    max_pending_reads: reads waiting for confirmation; beyond it reads are dropped.
    """

    peer_id: PeerId
    election_ticks: int = limits.ELECTION_TICKS
    heartbeat_ticks: int = limits.HEARTBEAT_TICKS
    storage: StorageMode = StorageMode.READY
    read_mode: ReadMode = ReadMode.SAFE
    pre_vote: bool = True
    check_quorum: bool = True
    forward_proposals: bool = True
    validate_conf_changes: bool = True
    step_down_on_removal: bool = True
    refusals_tell_commit: bool = True
    max_message_bytes: int = limits.MAX_MESSAGE_BYTES
    max_inflight_messages: int = limits.MAX_INFLIGHT_MESSAGES
    max_inflight_bytes: int = limits.MAX_INFLIGHT_BYTES
    max_uncommitted_bytes: int = limits.MAX_UNCOMMITTED_BYTES
    max_applying_bytes: int = limits.MAX_APPLYING_BYTES
    max_pending_reads: int = limits.MAX_PENDING_READS

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work.

        Raises:
            InvalidOptions: says which option is wrong and what it must be.
        """
        rules = (
            (0 < self.peer_id < APPLY_THREAD, "peer_id must be above 0 and below 2**64 - 2"),
            (self.heartbeat_ticks > 0, "heartbeat_ticks must be at least 1"),
            (
                self.election_ticks > self.heartbeat_ticks,
                "election_ticks must exceed heartbeat_ticks, else no leader lasts",
            ),
            (self.max_inflight_messages > 0, "max_inflight_messages must be at least 1"),
            (
                self.max_inflight_bytes >= self.max_message_bytes,
                "max_inflight_bytes must hold at least one message of max_message_bytes",
            ),
            (self.max_uncommitted_bytes > 0, "max_uncommitted_bytes must be at least 1"),
            (self.max_applying_bytes > 0, "max_applying_bytes must be at least 1"),
            (self.max_pending_reads > 0, "max_pending_reads must be at least 1"),
            (
                self.check_quorum or self.read_mode is not ReadMode.LEASE,
                "lease reads need check_quorum: without it a cut-off leader answers stale reads",
            ),
        )
        for holds, sentence in rules:
            if not holds:
                raise InvalidOptions(sentence)
