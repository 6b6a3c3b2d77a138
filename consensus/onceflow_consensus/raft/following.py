"""What a replica does with the messages of the term's leader: append, heartbeat, snapshot.

Acknowledgements are posted here and leave only when what they promise is durable; see
``RaftState.post``. An acknowledgement names the index that the message itself proved.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import MessageRefused, RefusalReason, invariant
from onceflow_consensus.raft.matching import (
    append_from_leader,
    find_conflict_by_term,
    is_contiguous,
)
from onceflow_consensus.raft.messages import (
    NO_PEER,
    EntryId,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.options import ReadMode
from onceflow_consensus.raft.roles import Cause, Role

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.raft.state import RaftState


def _follow(state: RaftState, raft_leader: PeerId) -> None:
    if state.role is Role.FOLLOWER:
        state.election_elapsed_ticks = 0
        state.raft_leader = raft_leader
    else:
        state.become_follower(Cause.LEADER_HEARD, state.term, raft_leader)


def _acknowledge(state: RaftState, to: PeerId, index: LogIndex) -> None:
    state.post(Message(MessageKind.APP_RESP, to, state.peer_id, state.term, index=index))


def handle_append(state: RaftState, message: Message) -> None:
    """Take an append of the leader, or say where the logs may agree.

    Raises:
        MessageRefused: the entries do not follow one another; a bug of the sender, of whose
            entries none was taken.
    """
    previous = EntryId(message.log_term, message.index)
    if not is_contiguous(previous, message.entries, message.term):
        raise MessageRefused(RefusalReason.NOT_CONTIGUOUS, message.kind.value, message.sender)
    _follow(state, message.sender)
    if previous.index < state.log.commit_index:
        # A delayed append: what is committed agrees in any case.
        _acknowledge(state, message.sender, state.log.commit_index)
        return
    proven = append_from_leader(state.log, previous, message.entries, message.commit_index)
    if proven is not None:
        _acknowledge(state, message.sender, proven)
        return
    hint = find_conflict_by_term(
        state.log, min(previous.index, state.log.last_index), previous.term
    )
    state.post(
        Message(
            MessageKind.APP_RESP,
            message.sender,
            state.peer_id,
            state.term,
            log_term=hint.term,
            index=previous.index,
            rejected=True,
            reject_hint=hint.index,
        )
    )


def handle_heartbeat(state: RaftState, message: Message) -> None:
    """Take a heartbeat: learn the commit index, and answer with the context it carried."""
    _follow(state, message.sender)
    state.log.commit_to(message.commit_index)
    state.post(
        Message(
            MessageKind.HEARTBEAT_RESP,
            message.sender,
            state.peer_id,
            state.term,
            context=message.context,
        )
    )


def handle_snapshot(state: RaftState, message: Message) -> None:
    """Take a snapshot if it brings anything, and acknowledge what is held in either case."""
    _follow(state, message.sender)
    received = message.raft_snapshot
    if received is not None and _restore(state, received):
        _acknowledge(state, message.sender, state.log.last_index)
    else:
        _acknowledge(state, message.sender, state.log.commit_index)


def _restore(state: RaftState, received: RaftSnapshot) -> bool:
    """Replace log and configuration by a snapshot; return False if it is not needed."""
    if received.index <= state.log.commit_index:
        return False
    invariant(
        state.role is Role.FOLLOWER,
        "INV-RAFT-10: only a follower installs a snapshot",
        role=state.role.value,
    )
    if state.peer_id not in received.configuration.peer_ids:
        # A snapshot from before this replica joined, or after it left: it would make it a
        # stranger to its own group. The leader sends a later one.
        return False
    if state.log.matches(EntryId(received.term, received.index)):
        # The log holds it all: what follows the snapshot's index must not be thrown away.
        state.log.commit_to(received.index)
        return False
    state.log.restore(received)
    state.tracker.restore(received.configuration, state.log.last_index)
    state.configuration_index = received.index
    return True


def forget_leader(state: RaftState, message: Message) -> None:
    """Forget who leads, so that a vote can be given before the election timeout.

    Not with lease reads: the leader counts on not being replaced within its lease.
    """
    del message
    if state.options.read_mode is not ReadMode.LEASE:
        state.raft_leader = NO_PEER
