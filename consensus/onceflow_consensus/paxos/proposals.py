"""Proposals: who takes them, their bounds, and the seal that a membership change is.

A membership change *seals* the log: nothing is proposed after it until it is applied, so that the
configuration that it brings decides everything above it, and the one before everything up to it.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.errors import (
    ConfChangeRefused,
    DropReason,
    ProposalDropped,
    invariant,
)
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.paxos.sending import broadcast_entries
from onceflow_consensus.raft.confchange import change_configuration, decode_conf_change
from onceflow_consensus.raft.messages import NO_PEER, Entry, EntryKind, payload_bytes

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState


def append_entries(state: PaxosState, entries: tuple[Entry, ...]) -> None:
    """Put entries at the end of the proposer's log; it accepts them when they are durable."""
    first_index = state.log.last_index + 1
    number = state.promised.number
    numbered = [
        replace(entry, term=number, index=first_index + position)
        for position, entry in enumerate(entries)
    ]
    state.uncommitted_bytes += payload_bytes(entries)
    for entry in numbered:
        if entry.kind is not EntryKind.NORMAL:
            state.seal_index = entry.index
    last_index = state.log.append(tuple(numbered))
    own = state.peer_id
    state.post(PaxosMessage(PaxosKind.ACCEPTED, own, own, number, index=last_index))


def handle_proposal(state: PaxosState, message: PaxosMessage) -> None:
    """Append proposed entries and send them, or pass them on to whoever leads.

    Raises:
        ProposalDropped: it was neither appended nor passed on; the reason says whether repeating
            helps.
    """
    invariant(message.entries, "INV-PAXOS-8: a proposal proposes something")
    if state.phase is not Phase.ACCEPT:
        _forward(state, message)
        return
    _check_bounds(state, message.entries)
    *others, last = message.entries
    # Nothing follows a seal: a change is taken only at the end of a proposal.
    entries = [entry if entry.kind is EntryKind.NORMAL else Entry() for entry in others]
    append_entries(state, (*entries, last if _fits(state, last) else Entry()))
    broadcast_entries(state)


def _check_bounds(state: PaxosState, entries: tuple[Entry, ...]) -> None:
    if state.transferee != NO_PEER:
        raise ProposalDropped(DropReason.TRANSFERRING)
    if state.seal_index > state.cursor.applied_index:
        raise ProposalDropped(DropReason.RECONFIGURING)
    proposed_bytes = payload_bytes(entries)
    # Alone, a proposal may exceed the bound: it could never pass otherwise.
    adds_to_others = proposed_bytes > 0 and state.uncommitted_bytes > 0
    if (
        adds_to_others
        and state.uncommitted_bytes + proposed_bytes > state.options.max_uncommitted_bytes
    ):
        raise ProposalDropped(DropReason.UNCOMMITTED_BOUND)


def _fits(state: PaxosState, entry: Entry) -> bool:
    if entry.kind is EntryKind.NORMAL or not state.options.validate_conf_changes:
        return True
    change = decode_conf_change(entry.data)
    present = state.tracker.configuration
    try:
        change_configuration(present, change)
    except ConfChangeRefused:
        return False
    # A change without operations is taken for leaving, whatever transition it names.
    return present.is_joint != bool(change.changes)


def _forward(state: PaxosState, message: PaxosMessage) -> None:
    if state.followed == NO_PEER:
        raise ProposalDropped(DropReason.NO_LEADER)
    if not state.options.forward_proposals:
        raise ProposalDropped(DropReason.FORWARDING_DISABLED)
    state.post(replace(message, to=state.followed, sender=message.sender or state.peer_id))
