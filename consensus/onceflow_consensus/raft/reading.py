"""Linearizable reads without a log entry: ReadIndex (Raft thesis, section 6.4).

A read is answered with an index; whoever reads waits until it is applied. Three conditions make
the answer linearizable: the leader has committed an entry of its own term (before that it may not
know what is committed), it still leads after the read arrived (heartbeats or a lease show it), and
the index is at least the commit index at the read's arrival.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.errors import DropReason, ReadDropped
from onceflow_consensus.raft.messages import NO_PEER, LogIndex, Message, MessageKind
from onceflow_consensus.raft.options import ReadMode
from onceflow_consensus.raft.reads import PendingRead, ReadState
from onceflow_consensus.raft.sending import broadcast_heartbeat

if TYPE_CHECKING:
    from onceflow_consensus.raft.state import RaftState


def read_as_leader(state: RaftState, message: Message) -> None:
    """Answer a read, or let it wait for its confirmation.

    Raises:
        ReadDropped: too many reads wait.
    """
    if len(state.early_reads) + len(state.reads) >= state.options.max_pending_reads:
        raise ReadDropped(DropReason.READ_BOUND)
    if _has_committed_in_term(state):
        _confirm(state, message)
    else:
        state.early_reads.append(message)


def release_early_reads(state: RaftState) -> None:
    """Go on with the reads that waited for the first commit of the term, if it happened."""
    if not state.early_reads or not _has_committed_in_term(state):
        return
    waiting, state.early_reads = state.early_reads, []
    for message in waiting:
        _confirm(state, message)


def take_read_acknowledgement(state: RaftState, message: Message) -> None:
    """Take a heartbeat's answer as its sender's confirmation of the reads its context names."""
    if state.options.read_mode is ReadMode.LEASE or not message.context:
        return
    state.reads.acknowledge(message.sender, message.context)
    _answer_confirmed(state)


def _confirm(state: RaftState, message: Message) -> None:
    # A voter that decides alone has nobody to ask. It waits for the first commit of its term all
    # the same: after a restart it may not know how far it had committed before.
    if state.tracker.is_singleton or state.options.read_mode is ReadMode.LEASE:
        _answer(state, message, state.log.commit_index)
        return
    state.reads.add(PendingRead(message, state.log.commit_index))
    state.reads.acknowledge(state.peer_id, state.reads.heartbeat_context())
    broadcast_heartbeat(state)
    # In a joint configuration whose halves are this voter alone nobody else will confirm it.
    _answer_confirmed(state)


def _answer_confirmed(state: RaftState) -> None:
    for read in state.reads.take_confirmed(state.tracker.configuration.voters):
        _answer(state, read.request, read.index)


def _answer(state: RaftState, request: Message, index: LogIndex) -> None:
    if request.sender in (NO_PEER, state.peer_id):
        state.read_states.append(ReadState(index, request.entries[0].data))
        return
    state.post(
        Message(
            MessageKind.READ_INDEX_RESP,
            request.sender,
            state.peer_id,
            state.term,
            index=index,
            entries=request.entries,
        )
    )


def _has_committed_in_term(state: RaftState) -> bool:
    return state.log.term_at(state.log.commit_index) == state.term


def forward_read(state: RaftState, message: Message) -> None:
    """Pass a read on to the leader.

    Raises:
        ReadDropped: no leader is known.
    """
    if state.raft_leader == NO_PEER:
        raise ReadDropped(DropReason.NO_LEADER)
    sender = message.sender or state.peer_id
    state.post(replace(message, to=state.raft_leader, sender=sender))


def refuse_read(state: RaftState, message: Message) -> None:
    """Refuse: no leader is known while one is being elected.

    Raises:
        ReadDropped: always.
    """
    del state, message
    raise ReadDropped(DropReason.NO_LEADER)


def take_read_answer(state: RaftState, message: Message) -> None:
    """Keep the leader's answer for the reader; one that does not name its request is dropped."""
    if len(message.entries) == 1:
        state.read_states.append(ReadState(message.index, message.entries[0].data))
