"""What a replica wants done: the effects of the events it took.

``Ready`` is the contract with the driver, and says what must be durable before what is sent.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.raft.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    Message,
    MessageKind,
)

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry, HardState, RaftSnapshot
    from onceflow_consensus.raft.reads import ReadState
    from onceflow_consensus.raft.roles import Role
    from onceflow_consensus.raft.state import RaftState


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """Role and believed leader: for information, never stored."""

    raft_leader: PeerId
    role: Role


class Ready(msgspec.Struct, frozen=True, gc=False):
    """Work for the driver. Fields are empty or None where there is none.

    messages: may be sent at once, also before anything is durable.
    hard_state, entries, raft_snapshot: to be made durable, the snapshot first. Entries replace
        what the log holds at their indices and above.
    messages_after_persist: may be sent only when these three, and those of every earlier
        ``Ready``, are durable. They are promises: acknowledged entries and votes.
    committed_entries: to be applied, after the writes above if storage is written by ``Ready``.
    read_states: reads that may be answered once their index is applied.
    soft_state: set when role or leader changed.
    must_sync: whether a promise rests on the writes, so that they have to reach the disk itself.
    storage_append, storage_apply: with ``StorageMode.MESSAGES``, the same work as messages to the
        local threads, each with the responses to deliver when it is done. Messages to one thread
        are performed in order and never lost; the other fields then only inform.
    """

    messages: tuple[Message, ...] = ()
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    raft_snapshot: RaftSnapshot | None = None
    messages_after_persist: tuple[Message, ...] = ()
    committed_entries: tuple[Entry, ...] = ()
    read_states: tuple[ReadState, ...] = ()
    soft_state: SoftState | None = None
    must_sync: bool = False
    storage_append: Message | None = None
    storage_apply: Message | None = None


def persisted_report(state: RaftState, raft_snapshot: RaftSnapshot | None) -> Message | None:
    """Return the report that everything held now is durable; None if there is nothing to report.

    It names the last entry by term and index, so that it is ignored if that was replaced.
    """
    last = state.log.unstable.last_id
    if not last.index and raft_snapshot is None:
        return None
    kind, own_id, term = MessageKind.STORAGE_APPEND_RESP, state.peer_id, state.term
    return Message(
        kind, own_id, APPEND_THREAD, term, last.term, last.index, raft_snapshot=raft_snapshot
    )


def applied_report(state: RaftState, entries: tuple[Entry, ...]) -> Message | None:
    """Return the report that ``entries`` are applied; None if there are none."""
    if not entries:
        return None
    return Message(MessageKind.STORAGE_APPLY_RESP, state.peer_id, APPLY_THREAD, entries=entries)


def storage_append_message(
    state: RaftState,
    entries: tuple[Entry, ...],
    hard_state: HardState | None,
    received: RaftSnapshot | None,
    promises: tuple[Message, ...],
) -> Message | None:
    """Return the work of a ``Ready`` for the local writer, None if there is none."""
    if not entries and hard_state is None and received is None and not promises:
        return None
    report = persisted_report(state, received)
    return Message(
        MessageKind.STORAGE_APPEND,
        APPEND_THREAD,
        state.peer_id,
        term=0 if hard_state is None else hard_state.term,
        vote=0 if hard_state is None else hard_state.vote,
        commit_index=0 if hard_state is None else hard_state.commit_index,
        entries=entries,
        raft_snapshot=received,
        responses=promises if report is None else (*promises, report),
    )


def storage_apply_message(state: RaftState, entries: tuple[Entry, ...]) -> Message | None:
    """Return the work for the local state machine, None if there is none."""
    report = applied_report(state, entries)
    if report is None:
        return None
    return Message(
        MessageKind.STORAGE_APPLY,
        APPLY_THREAD,
        state.peer_id,
        entries=entries,
        responses=(report,),
    )
