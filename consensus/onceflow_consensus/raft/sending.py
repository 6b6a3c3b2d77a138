"""What is sent to a member of the group: appends, snapshots, heartbeats.

Decides only what a single message holds and whether it may be sent at present; who is sent to, and
when, is decided by the callers.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import Message, MessageKind, payload_bytes
from onceflow_consensus.raft.progress import ProgressState

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.progress import Progress
    from onceflow_consensus.raft.state import RaftState


def send_append(state: RaftState, to: PeerId) -> bool:
    """Send the next entries and the commit index, also without entries; return whether it was."""
    return _send_append(state, to, may_be_empty=True)


def send_pending_entries(state: RaftState, to: PeerId) -> bool:
    """Send the next entries if there are any and they may be sent; return whether it was."""
    return _send_append(state, to, may_be_empty=False)


def _send_append(state: RaftState, to: PeerId, *, may_be_empty: bool) -> bool:
    progress = state.tracker.progress[to]
    if progress.is_paused:
        return False
    previous_index = progress.next_index - 1
    previous_term = state.log.term_at(previous_index)
    if previous_term is None:
        return _send_snapshot(state, to, progress)
    entries = ()
    # With a full window an empty append is sent all the same: if everything under way was lost,
    # its rejection is what makes the follower known to lag.
    if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full:
        entries = state.log.entries_from(progress.next_index, state.options.max_message_bytes)
    if not entries and not may_be_empty:
        return False
    state.post(
        Message(
            MessageKind.APP,
            to,
            state.peer_id,
            state.term,
            log_term=previous_term,
            index=previous_index,
            entries=entries,
            commit_index=state.log.commit_index,
        )
    )
    progress.sent_entries(len(entries), payload_bytes(entries))
    progress.sent_commit_index = state.log.commit_index
    return True


def _send_snapshot(state: RaftState, to: PeerId, progress: Progress) -> bool:
    # A snapshot is large: it is not sent to a follower that may be gone.
    if not progress.is_recently_active:
        return False
    newest = state.log.latest_snapshot()
    if newest is None:
        return False
    invariant(newest.index > 0, "INV-RAFT-15: an empty snapshot is never sent", to=to)
    progress.become_snapshot(newest.index)
    state.post(Message(MessageKind.SNAP, to, state.peer_id, state.term, raft_snapshot=newest))
    return True


def broadcast_append(state: RaftState) -> None:
    """Send appends to every other member that may be sent to."""
    for peer_id in state.tracker.progress:
        if peer_id != state.peer_id:
            send_append(state, peer_id)


def broadcast_pending_entries(state: RaftState) -> None:
    """Send entries to every other member that lacks some and may be sent to."""
    for peer_id in state.tracker.progress:
        if peer_id != state.peer_id:
            send_pending_entries(state, peer_id)


def broadcast_heartbeat(state: RaftState) -> None:
    """Send a heartbeat to every other member, asking to confirm the reads that wait.

    The commit index told is at most what the follower is known to hold: it may not yet have the
    entries, and must not believe that what it holds instead is committed.
    """
    context = state.reads.heartbeat_context()
    for peer_id, progress in state.tracker.progress.items():
        if peer_id == state.peer_id:
            continue
        commit_index = min(progress.match_index, state.log.commit_index)
        state.post(
            Message(
                MessageKind.HEARTBEAT,
                peer_id,
                state.peer_id,
                state.term,
                commit_index=commit_index,
                context=context,
            )
        )
        progress.sent_commit_index = commit_index
