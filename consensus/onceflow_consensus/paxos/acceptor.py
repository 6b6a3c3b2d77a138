"""The acceptor: what a replica answers to the owner of the ballot that it promised.

Whether a ballot is high enough is decided in ``step`` before anything here runs. Answers are
promises: they leave when everything they rest on is durable.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import MessageRefused, RefusalReason, invariant
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.paxos.state import is_above
from onceflow_consensus.raft.matching import (
    append_from_leader,
    find_conflict_by_term,
    is_contiguous,
)
from onceflow_consensus.raft.messages import EntryId

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.raft.messages import Entry, LogIndex, RaftSnapshot


def refuse_ballot(state: PaxosState, message: PaxosMessage) -> None:
    """Tell the owner of a ballot which one was promised instead."""
    state.post(
        PaxosMessage(
            PaxosKind.REFUSE,
            state.peer_id,
            message.sender,
            state.promised.number,
            state.promised.owner,
            index=message.term,
        )
    )


def handle_prepare(state: PaxosState, message: PaxosMessage) -> None:
    """Promise, and bring what the proposer lacks if this log ends higher than its own."""
    last = state.log.last_id
    entries: tuple[Entry, ...] = ()
    if is_above(last, message.position):
        index = message.index
        if not state.log.matches(message.position):
            # What is decided at the proposer is the same here, if this log goes that far.
            index = min(message.commit_index, last.index)
        if index + 1 >= state.log.first_index:
            entries = state.log.entries_from(index + 1, state.options.max_message_bytes)
        elif message.kind is PaxosKind.FETCH:
            _bring_state(state, message)
    state.post(
        PaxosMessage(
            PaxosKind.PROMISE,
            state.peer_id,
            message.sender,
            message.term,
            log_term=last.term,
            index=last.index,
            commit_index=state.log.commit_index,
            entries=entries,
        )
    )


def _bring_state(state: PaxosState, message: PaxosMessage) -> None:
    """Send a snapshot in place of what is compacted, but not with every repetition of the wish."""
    now, newest = state.elections.now, state.log.latest_snapshot()
    if newest is None or now < state.state_due_at:
        return
    state.state_due_at = now + state.options.election_ticks
    state.post(
        PaxosMessage(
            PaxosKind.STATE, state.peer_id, message.sender, message.term, raft_snapshot=newest
        )
    )


def _accepted(state: PaxosState, message: PaxosMessage, index: LogIndex) -> None:
    state.post(
        PaxosMessage(PaxosKind.ACCEPTED, state.peer_id, message.sender, message.term, index=index)
    )


def handle_accept(state: PaxosState, message: PaxosMessage) -> None:
    """Accept the entries if the log holds what they follow, and learn what is decided.

    A decision without entries is answered only if the position it names is not held.

    Raises:
        MessageRefused: the entries do not follow one another; a bug of the sender, of whose
            entries none was taken.
    """
    previous = message.position
    if not is_contiguous(previous, message.entries, message.term):
        raise MessageRefused(RefusalReason.NOT_CONTIGUOUS, message.kind.value, message.sender)
    state.followed = message.sender
    if previous.index < state.log.commit_index:
        # Late: what is decided agrees in any case.
        _accepted(state, message, state.log.commit_index)
        return
    proven = append_from_leader(state.log, previous, message.entries, message.commit_index)
    if proven is None:
        _miss(state, message)
    elif message.kind is not PaxosKind.DECIDE:
        _accepted(state, message, proven)


def _miss(state: PaxosState, message: PaxosMessage) -> None:
    """Answer that the named position is not held, and where the logs may agree."""
    nearest = min(message.index, state.log.last_index)
    hint = find_conflict_by_term(state.log, nearest, message.log_term)
    state.post(
        PaxosMessage(
            PaxosKind.ACCEPTED,
            state.peer_id,
            message.sender,
            message.term,
            log_term=hint.term,
            index=message.index,
            rejected=True,
            reject_hint=hint.index,
        )
    )


def handle_snapshot(state: PaxosState, message: PaxosMessage) -> None:
    """Take a snapshot if it brings anything, and answer what is held in either case."""
    state.followed = message.sender
    received = message.raft_snapshot
    is_installed = received is not None and install_snapshot(state, received)
    _accepted(state, message, state.log.last_index if is_installed else state.log.commit_index)


def install_snapshot(state: PaxosState, received: RaftSnapshot) -> bool:
    """Replace log and configuration by a snapshot; return False if the log stays as it is."""
    if received.index <= state.log.commit_index:
        return False
    if state.peer_id not in received.configuration.peer_ids:
        # From before this replica joined, or after it left: it would become a stranger.
        return False
    invariant(
        state.phase is not Phase.ACCEPT,
        "INV-PAXOS-7: the owner of an open ballot replaces nothing in its log",
        index=received.index,
    )
    if state.log.matches(EntryId(received.term, received.index)):
        state.log.commit_to(received.index)
        return False
    state.log.restore(received)
    state.configuration_index = received.index
    state.tracker.restore(received.configuration, state.log.last_index)
    state.elections.keep_members(received.configuration.peer_ids)
    return True
