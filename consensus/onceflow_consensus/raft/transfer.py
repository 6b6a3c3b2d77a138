"""Handing leadership to a chosen follower (Raft thesis, section 3.10).

The leader takes no proposals meanwhile, brings the follower up to date and tells it to campaign.
If that does not succeed within an election timeout, the leader goes on as before.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.raft.messages import NO_PEER, Message
from onceflow_consensus.raft.replication import send_timeout_now
from onceflow_consensus.raft.sending import send_append

if TYPE_CHECKING:
    from onceflow_consensus.raft.state import RaftState


def transfer_as_leader(state: RaftState, message: Message) -> None:
    """Begin to hand over to the message's sender; another transfer under way is given up.

    Without effect for a stranger, a learner, the leader itself, and for one already under way.
    """
    transferee = message.sender
    progress = state.tracker.progress.get(transferee)
    if progress is None or transferee in state.tracker.configuration.learners:
        return
    if transferee == state.transferee:
        return
    state.transferee = NO_PEER
    if transferee == state.peer_id:
        return
    state.election_elapsed_ticks = 0
    state.transferee = transferee
    if progress.match_index == state.log.last_index:
        send_timeout_now(state, transferee)
    else:
        send_append(state, transferee)


def forward_transfer(state: RaftState, message: Message) -> None:
    """Pass the wish on to the leader, if one is known; the sender stays the chosen follower."""
    if state.raft_leader != NO_PEER:
        state.post(replace(message, to=state.raft_leader, term=state.term))
