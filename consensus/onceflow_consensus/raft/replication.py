"""How a leader brings its followers' logs up to its own, and what it counts as committed.

Handlers of the leader. Only entries of the leader's own term are committed by counting; older
ones are committed with them (Raft paper, 5.4.2, figure 8).
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.raft.matching import find_conflict_by_term
from onceflow_consensus.raft.messages import EntryId, Message, MessageKind
from onceflow_consensus.raft.progress import Progress, ProgressState
from onceflow_consensus.raft.reading import release_early_reads, take_read_acknowledgement
from onceflow_consensus.raft.sending import broadcast_append, send_append, send_pending_entries

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.state import RaftState


def advance_commit(state: RaftState) -> bool:
    """Commit what a quorum holds durably, if it ends in this term; return whether that is more."""
    index = state.tracker.committed_index()
    if index <= state.log.commit_index or not state.log.matches(EntryId(state.term, index)):
        return False
    return state.log.commit_to(index)


def handle_append_answer(state: RaftState, message: Message) -> None:
    """Take a follower's answer to an append: raise or lower what is known, and send on."""
    progress = state.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.is_recently_active = True
    if message.rejected:
        _step_back(state, progress, message)
        return
    rose = progress.acknowledged(message.index)
    found = progress.match_index == message.index and progress.state is ProgressState.PROBE
    if rose or found:
        _resume(state, progress)
        _spread(state, progress, message.sender)
        _finish_transfer(state, progress, message.sender)


def _step_back(state: RaftState, progress: Progress, message: Message) -> None:
    hint = message.reject_hint
    if message.log_term > 0:
        # The follower named the term at its hint: entries of higher terms here cannot match.
        hint = find_conflict_by_term(state.log, hint, message.log_term).index
    if progress.rejected(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(state, message.sender)


def _resume(state: RaftState, progress: Progress) -> None:
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_up_to(progress.match_index)
    elif progress.match_index + 1 >= state.log.first_index:
        # The follower caught up by itself or by a snapshot, perhaps not the one under way.
        progress.become_probe()
        progress.become_replicate()


def _spread(state: RaftState, progress: Progress, peer_id: PeerId) -> None:
    is_own = peer_id == state.peer_id
    if advance_commit(state):
        release_early_reads(state)
        broadcast_append(state)
    elif not is_own and progress.can_raise_commit(state.log.commit_index):
        send_append(state, peer_id)
    if not is_own:
        # The window was freed, perhaps for more than one message.
        while send_pending_entries(state, peer_id):
            pass


def _finish_transfer(state: RaftState, progress: Progress, peer_id: PeerId) -> None:
    if peer_id == state.transferee and progress.match_index == state.log.last_index:
        send_timeout_now(state, peer_id)


def send_timeout_now(state: RaftState, to: PeerId) -> None:
    """Tell a follower that holds everything to campaign at once."""
    state.post(Message(MessageKind.TIMEOUT_NOW, to, state.peer_id, state.term))


def handle_heartbeat_answer(state: RaftState, message: Message) -> None:
    """Take a sign of life: send what is missing, and count it as confirmation of reads."""
    progress = state.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.is_recently_active = True
    progress.is_flow_paused = False
    lags = progress.match_index < state.log.last_index
    if lags or progress.state is ProgressState.PROBE:
        # A follower that is probed is asked even if it holds everything: only an answer to an
        # append ends the probing.
        send_append(state, message.sender)
    take_read_acknowledgement(state, message)


def handle_snapshot_report(state: RaftState, message: Message) -> None:
    """Take the driver's report on a snapshot's delivery; ``rejected`` means that it failed."""
    progress = state.tracker.progress.get(message.sender)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if message.rejected:
        progress.abandon_snapshot()
    else:
        progress.become_probe()
    # What follows waits for the snapshot's acknowledgement, or for a heartbeat's if it failed.
    progress.is_flow_paused = True


def handle_unreachable(state: RaftState, message: Message) -> None:
    """Take the driver's report that a message was probably lost: stop running ahead."""
    progress = state.tracker.progress.get(message.sender)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()
