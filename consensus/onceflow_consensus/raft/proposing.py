"""How entries enter the log of a leader, and how proposals find their leader.

Bounded: a leader takes no more bytes than it may hold uncommitted. Checked: one configuration
change is under way at a time, and one that does not fit becomes an empty entry, so that its
proposer sees it take its place in the log without effect.
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
from onceflow_consensus.raft.confchange import (
    ConfChange,
    change_configuration,
    decode_conf_change,
)
from onceflow_consensus.raft.messages import (
    NO_PEER,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    payload_bytes,
)
from onceflow_consensus.raft.sending import broadcast_append

if TYPE_CHECKING:
    from onceflow_consensus.raft.state import RaftState


def append_entries(state: RaftState, entries: tuple[Entry, ...]) -> bool:
    """Put entries at the end of a leader's log; return False if the bound of bytes is reached.

    A single proposal may exceed the bound when nothing is uncommitted, else it could never pass;
    entries without data always pass, because elections and membership changes depend on them.
    The leader acknowledges them to itself when they are durable, not before.
    """
    proposed_bytes = payload_bytes(entries)
    total_bytes = state.uncommitted_bytes + proposed_bytes
    adds_to_others = state.uncommitted_bytes > 0 and proposed_bytes > 0
    if adds_to_others and total_bytes > state.options.max_uncommitted_bytes:
        return False
    state.uncommitted_bytes = total_bytes
    term = state.term
    next_index = state.log.last_index + 1
    last_index = state.log.append(
        tuple([Entry(term, i, each.kind, each.data) for i, each in enumerate(entries, next_index)])
    )
    own_id = state.peer_id
    state.post(Message(MessageKind.APP_RESP, own_id, own_id, term, index=last_index))
    return True


def release_uncommitted(state: RaftState, entries: tuple[Entry, ...]) -> None:
    """Give back the bytes of entries that were applied; those of older terms were never counted."""
    state.uncommitted_bytes = max(0, state.uncommitted_bytes - payload_bytes(entries))


def propose_as_leader(state: RaftState, message: Message) -> None:
    """Append the proposed entries and send them.

    Raises:
        ProposalDropped: nothing was appended; the reason says whether repeating helps.
    """
    invariant(message.entries, "INV-RAFT-19: a proposal proposes something")
    if state.peer_id not in state.tracker.progress:
        raise ProposalDropped(DropReason.NOT_A_MEMBER)
    if state.transferee != NO_PEER:
        raise ProposalDropped(DropReason.TRANSFERRING)
    first_index = state.log.last_index + 1
    pending_before = state.pending_conf_index
    entries = tuple(
        [
            _checked_entry(state, entry, index)
            for index, entry in enumerate(message.entries, first_index)
        ]
    )
    if not append_entries(state, entries):
        state.pending_conf_index = pending_before
        raise ProposalDropped(DropReason.UNCOMMITTED_BOUND)
    broadcast_append(state)


def _checked_entry(state: RaftState, entry: Entry, index: int) -> Entry:
    if entry.kind is EntryKind.NORMAL:
        return entry
    if state.options.validate_conf_changes and not _fits(state, decode_conf_change(entry.data)):
        return Entry()
    state.pending_conf_index = index
    return entry


def _fits(state: RaftState, change: ConfChange) -> bool:
    if state.pending_conf_index > state.cursor.applied_index:
        return False
    present = state.tracker.configuration
    # A change without operations is taken for leaving, whatever transition it names.
    if present.is_joint != (not change.changes):
        return False
    # No other change is under way, so that this is the configuration it will be applied to: what
    # is refused here would be refused on every replica, after it was committed.
    try:
        change_configuration(present, change)
    except ConfChangeRefused:
        return False
    return True


def propose_as_candidate(state: RaftState, message: Message) -> None:
    """Refuse: no leader is known while one is being elected.

    Raises:
        ProposalDropped: always.
    """
    del state, message
    raise ProposalDropped(DropReason.NO_LEADER)


def forward_proposal(state: RaftState, message: Message) -> None:
    """Pass a proposal on to the leader.

    Raises:
        ProposalDropped: no leader is known, or forwarding is switched off.
    """
    if state.raft_leader == NO_PEER:
        raise ProposalDropped(DropReason.NO_LEADER)
    if not state.options.forward_proposals:
        raise ProposalDropped(DropReason.FORWARDING_DISABLED)
    sender = message.sender or state.peer_id
    state.post(replace(message, to=state.raft_leader, sender=sender))
