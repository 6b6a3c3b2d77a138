"""When a membership change takes effect, and what follows from it.

A change takes effect when its entry is applied, as in etcd-raft, not when it is appended as in the
thesis. Therefore no replica campaigns with a committed change left to apply, and one change at a
time is under way.
Must never import anything that does I/O.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from onceflow_consensus.errors import ProposalDropped
from onceflow_consensus.raft.confchange import change_configuration, decode_conf_change
from onceflow_consensus.raft.messages import (
    NO_PEER,
    Entry,
    EntryId,
    EntryKind,
    Message,
    MessageKind,
    encoded_bytes,
)
from onceflow_consensus.raft.proposing import propose_as_leader, release_uncommitted
from onceflow_consensus.raft.replication import advance_commit
from onceflow_consensus.raft.roles import Cause, Role
from onceflow_consensus.raft.sending import broadcast_append, broadcast_pending_entries

if TYPE_CHECKING:
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.raft.state import RaftState


def apply_conf_change(state: RaftState, entry: Entry) -> Configuration | None:
    """Put the change of a committed entry into force.

    Returns:
        The configuration, or None if a snapshot that was received has overtaken the entry. The
        state machine is about to be replaced then: neither this entry nor those that were handed
        out with it may be applied.

    Raises:
        ConfChangeRefused: the change does not fit; nothing changed. With validation of proposals
            this cannot happen to an entry that was proposed through this engine.
    """
    if entry.index <= state.configuration_index:
        return None
    outcome = change_configuration(state.tracker.configuration, decode_conf_change(entry.data))
    state.configuration_index = entry.index
    state.tracker.install(outcome, state.log.last_index)
    _adjust_to_members(state)
    return state.tracker.configuration


def _adjust_to_members(state: RaftState) -> None:
    if state.role is not Role.LEADER:
        return
    if state.peer_id not in state.tracker.progress or state.is_learner:
        if state.options.step_down_on_removal:
            state.become_follower(Cause.REMOVED, state.term, NO_PEER)
        return
    # A smaller quorum may have been reached already; a newcomer has to be told of what there is.
    if advance_commit(state):
        broadcast_append(state)
    else:
        broadcast_pending_entries(state)
    if state.transferee not in state.tracker.voters:
        state.transferee = NO_PEER


def applied_to(state: RaftState, index: LogIndex, entry_bytes: int) -> None:
    """Take the report that the state machine is at ``index``; leave a joint configuration if due.

    The leader leaves one that it entered with ``auto_leave`` as soon as the entry that entered it
    is applied. If it cannot propose at the moment, the next report repeats the attempt.
    """
    state.cursor.applied_to(max(index, state.cursor.applied_index), entry_bytes)
    is_due = (
        state.tracker.configuration.auto_leave
        and state.role is Role.LEADER
        and state.cursor.applied_index >= state.pending_conf_index
    )
    if is_due:
        leave = Message(
            MessageKind.PROP,
            sender=state.peer_id,
            entries=(Entry(kind=EntryKind.CONF_CHANGE_V2),),
        )
        with suppress(ProposalDropped):
            propose_as_leader(state, leave)


def handle_applied(state: RaftState, message: Message) -> None:
    """Take the state machine's report on the entries that it applied."""
    if message.entries:
        applied_to(state, message.entries[-1].index, encoded_bytes(message.entries))
        release_uncommitted(state, message.entries)


def handle_persisted(state: RaftState, message: Message) -> None:
    """Take the writer's report on entries and snapshot that became durable.

    Entries are only believed if the report is of the present term. One of an older term may speak
    of entries that were replaced and put back since: that they are durable *now* is not said.
    """
    if message.index and message.term >= state.term:
        state.log.unstable.stable_to(EntryId(message.log_term, message.index))
    if message.raft_snapshot is not None:
        state.log.unstable.stable_snapshot_to(message.raft_snapshot.index)
        applied_to(state, message.raft_snapshot.index, 0)
