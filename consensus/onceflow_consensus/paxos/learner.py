"""The learner: applying what is decided, and putting membership changes into force.

A change takes effect when it is applied. No replica proposes with a decided change left to apply,
and one change at a time is under way, so that any two configurations that may be in force at once
share a member in all their quorums.
Must never import anything that does I/O.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from onceflow_consensus.errors import ProposalDropped
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.proposals import handle_proposal
from onceflow_consensus.paxos.proposer import advance_preparation
from onceflow_consensus.paxos.roles import Cause, Phase
from onceflow_consensus.paxos.sending import send_prepare
from onceflow_consensus.raft.confchange import change_configuration, decode_conf_change
from onceflow_consensus.raft.messages import (
    NO_PEER,
    Entry,
    EntryId,
    EntryKind,
    encoded_bytes,
    payload_bytes,
)

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import LogIndex


def apply_conf_change(state: PaxosState, entry: Entry) -> Configuration | None:
    """Put the change of a decided entry into force.

    Returns:
        The configuration, or None if a snapshot that was received has overtaken the entry: the
        state machine is about to be replaced, and neither this entry nor those that were handed
        out with it may be applied.

    Raises:
        ConfChangeRefused: the change does not fit; nothing changed. With validation of proposals
            this cannot happen to an entry that was proposed through this engine.
    """
    if state.configuration_index >= entry.index:
        return None
    change = decode_conf_change(entry.data)
    outcome = change_configuration(state.tracker.configuration, change)
    state.tracker.install(outcome, state.log.last_index)
    state.configuration_index = entry.index
    state.elections.keep_members(outcome.configuration.peer_ids)
    if state.phase is not Phase.FOLLOW:
        _adjust_proposer(state)
    return outcome.configuration


def _adjust_proposer(state: PaxosState) -> None:
    if not state.is_voter:
        state.give_up(Cause.REMOVED)
        return
    for peer_id in state.other_members:
        if peer_id not in state.proposal.promises:
            send_prepare(state, peer_id)
    # A smaller quorum decides nothing more by itself: nothing but the first entry of a ballot can
    # stand after a change that is not applied, and it was decided together with the change.
    if state.transferee not in state.tracker.voters:
        state.transferee = NO_PEER


def _applied_to(state: PaxosState, index: LogIndex, entry_bytes: int) -> None:
    """Take the report that the state machine is at ``index``; go on with what waited for it."""
    state.cursor.applied_to(max(index, state.cursor.applied_index), entry_bytes)
    advance_preparation(state)
    is_due = (
        state.phase is Phase.ACCEPT
        and state.tracker.configuration.auto_leave
        and state.seal_index <= state.cursor.applied_index
    )
    if is_due:
        leave = Entry(kind=EntryKind.CONF_CHANGE_V2)
        # If it cannot be proposed at the moment, the next report repeats the attempt.
        with suppress(ProposalDropped):
            handle_proposal(state, PaxosMessage(PaxosKind.PROPOSE, entries=(leave,)))


def handle_applied(state: PaxosState, message: PaxosMessage) -> None:
    """Take the state machine's report on the entries that it applied."""
    entries = message.entries
    state.uncommitted_bytes = max(0, state.uncommitted_bytes - payload_bytes(entries))
    _applied_to(state, entries[-1].index, encoded_bytes(entries))


def handle_persisted(state: PaxosState, message: PaxosMessage) -> None:
    """Take the writer's report on entries and snapshot that became durable.

    Entries are only believed if the report is of the promised ballot: those that an older one
    speaks of may have been replaced, and put back, since.
    """
    if message.index and message.term == state.promised.number:
        state.log.unstable.stable_to(EntryId(message.log_term, message.index))
    received = message.raft_snapshot
    if received is not None:
        state.log.unstable.stable_snapshot_to(received.index)
        _applied_to(state, received.index, 0)
