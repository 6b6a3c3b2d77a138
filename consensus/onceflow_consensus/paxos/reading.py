"""Linearizable reads without a log entry.

A read is answered with an index; whoever reads waits until it is applied. Three conditions make the
answer linearizable: the proposer decided an entry of its own ballot, so that it knows all that was
decided before; a quorum confirmed after the read arrived that it had promised no higher ballot, so
that nobody else can have decided anything; and the index is what was decided when the read arrived.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.errors import DropReason, ReadDropped
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.reads import WaitingRead
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.raft.messages import NO_PEER
from onceflow_consensus.raft.reads import ReadState

if TYPE_CHECKING:
    from onceflow_consensus.paxos.state import PaxosState

_NUMBER_BYTES = 8


def handle_read(state: PaxosState, message: PaxosMessage) -> None:
    """Let a read wait for its confirmation, or pass it on to whoever leads.

    Raises:
        ReadDropped: nobody leads as far as is known, or too many reads wait.
    """
    if state.phase is not Phase.ACCEPT:
        if state.followed == NO_PEER:
            raise ReadDropped(DropReason.NO_LEADER)
        reader = message.sender or state.peer_id
        state.post(replace(message, to=state.followed, sender=reader))
        return
    if len(state.early_reads) + len(state.reads) >= state.options.max_pending_reads:
        raise ReadDropped(DropReason.READ_BOUND)
    state.early_reads.append(message)
    release_early_reads(state)


def release_early_reads(state: PaxosState) -> None:
    """Ask for confirmation of the reads that came, once an entry of the own ballot is decided."""
    index = state.log.commit_index
    if not state.early_reads or state.log.term_at(index) != state.promised.number:
        return
    for message in state.early_reads:
        state.reads.add(WaitingRead(message.sender, message.context, index))
    state.early_reads = []
    state.reads.confirm(state.peer_id, state.reads.youngest)
    ask_confirmation(state)
    _answer_confirmed(state)


def ask_confirmation(state: PaxosState) -> None:
    """Ask every other voter whether it still follows this ballot."""
    number = state.reads.youngest.to_bytes(_NUMBER_BYTES, "big")
    for peer_id in sorted(state.tracker.voters - {state.peer_id}):
        state.post(
            PaxosMessage(
                PaxosKind.CONFIRM,
                state.peer_id,
                peer_id,
                state.promised.number,
                context=number,
            )
        )


def handle_question(state: PaxosState, message: PaxosMessage) -> None:
    """Confirm: this ballot is the highest that was promised here."""
    state.followed = message.sender
    state.post(
        PaxosMessage(
            PaxosKind.CONFIRMED,
            state.peer_id,
            message.sender,
            message.term,
            context=message.context,
        )
    )


def handle_confirmation(state: PaxosState, message: PaxosMessage) -> None:
    """Count a confirmation, and answer the reads that have a quorum of them."""
    state.reads.confirm(message.sender, int.from_bytes(message.context, "big"))
    _answer_confirmed(state)


def _answer_confirmed(state: PaxosState) -> None:
    for read in state.reads.take_confirmed(state.tracker.configuration.voters):
        if read.reader in (NO_PEER, state.peer_id):
            state.read_states.append(ReadState(read.index, read.request_context))
            continue
        state.post(
            PaxosMessage(
                PaxosKind.READ_INDEX_RESP,
                state.peer_id,
                read.reader,
                state.promised.number,
                index=read.index,
                context=read.request_context,
            )
        )


def take_answer(state: PaxosState, message: PaxosMessage) -> None:
    """Keep the answer for the reader."""
    state.read_states.append(ReadState(message.index, message.context))
