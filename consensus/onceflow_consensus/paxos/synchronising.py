"""The proposer's second phase: keeping acceptors' logs up to its own, and counting what is chosen.

Only entries of the own ballot are decided by counting; older ones are decided with them.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.reading import ask_confirmation, release_early_reads
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.paxos.sending import (
    ask_position,
    broadcast_decided,
    send_entries,
    send_fetch,
    send_prepare,
    tell_decided,
)
from onceflow_consensus.raft.matching import find_conflict_by_term
from onceflow_consensus.raft.messages import NO_PEER, EntryId
from onceflow_consensus.raft.progress import ProgressState

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.progress import Progress


def count_accepted(state: PaxosState) -> bool:
    """Decide what a quorum accepted, if it ends in the own ballot; return whether that is more."""
    index = state.tracker.committed_index()
    is_own = state.log.matches(EntryId(state.promised.number, index))
    return index > state.log.commit_index and is_own and state.log.commit_to(index)


def handle_accepted(state: PaxosState, message: PaxosMessage) -> None:
    """Take an acceptor's answer: raise or lower what is known of its log, and send on."""
    progress = state.tracker.progress.get(message.sender)
    if progress is None or state.phase is not Phase.ACCEPT:
        return
    if message.rejected:
        _step_back(state, progress, message)
        return
    has_risen = progress.acknowledged(message.index)
    is_probed = progress.state is ProgressState.PROBE
    if not has_risen and not (is_probed and message.index == progress.match_index):
        return
    _resume(state, progress)
    if count_accepted(state):
        release_early_reads(state)
        broadcast_decided(state)
    elif message.sender != state.peer_id and progress.can_raise_commit(state.log.commit_index):
        tell_decided(state, message.sender)
    if message.sender != state.peer_id:
        # The window was freed, perhaps for more than one message.
        while send_entries(state, message.sender):
            pass
        hand_over_if_due(state)


def _step_back(state: PaxosState, progress: Progress, message: PaxosMessage) -> None:
    hint = message.reject_hint
    if message.log_term > 0:
        # It named the ballot of its entry there: entries of higher ballots here cannot match.
        hint = find_conflict_by_term(state.log, hint, message.log_term).index
    if not progress.rejected(message.index, hint):
        return
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()
    if not send_entries(state, message.sender):
        ask_position(state, message.sender)


def _resume(state: PaxosState, progress: Progress) -> None:
    if progress.state is ProgressState.REPLICATE:
        progress.inflights.free_up_to(progress.match_index)
    elif progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.match_index + 1 >= state.log.first_index:
        # It caught up, by this snapshot or by another.
        progress.become_probe()
        progress.become_replicate()


def hand_over_if_due(state: PaxosState) -> None:
    """Tell the one whom the ballot is handed to to take over, once it holds everything."""
    progress = state.tracker.progress.get(state.transferee)
    if progress is not None and progress.match_index == state.log.last_index:
        state.post(
            PaxosMessage(
                PaxosKind.TAKE_OVER, state.peer_id, state.transferee, state.promised.number
            )
        )


def beat(state: PaxosState) -> None:
    """Repeat what may have been lost: prepares, entries, decisions, questions about reads."""
    proposal = state.proposal
    proposal.asked = None
    for peer_id in state.other_members:
        if peer_id not in proposal.promises:
            send_prepare(state, peer_id)
        elif state.phase is Phase.ACCEPT:
            _repeat(state, peer_id)
    if state.phase is Phase.PREPARE and proposal.source != NO_PEER:
        send_fetch(state)
    if state.reads:
        ask_confirmation(state)


def _repeat(state: PaxosState, peer_id: PeerId) -> None:
    progress = state.tracker.progress[peer_id]
    if progress.state is ProgressState.SNAPSHOT:
        return
    lags = progress.match_index < state.log.last_index
    if not lags and progress.state is ProgressState.REPLICATE:
        tell_decided(state, peer_id)
        return
    progress.is_flow_paused = progress.inflights.is_full
    if not send_entries(state, peer_id):
        # Nothing more may be sent, or all was: if it was lost, the answer will say so.
        ask_position(state, peer_id)


def handle_snapshot_report(state: PaxosState, peer_id: PeerId, *, is_delivered: bool) -> None:
    """Take the driver's report on a snapshot: go on with what follows it, or from what matches."""
    progress = state.tracker.progress.get(peer_id)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if is_delivered:
        progress.become_probe()
    else:
        progress.abandon_snapshot()
    # Until the next beat, or until the snapshot's own answer.
    progress.is_flow_paused = True


def handle_unreachable(state: PaxosState, peer_id: PeerId) -> None:
    """Take the driver's report that a message was probably lost: stop running ahead."""
    progress = state.tracker.progress.get(peer_id)
    is_running = progress is not None and progress.state is ProgressState.REPLICATE
    if progress is not None and is_running and state.phase is Phase.ACCEPT:
        progress.become_probe()
