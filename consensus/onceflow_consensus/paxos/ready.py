"""What a replica wants done: the effects of the events it took.

The fields mean what they mean in ``raft/ready.py``; only the messages are of this engine.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.messages import APPEND_THREAD, APPLY_THREAD

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.raft.messages import Entry, HardState, RaftSnapshot
    from onceflow_consensus.raft.reads import ReadState
    from onceflow_consensus.raft.ready import SoftState


class PaxosReady(msgspec.Struct, frozen=True, gc=False):
    """Work for the driver. Fields are empty or None where there is none.

    messages: may be sent at once, also before anything is durable.
    raft_snapshot, entries, hard_state: to be made durable, the snapshot first.
    messages_after_persist: promises; may be sent only when these three, and those of every earlier
        ``PaxosReady``, are durable.
    committed_entries: to be applied, after the writes above if storage is written by ``Ready``.
    read_states: reads that may be answered once their index is applied.
    soft_state: set when role or leader changed.
    must_sync: whether a promise rests on the writes.
    storage_append, storage_apply: with ``StorageMode.MESSAGES``, the same work as messages to the
        local threads.
    """

    messages: tuple[PaxosMessage, ...] = ()
    raft_snapshot: RaftSnapshot | None = None
    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    messages_after_persist: tuple[PaxosMessage, ...] = ()
    committed_entries: tuple[Entry, ...] = ()
    soft_state: SoftState | None = None
    read_states: tuple[ReadState, ...] = ()
    must_sync: bool = False
    storage_append: PaxosMessage | None = None
    storage_apply: PaxosMessage | None = None


def persisted_report(state: PaxosState, raft_snapshot: RaftSnapshot | None) -> PaxosMessage | None:
    """Return the report that all that is held now is durable, None if there is nothing to report.

    It names the last entry by ballot and index, so that it is ignored if that was replaced.
    """
    last = state.log.unstable.last_id
    if raft_snapshot is None and not last.index:
        return None
    return PaxosMessage(
        PaxosKind.STORAGE_APPEND_RESP,
        APPEND_THREAD,
        state.peer_id,
        state.promised.number,
        log_term=last.term,
        index=last.index,
        raft_snapshot=raft_snapshot,
    )


def applied_report(state: PaxosState, entries: tuple[Entry, ...]) -> PaxosMessage | None:
    """Return the report that ``entries`` are applied, None if there are none."""
    if not entries:
        return None
    kind = PaxosKind.STORAGE_APPLY_RESP
    return PaxosMessage(kind, APPLY_THREAD, state.peer_id, entries=entries)


def append_work(
    state: PaxosState,
    hard_state: HardState | None,
    entries: tuple[Entry, ...],
    raft_snapshot: RaftSnapshot | None,
    promises: tuple[PaxosMessage, ...],
) -> PaxosMessage | None:
    """Return what the local writer has to do, None if there is nothing."""
    if not (entries or promises or hard_state or raft_snapshot):
        return None
    report = persisted_report(state, raft_snapshot)
    return PaxosMessage(
        PaxosKind.STORAGE_APPEND,
        state.peer_id,
        APPEND_THREAD,
        hard_state.term if hard_state else 0,
        hard_state.vote if hard_state else 0,
        commit_index=hard_state.commit_index if hard_state else 0,
        entries=entries,
        raft_snapshot=raft_snapshot,
        responses=(*promises, report) if report else promises,
    )


def apply_work(state: PaxosState, entries: tuple[Entry, ...]) -> PaxosMessage | None:
    """Return the work for the local state machine, None if there is none."""
    report = applied_report(state, entries)
    if report is None:
        return None
    kind = PaxosKind.STORAGE_APPLY
    return PaxosMessage(kind, state.peer_id, APPLY_THREAD, entries=entries, responses=(report,))
