"""Which handler takes which message in which role, and what a message's term does first.

Rules of this file: a kind that a role does not name is dropped by it, on purpose. What the term of
a message means is decided here alone, before its kind is looked at: a higher term makes a
follower, a lower one is answered at most.
Must never import anything that does I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from onceflow_consensus.raft import (
    election,
    following,
    membership,
    proposing,
    reading,
    replication,
    transfer,
)
from onceflow_consensus.raft.messages import (
    NO_PEER,
    TRANSFER_CONTEXT,
    Message,
    MessageKind,
)
from onceflow_consensus.raft.roles import Cause, Role
from onceflow_consensus.raft.sending import broadcast_heartbeat
from onceflow_consensus.raft.state import RaftState

Handler = Callable[[RaftState, Message], None]
"""Takes one message. May raise what ``step`` documents."""


def _handle_beat(state: RaftState, message: Message) -> None:
    del message
    broadcast_heartbeat(state)


_IN_EVERY_ROLE: dict[MessageKind, Handler] = {
    MessageKind.HUP: election.handle_hup,
    MessageKind.VOTE: election.handle_vote_request,
    MessageKind.PRE_VOTE: election.handle_vote_request,
    MessageKind.STORAGE_APPEND_RESP: membership.handle_persisted,
    MessageKind.STORAGE_APPLY_RESP: membership.handle_applied,
}

_UNDER_A_LEADER: dict[MessageKind, Handler] = {
    MessageKind.APP: following.handle_append,
    MessageKind.HEARTBEAT: following.handle_heartbeat,
    MessageKind.SNAP: following.handle_snapshot,
}

_IN_A_CAMPAIGN: dict[MessageKind, Handler] = {
    **_IN_EVERY_ROLE,
    **_UNDER_A_LEADER,
    MessageKind.PROP: proposing.propose_as_candidate,
    MessageKind.READ_INDEX: reading.refuse_read,
}

HANDLERS: dict[Role, dict[MessageKind, Handler]] = {
    Role.FOLLOWER: {
        **_IN_EVERY_ROLE,
        **_UNDER_A_LEADER,
        MessageKind.PROP: proposing.forward_proposal,
        MessageKind.READ_INDEX: reading.forward_read,
        MessageKind.READ_INDEX_RESP: reading.take_read_answer,
        MessageKind.TRANSFER_LEADER: transfer.forward_transfer,
        MessageKind.TIMEOUT_NOW: election.handle_timeout_now,
        MessageKind.FORGET_LEADER: following.forget_leader,
    },
    Role.PRE_CANDIDATE: {
        **_IN_A_CAMPAIGN,
        MessageKind.PRE_VOTE_RESP: election.handle_vote_answer,
    },
    Role.CANDIDATE: {
        **_IN_A_CAMPAIGN,
        MessageKind.VOTE_RESP: election.handle_vote_answer,
    },
    Role.LEADER: {
        **_IN_EVERY_ROLE,
        MessageKind.BEAT: _handle_beat,
        MessageKind.CHECK_QUORUM: election.handle_check_quorum,
        MessageKind.PROP: proposing.propose_as_leader,
        MessageKind.READ_INDEX: reading.read_as_leader,
        MessageKind.APP_RESP: replication.handle_append_answer,
        MessageKind.HEARTBEAT_RESP: replication.handle_heartbeat_answer,
        MessageKind.SNAP_STATUS: replication.handle_snapshot_report,
        MessageKind.UNREACHABLE: replication.handle_unreachable,
        MessageKind.TRANSFER_LEADER: transfer.transfer_as_leader,
    },
}
"""What each role does with each kind of message."""

_FROM_A_LEADER = frozenset({MessageKind.APP, MessageKind.HEARTBEAT, MessageKind.SNAP})
_VOTE_REQUESTS = frozenset({MessageKind.VOTE, MessageKind.PRE_VOTE})


def step(state: RaftState, message: Message) -> None:
    """Take one message or local event.

    Raises:
        ProposalDropped, ReadDropped: the request was not taken; the reason says why.
        MessageRefused: the message contradicts itself; drop it.
        InvariantViolation: stop the replica.
    """
    if message.term and not _admit_term(state, message):
        return
    handler = HANDLERS[state.role].get(message.kind)
    if handler is not None:
        handler(state, message)


def _admit_term(state: RaftState, message: Message) -> bool:
    """Bring the own term and the message's together; return whether its kind matters still."""
    if message.term > state.term:
        return _admit_higher_term(state, message)
    if message.term < state.term:
        _answer_lower_term(state, message)
        return False
    return True


def _admit_higher_term(state: RaftState, message: Message) -> bool:
    kind = message.kind
    if kind in _VOTE_REQUESTS:
        is_transfer = message.context == TRANSFER_CONTEXT
        if not is_transfer and election.is_lease_held(state):
            # While a leader lives nobody may disturb it, removed members in particular.
            return False
    # A pre-vote asks about a term that may never begin, and its grant answers in that term.
    is_hypothetical = kind is MessageKind.PRE_VOTE or (
        kind is MessageKind.PRE_VOTE_RESP and not message.rejected
    )
    if not is_hypothetical:
        raft_leader = message.sender if kind in _FROM_A_LEADER else NO_PEER
        state.become_follower(Cause.HIGHER_TERM, message.term, raft_leader)
    return True


def _answer_lower_term(state: RaftState, message: Message) -> None:
    kind = message.kind
    options = state.options
    if kind in _FROM_A_LEADER - {MessageKind.SNAP} and (options.check_quorum or options.pre_vote):
        # A leader that was left behind would never hear of the new term by a vote request: those
        # are withheld or refused. This answer makes it step down.
        state.post(Message(MessageKind.APP_RESP, message.sender, state.peer_id, state.term))
    elif kind is MessageKind.PRE_VOTE:
        # A candidate behind in term learns of it; else two of them could wait for each other.
        election.refuse_vote(state, message)
    elif kind is MessageKind.STORAGE_APPEND_RESP:
        membership.handle_persisted(state, message)


def tick(state: RaftState, fresh_timeout_ticks: int) -> None:
    """Let one tick pass.

    Args:
        state: the replica.
        fresh_timeout_ticks: the election timeout to use if a period begins with this tick: at
            least ``election_ticks``, with a random part that differs between replicas. It is
            used by the first tick after the role or the term changed, else ignored.
    """
    if state.election_timeout_ticks is None:
        state.election_timeout_ticks = fresh_timeout_ticks
    state.election_elapsed_ticks += 1
    if state.role is Role.LEADER:
        _tick_leader(state)
    elif state.is_promotable and state.election_elapsed_ticks >= state.election_timeout_ticks:
        state.election_elapsed_ticks = 0
        step(state, Message(MessageKind.HUP, sender=state.peer_id))


def _tick_leader(state: RaftState) -> None:
    state.heartbeat_elapsed_ticks += 1
    if state.election_elapsed_ticks >= state.options.election_ticks:
        state.election_elapsed_ticks = 0
        if state.options.check_quorum:
            step(state, Message(MessageKind.CHECK_QUORUM, sender=state.peer_id))
        # A transfer that took this long has failed.
        state.transferee = NO_PEER
    if state.role is not Role.LEADER:
        return
    if state.heartbeat_elapsed_ticks >= state.options.heartbeat_ticks:
        state.heartbeat_elapsed_ticks = 0
        step(state, Message(MessageKind.BEAT, sender=state.peer_id))
