"""Which handler takes which message, what its ballot does first, and what a tick does.

Rules of this file: what the ballot of a message means is decided here alone, before its kind is
looked at. A higher one is promised, a lower one refused, an answer to another one dropped.
Must never import anything that does I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from onceflow_consensus.paxos import acceptor, learner, proposals, proposer, reading, transfer
from onceflow_consensus.paxos.elections import Reply
from onceflow_consensus.paxos.messages import (
    ANSWERS,
    OF_A_BALLOT,
    Ballot,
    PaxosKind,
    PaxosMessage,
)
from onceflow_consensus.paxos.roles import Cause, Phase
from onceflow_consensus.paxos.state import PaxosState
from onceflow_consensus.paxos.synchronising import beat, handle_accepted
from onceflow_consensus.raft.messages import NO_PEER

Handler = Callable[[PaxosState, PaxosMessage], None]
"""Takes one message. May raise what ``step`` documents."""


def _handle_heartbeat(state: PaxosState, message: PaxosMessage) -> None:
    elections, is_member = state.elections, message.sender in state.tracker.progress
    if not is_member and message.commit_index < state.log.commit_index:
        # One that was removed and does not know it must not believe that it has a quorum. One
        # that knows more than this replica, on the other hand, may have been added since.
        return
    state.post(
        PaxosMessage(
            PaxosKind.HEARTBEAT_REPLY,
            state.peer_id,
            message.sender,
            elections.own.number,
            elections.elected.owner,
            elections.elected.number,
            message.index,
            rejected=not elections.is_content,
        )
    )


def _handle_heartbeat_reply(state: PaxosState, message: PaxosMessage) -> None:
    elected = Ballot(message.log_term, message.vote)
    reply = Reply(message.ballot, elected, not message.rejected, message.index)
    state.elections.take_reply(message.sender, reply)


HANDLERS: dict[PaxosKind, Handler] = {
    PaxosKind.HEARTBEAT: _handle_heartbeat,
    PaxosKind.HEARTBEAT_REPLY: _handle_heartbeat_reply,
    PaxosKind.PREPARE: acceptor.handle_prepare,
    PaxosKind.PROMISE: proposer.handle_promise,
    PaxosKind.FETCH: acceptor.handle_prepare,
    PaxosKind.STATE: proposer.handle_state,
    PaxosKind.REFUSE: proposer.handle_refusal,
    PaxosKind.ACCEPT_SYNC: acceptor.handle_accept,
    PaxosKind.ACCEPT: acceptor.handle_accept,
    PaxosKind.DECIDE: acceptor.handle_accept,
    PaxosKind.SNAP: acceptor.handle_snapshot,
    PaxosKind.ACCEPTED: handle_accepted,
    PaxosKind.PROPOSE: proposals.handle_proposal,
    PaxosKind.READ_INDEX: reading.handle_read,
    PaxosKind.READ_INDEX_RESP: reading.take_answer,
    PaxosKind.CONFIRM: reading.handle_question,
    PaxosKind.CONFIRMED: reading.handle_confirmation,
    PaxosKind.TRANSFER_LEADER: transfer.handle_transfer,
    PaxosKind.TAKE_OVER: transfer.handle_take_over,
    PaxosKind.STORAGE_APPEND_RESP: learner.handle_persisted,
    PaxosKind.STORAGE_APPLY_RESP: learner.handle_applied,
}
"""What takes each kind of message; work for local threads is not stepped, but performed."""


def step(state: PaxosState, message: PaxosMessage) -> None:
    """Take one message, or the report of a local thread.

    Raises:
        ProposalDropped, ReadDropped: the request was not taken; the reason says why.
        MessageRefused: the message contradicts itself; drop it.
        InvariantViolation: stop the replica.
    """
    kind = message.kind
    if kind in OF_A_BALLOT and not _admit(state, message):
        return
    is_expected = state.phase is not Phase.FOLLOW and message.term == state.promised.number
    if kind in ANSWERS and not is_expected:
        return
    HANDLERS[kind](state, message)


def _admit(state: PaxosState, message: PaxosMessage) -> bool:
    if message.term > state.promised.number:
        state.promise(Cause.HIGHER_BALLOT, message.ballot)
    elif message.ballot != state.promised:
        acceptor.refuse_ballot(state, message)
        return False
    state.silence_ticks = 0
    return True


def tick(state: PaxosState, fresh_timeout_ticks: int) -> None:
    """Let one tick pass.

    Args:
        state: the replica.
        fresh_timeout_ticks: the election timeout to use if a period begins with this tick: at
            least ``election_ticks``, with a random part that differs between replicas. It is
            used by the first tick after the phase or the promise changed, else ignored.
    """
    if state.election_timeout_ticks is None:
        state.election_timeout_ticks = fresh_timeout_ticks
    state.elections.now += 1
    state.silence_ticks += 1
    if state.phase is Phase.FOLLOW and state.silence_ticks >= state.options.election_ticks:
        state.followed = NO_PEER
    if state.is_voter:
        _tick_election(state, state.election_timeout_ticks)
    else:
        state.elections.is_content = False
    if state.phase is not Phase.FOLLOW:
        _tick_proposer(state)
    if state.elections.now % state.options.heartbeat_ticks == 0:
        if state.is_voter:
            _broadcast_heartbeat(state)
        if state.phase is not Phase.FOLLOW:
            beat(state)


def _tick_election(state: PaxosState, timeout_ticks: int) -> None:
    elections, voters = state.elections, state.tracker.configuration.voters
    is_proposing = state.phase is not Phase.FOLLOW
    if is_proposing and not elections.can_lead(voters):
        state.give_up(Cause.QUORUM_LOST)
        return
    elections.judge(voters, is_proposing=is_proposing)
    if is_proposing:
        # Nobody needs to be replaced, but a peer that follows a dead ballot is left behind.
        is_contested = state.phase is Phase.ACCEPT and elections.is_outranked()
        wait_ticks = timeout_ticks
    else:
        is_contested = elections.may_take_over(voters)
        # Who is not heard was not heard for an election timeout already.
        wait_ticks = timeout_ticks - state.options.election_ticks
    state.contested_ticks = state.contested_ticks + 1 if is_contested else 0
    if state.contested_ticks > wait_ticks:
        state.contested_ticks = 0
        proposer.take_over(state)


def _tick_proposer(state: PaxosState) -> None:
    limit = state.options.election_ticks
    proposal = state.proposal
    if state.phase is Phase.PREPARE and proposal.source != NO_PEER:
        proposal.stalled_ticks += 1
        if proposal.stalled_ticks >= limit:
            state.give_up(Cause.STALLED)
        return
    if state.transferee != NO_PEER:
        state.transfer_ticks += 1
        if state.transfer_ticks >= limit:
            # A transfer that took this long has failed.
            state.transferee = NO_PEER


def _broadcast_heartbeat(state: PaxosState) -> None:
    for peer_id in state.other_members:
        state.post(
            PaxosMessage(
                PaxosKind.HEARTBEAT,
                state.peer_id,
                peer_id,
                state.elections.own.number,
                index=state.elections.now,
                commit_index=state.log.commit_index,
            )
        )
