"""Handing the lead to a chosen acceptor: it raises its ballot above the present one.

The proposer takes no proposals meanwhile and brings the acceptor up to date first, so that it has
nothing to fetch. If that does not succeed within an election timeout, it goes on as before.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.paxos.proposer import take_over
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.paxos.sending import send_entries
from onceflow_consensus.paxos.synchronising import hand_over_if_due
from onceflow_consensus.raft.messages import NO_PEER

if TYPE_CHECKING:
    from onceflow_consensus.paxos.messages import PaxosMessage
    from onceflow_consensus.paxos.state import PaxosState


def handle_transfer(state: PaxosState, message: PaxosMessage) -> None:
    """Begin to hand over to the message's sender, or pass the wish on to whoever leads.

    Without effect for who is no voter, and for one already under way. Naming the proposer itself
    ends what is under way.
    """
    transferee = message.sender
    if state.phase is not Phase.ACCEPT:
        if state.followed != NO_PEER:
            state.post(replace(message, to=state.followed))
        return
    if transferee not in state.tracker.voters or transferee == state.transferee:
        return
    state.transferee = NO_PEER
    if transferee != state.peer_id:
        state.transferee = transferee
        state.transfer_ticks = 0
        send_entries(state, transferee)
        hand_over_if_due(state)


def handle_take_over(state: PaxosState, message: PaxosMessage) -> None:
    """Take a higher ballot at once: the owner of the promised one asks for it."""
    del message
    take_over(state)
