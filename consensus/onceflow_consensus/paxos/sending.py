"""What a proposer sends to one acceptor: prepares, entries, decisions, snapshots.

Decides only what a single message holds and whether it may be sent at present; who is sent to, and
when, is decided by the callers.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.messages import EntryId, payload_bytes
from onceflow_consensus.raft.progress import ProgressState

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry
    from onceflow_consensus.raft.progress import Progress


def send_prepare(state: PaxosState, to: PeerId) -> None:
    """Ask for a promise, and for what the acceptor's log holds beyond the own one."""
    _post(state, to, PaxosKind.PREPARE, state.log.last_id)


def send_fetch(state: PaxosState) -> None:
    """Ask whose log is being adopted for what follows in it."""
    proposal = state.proposal
    _post(state, proposal.source, PaxosKind.FETCH, proposal.fetched)


def start_sync(state: PaxosState, to: PeerId) -> None:
    """Begin to send to an acceptor that promised, from where the logs are known to agree.

    They agree up to the end of its log if that is in the own log too, else at least up to what it
    knows to be decided.
    """
    promise = state.proposal.promises[to]
    agreed = promise.last.index if state.log.matches(promise.last) else promise.commit_index
    progress = state.tracker.progress[to]
    progress.acknowledged(agreed)
    progress.become_replicate()
    send_entries(state, to, PaxosKind.ACCEPT_SYNC)


def send_entries(state: PaxosState, to: PeerId, kind: PaxosKind = PaxosKind.ACCEPT) -> bool:
    """Send the next entries, or a snapshot in their place; return whether anything was sent."""
    progress = state.tracker.progress[to]
    if progress.is_paused or progress.inflights.is_full or to not in state.proposal.promises:
        return False
    previous = _previous(state, progress)
    if previous is None:
        return _send_snapshot(state, to, progress)
    entries = state.log.entries_from(progress.next_index, state.options.max_message_bytes)
    if not entries:
        return False
    _post(state, to, kind, previous, entries)
    progress.sent_commit_index = state.log.commit_index
    progress.sent_entries(len(entries), payload_bytes(entries))
    return True


def ask_position(state: PaxosState, to: PeerId) -> None:
    """Ask an acceptor whether it holds what was sent, by an ACCEPT without entries."""
    progress = state.tracker.progress[to]
    previous = _previous(state, progress)
    if previous is None:
        # That is compacted. If what was sent is lost, only a snapshot helps.
        _send_snapshot(state, to, progress)
        return
    _post(state, to, PaxosKind.ACCEPT, previous)


def tell_decided(state: PaxosState, to: PeerId) -> None:
    """Tell what is decided, as far as it was sent; is answered only if it did not arrive."""
    progress = state.tracker.progress[to]
    if to not in state.proposal.promises or progress.state is not ProgressState.REPLICATE:
        return
    previous = _previous(state, progress)
    if previous is not None:
        _post(state, to, PaxosKind.DECIDE, previous)
        progress.sent_commit_index = state.log.commit_index


def broadcast_entries(state: PaxosState) -> None:
    """Send what is new to every acceptor that may be sent to."""
    for peer_id in state.other_members:
        send_entries(state, peer_id)


def broadcast_decided(state: PaxosState) -> None:
    """Tell everybody what was decided, together with entries where there are any to send."""
    for peer_id in state.other_members:
        if not send_entries(state, peer_id):
            tell_decided(state, peer_id)


def _previous(state: PaxosState, progress: Progress) -> EntryId | None:
    index = progress.next_index - 1
    term = state.log.term_at(index)
    return None if term is None else EntryId(term, index)


def _post(
    state: PaxosState,
    to: PeerId,
    kind: PaxosKind,
    position: EntryId,
    entries: tuple[Entry, ...] = (),
) -> None:
    state.post(
        PaxosMessage(
            kind,
            state.peer_id,
            to,
            state.promised.number,
            log_term=position.term,
            index=position.index,
            commit_index=state.log.commit_index,
            entries=entries,
        )
    )


def _send_snapshot(state: PaxosState, to: PeerId, progress: Progress) -> bool:
    newest = state.log.latest_snapshot()
    # A snapshot is large: it is not sent to a replica that may be gone.
    if newest is None or not state.elections.is_heard(to):
        return False
    progress.become_snapshot(newest.index)
    state.post(
        PaxosMessage(PaxosKind.SNAP, state.peer_id, to, state.promised.number, raft_snapshot=newest)
    )
    return True
