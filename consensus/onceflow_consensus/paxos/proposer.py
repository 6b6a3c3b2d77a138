"""The proposer's first phase: taking a ballot, gathering promises, adopting what may be chosen.

A proposer whose log is behind is welcome: what it lacks comes with the promises. The log that it
adopts is that of the promise which ends highest, by the term of its last entry, then by its
length. Among the promises of a quorum it holds everything that lower ballots chose or ever will,
so that entries of the own log which conflict with it cannot be chosen and are replaced.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import MessageRefused, RefusalReason, invariant
from onceflow_consensus.paxos.acceptor import install_snapshot
from onceflow_consensus.paxos.messages import Ballot, PaxosKind, PaxosMessage
from onceflow_consensus.paxos.proposals import append_entries
from onceflow_consensus.paxos.roles import Cause, Phase
from onceflow_consensus.paxos.sending import send_fetch, send_prepare, start_sync
from onceflow_consensus.paxos.state import Promise, is_above
from onceflow_consensus.quorum.majority import VoteResult
from onceflow_consensus.raft.matching import append_from_leader, is_contiguous
from onceflow_consensus.raft.messages import NO_PEER, Entry, EntryId

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState


def take_over(state: PaxosState) -> None:
    """Take a ballot above all that are known, if this replica may.

    Not as a learner, nor with a decided membership change left to apply.
    """
    if not state.is_voter or state.has_unapplied_change:
        return
    last = state.log.last_id
    number = 1 + max(state.promised.number, state.elections.elected.number, last.term)
    ballot = Ballot(number, state.peer_id)
    state.promise(Cause.TAKE_OVER, ballot)
    state.elections.claim(ballot)
    state.proposal.fetched = last
    for peer_id in state.other_members:
        send_prepare(state, peer_id)
    state.post(
        PaxosMessage(
            PaxosKind.PROMISE,
            state.peer_id,
            state.peer_id,
            number,
            log_term=last.term,
            index=last.index,
            commit_index=state.log.commit_index,
        )
    )


def handle_promise(state: PaxosState, message: PaxosMessage) -> None:
    """Count a promise; go on with the first phase, or synchronise an acceptor that is late.

    Raises:
        MessageRefused: what it brings contradicts itself; nothing of it was taken.
    """
    proposal = state.proposal
    proposal.refusals.discard(message.sender)
    is_repeated = message.sender in proposal.promises
    proposal.promises[message.sender] = Promise(message.position, message.commit_index)
    if state.phase is Phase.ACCEPT:
        if not is_repeated:
            start_sync(state, message.sender)
        return
    if message.sender == proposal.source:
        _adopt(state, message)
    elif proposal.held is None or is_above(message.position, proposal.held.position):
        proposal.held = message
    advance_preparation(state)


def handle_refusal(state: PaxosState, message: PaxosMessage) -> None:
    """Learn of a ballot that an acceptor promised instead; give up if too few are left."""
    other = Ballot(message.term, message.vote)
    state.elections.observe(other)
    if state.phase is Phase.FOLLOW or message.index != state.promised.number:
        return
    state.proposal.promises.pop(message.sender, None)
    state.proposal.refusals.add(message.sender)
    if other.number == state.promised.number and other < state.promised:
        # Two owners chose the same number. The lower one gives way, the higher one tries the next.
        take_over(state)
        return
    standing = state.standing()
    is_open = state.phase is Phase.ACCEPT
    is_too_few = standing is VoteResult.LOST or (is_open and standing is VoteResult.PENDING)
    # What was adopted of a log half-way must not be replaced by another's under the same ballot.
    if is_too_few or (not is_open and message.sender == state.proposal.source):
        state.give_up(Cause.REFUSED)


def advance_preparation(state: PaxosState) -> None:
    """Open the ballot if a quorum promised and all that it may have chosen is here; else ask on."""
    if state.phase is not Phase.PREPARE:
        return
    if not state.is_voter:
        # A snapshot told so.
        state.give_up(Cause.REMOVED)
        return
    if state.standing() is not VoteResult.WON or state.has_unapplied_change:
        return
    proposal = state.proposal
    if is_above(proposal.promises[proposal.best()].last, state.log.last_id):
        _fetch(state)
        return
    state.log.commit_to(max(promise.commit_index for promise in proposal.promises.values()))
    if not state.has_unapplied_change:
        _open(state)


def _fetch(state: PaxosState) -> None:
    """Adopt the highest log step by step."""
    proposal = state.proposal
    if proposal.source == NO_PEER:
        proposal.source = proposal.best()
        if proposal.held is not None and proposal.held.sender == proposal.source:
            _adopt(state, proposal.held)
        proposal.held = None
        advance_preparation(state)
        return
    if not is_above(proposal.promises[proposal.source].last, state.log.last_id):
        # A higher log came up since. Reports of writes are told apart by their ballot only, and an
        # entry must not be replaced twice within one.
        take_over(state)
        return
    if proposal.asked != proposal.fetched:
        proposal.asked = proposal.fetched
        send_fetch(state)


def handle_state(state: PaxosState, message: PaxosMessage) -> None:
    """Take a snapshot that was asked for, also when it comes after the ballot was given up.

    It may have been long under way. What it holds is decided in any case.
    """
    proposal, received = state.proposal, message.raft_snapshot
    is_wanted = state.phase is Phase.FOLLOW or message.sender == proposal.source
    if received is None or not is_wanted or not install_snapshot(state, received):
        return
    proposal.fetched = EntryId(received.term, received.index)
    proposal.stalled_ticks = 0
    advance_preparation(state)


def _adopt(state: PaxosState, message: PaxosMessage) -> None:
    """Take what the source sent, if it follows what was taken before."""
    proposal = state.proposal
    entries = tuple(item for item in message.entries if item.index > state.log.commit_index)
    if not entries:
        return
    index = entries[0].index - 1
    if index not in (state.log.commit_index, proposal.fetched.index):
        return
    previous = EntryId(state.log.term_at(index) or 0, index)
    if not is_contiguous(previous, entries, state.promised.number - 1):
        raise MessageRefused(RefusalReason.NOT_CONTIGUOUS, message.kind.value, message.sender)
    append_from_leader(state.log, previous, entries, message.commit_index)
    proposal.fetched = EntryId(entries[-1].term, entries[-1].index)
    proposal.stalled_ticks = 0


def _open(state: PaxosState) -> None:
    """Enter the second phase with an entry of the own ballot, and synchronise who promised."""
    proposal = state.proposal
    last = state.log.last_id
    invariant(
        not any(is_above(promise.last, last) for promise in proposal.promises.values()),
        "INV-PAXOS-6: a ballot is opened only upon all that a quorum may have chosen",
        last=last,
    )
    state.open_ballot()
    state.seal_index = state.last_seal(state.cursor.applied_index, last.index)
    state.tracker.progress[state.peer_id].become_replicate()
    append_entries(state, (Entry(),))
    for peer_id in state.other_members:
        if peer_id in proposal.promises:
            start_sync(state, peer_id)
