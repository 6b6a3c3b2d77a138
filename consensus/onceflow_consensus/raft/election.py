"""Elections: who campaigns, who votes for whom, when a leader gives up.

Raft paper 5.2 and 5.4.1; PreVote and the check of the quorum from the thesis, sections 9.6 and
6.2. Time is counted in ticks of the driver, who also brings the random part of the timeout.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.quorum.majority import VoteResult
from onceflow_consensus.raft.matching import is_up_to_date
from onceflow_consensus.raft.messages import (
    NO_PEER,
    TRANSFER_CONTEXT,
    Entry,
    EntryId,
    EntryKind,
    Message,
    MessageKind,
)
from onceflow_consensus.raft.proposing import append_entries
from onceflow_consensus.raft.roles import Cause, Role
from onceflow_consensus.raft.sending import broadcast_append

if TYPE_CHECKING:
    from onceflow_consensus.raft.state import RaftState


class Campaign(Enum):
    """What a campaign is for. TRANSFER asks for votes although a leader lives."""

    PRE_ELECTION = "pre-election"
    ELECTION = "election"
    TRANSFER = "transfer"


ANSWER_KINDS = {
    MessageKind.VOTE: MessageKind.VOTE_RESP,
    MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_RESP,
}
"""The answer to each request for a vote."""


def handle_hup(state: RaftState, message: Message) -> None:
    """Campaign because no leader was heard for an election timeout, or because asked to."""
    del message
    hup(state, Campaign.PRE_ELECTION if state.options.pre_vote else Campaign.ELECTION)


def handle_timeout_now(state: RaftState, message: Message) -> None:
    """Campaign at once: the leader hands over to this replica."""
    del message
    hup(state, Campaign.TRANSFER)


def hup(state: RaftState, campaign: Campaign) -> None:
    """Campaign if this replica may: not as leader, nor with a membership change left to apply.

    Such a change may have removed this replica, or may need another quorum for its election.
    """
    if state.role is Role.LEADER or not state.is_promotable or _has_unapplied_change(state):
        return
    _campaign(state, campaign)


def _has_unapplied_change(state: RaftState) -> bool:
    low, end = state.cursor.applied_index + 1, state.log.commit_index + 1
    while low < end:
        page = state.log.slice(low, end, state.options.max_applying_bytes)
        if any(entry.kind is not EntryKind.NORMAL for entry in page):
            return True
        low += len(page)
    return False


def _campaign(state: RaftState, campaign: Campaign) -> None:
    if campaign is Campaign.PRE_ELECTION:
        state.become_pre_candidate()
        kind, term = MessageKind.PRE_VOTE, state.term + 1
    else:
        state.become_candidate()
        kind, term = MessageKind.VOTE, state.term
    last = state.log.last_id
    for peer_id in sorted(state.tracker.voters):
        if peer_id == state.peer_id:
            # The own vote counts when it is durable, as everybody's.
            state.post(Message(ANSWER_KINDS[kind], peer_id, peer_id, term))
            continue
        state.post(
            Message(
                kind,
                peer_id,
                state.peer_id,
                term,
                log_term=last.term,
                index=last.index,
                context=TRANSFER_CONTEXT if campaign is Campaign.TRANSFER else b"",
            )
        )


def handle_vote_request(state: RaftState, message: Message) -> None:
    """Vote for a candidate whose log holds all that may be committed, once per term.

    A learner votes too: the candidate may know that it was promoted before it knows itself. A
    refusal tells what is committed here: a candidate may lack nothing but the knowledge that the
    change is committed by which the refusing voter left, and could then never be elected.
    """
    can_vote = (
        state.vote == message.sender
        or (state.vote == NO_PEER and state.raft_leader == NO_PEER)
        or (message.kind is MessageKind.PRE_VOTE and message.term > state.term)
    )
    granted = can_vote and is_up_to_date(state.log, EntryId(message.log_term, message.index))
    # A grant answers in the term it was asked for; a refusal tells the own term, so that a
    # candidate that is behind learns it.
    if not granted:
        refuse_vote(state, message)
        return
    state.post(Message(ANSWER_KINDS[message.kind], message.sender, state.peer_id, message.term))
    if message.kind is MessageKind.VOTE:
        state.election_elapsed_ticks = 0
        state.vote = message.sender


def refuse_vote(state: RaftState, message: Message) -> None:
    """Answer a request for a vote with a refusal, in the own term."""
    told = EntryId()
    if state.options.refusals_tell_commit:
        commit_index = state.log.commit_index
        told = EntryId(state.log.term_at(commit_index) or 0, commit_index)
    state.post(
        Message(
            ANSWER_KINDS[message.kind],
            message.sender,
            state.peer_id,
            state.term,
            log_term=told.term,
            index=told.index,
            rejected=True,
        )
    )


def handle_vote_answer(state: RaftState, message: Message) -> None:
    """Count a vote; act when the poll is decided."""
    if message.rejected and _learns_of_change(state, EntryId(message.log_term, message.index)):
        # It may no longer be a voter, or need other votes: the change is applied first.
        state.become_follower(Cause.CHANGE_LEARNED, state.term, NO_PEER)
        return
    result = state.tracker.record_vote(message.sender, is_granted=not message.rejected)
    if result is VoteResult.LOST:
        state.become_follower(Cause.OUTVOTED, state.term, NO_PEER)
    elif result is VoteResult.WON and state.role is Role.PRE_CANDIDATE:
        _campaign(state, Campaign.ELECTION)
    elif result is VoteResult.WON and state.peer_id in state.tracker.votes:
        # The own vote is among them, so that the term is durable: a candidate that led before, and
        # lost the term in a crash, could be elected in it again and write other entries in it.
        state.become_leader()
        # An entry of the own term: only with it can anything before it be committed.
        append_entries(state, (Entry(),))
        broadcast_append(state)


def _learns_of_change(state: RaftState, told: EntryId) -> bool:
    """Raise the commit index to a told one; return whether a membership change lies below it.

    Safe from anybody: an entry that is committed is committed for all, and the log holds it.
    """
    if told.index <= state.log.commit_index or not state.log.matches(told):
        return False
    state.log.commit_to(told.index)
    return _has_unapplied_change(state)


def handle_check_quorum(state: RaftState, message: Message) -> None:
    """Step down if no quorum was heard since the last check."""
    del message
    if not state.tracker.is_quorum_active():
        state.become_follower(Cause.QUORUM_LOST, state.term, NO_PEER)
    state.tracker.clear_activity(state.peer_id)


def is_lease_held(state: RaftState) -> bool:
    """Whether this replica believes in a living leader, and so refuses votes (thesis, 6.2)."""
    return (
        state.options.check_quorum
        and state.raft_leader != NO_PEER
        and state.election_elapsed_ticks < state.options.election_ticks
    )
