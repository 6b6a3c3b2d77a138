"""What must hold of who leads, and of who wants to: its votes, and what it counts as held.

Said in terms of the disks of all replicas, and counted here: a bug in how an engine counts must not
hide itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import EntryKind
from onceflow_consensus.testing.simulator.ledger import Property, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from onceflow_consensus.paxos.state import PaxosState
    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Term
    from onceflow_consensus.raft.state import RaftState
    from onceflow_consensus.testing.simulator.disks import SimulatedDisk


def check_votes(
    peer_id: PeerId, term: Term, voters: JointVoters, supporters: AbstractSet[PeerId]
) -> None:
    """Check that who leads was given the votes of each half of the voters, its own included.

    Raises:
        Violation: it was not.
    """
    for half in (voters.incoming, voters.outgoing):
        if half and 2 * len(half & (supporters | {peer_id})) <= len(half):
            raise Violation(
                Property.ELECTED,
                f"{peer_id} leads term {term} of {voters} with the votes of {sorted(supporters)}",
            )


def check_own_vote(peer_id: PeerId, term: Term, disk: SimulatedDisk) -> None:
    """Check that who leads has its own vote on its disk, and cannot be elected so twice.

    Raises:
        Violation: it has not.
    """
    durable = disk.log.hard_state
    if durable.term < term or (durable.term == term and durable.vote != peer_id):
        raise Violation(Property.ELECTED, f"{peer_id} leads term {term}, its disk says {durable}")


def check_counted(
    state: RaftState | PaxosState,
    term: Term,
    disks: Mapping[PeerId, SimulatedDisk],
    counted: AbstractSet[PeerId],
) -> None:
    """Check that what a leader counts as held by others is durable there.

    Who has gone on to a later term since may have let go of it.

    Raises:
        Violation: it is not, or was never acknowledged in this term.
    """
    for peer_id in counted:
        index = state.tracker.progress[peer_id].match_index
        held_term = state.log.term_at(index)
        log = disks[peer_id].log
        durable_term = log.hard_state.term
        if not index or held_term is None or durable_term > term:
            continue
        is_held = index < log.first_index or log.term_at(index) == held_term
        if durable_term < term or not is_held:
            raise Violation(
                Property.COUNTED,
                f"{state.peer_id} counts {index} of term {held_term} as held by {peer_id}, whose "
                f"disk is in term {durable_term} and has term {log.term_at(index)} there",
            )


def check_candidate(state: RaftState) -> None:
    """Check that a candidate has applied every membership change that it knows to be committed.

    Raises:
        Violation: it has not.
    """
    low, high = state.cursor.applied_index + 1, state.log.commit_index
    if low <= high and any(
        entry.kind is not EntryKind.NORMAL for entry in state.log.slice(low, high + 1, 2**62)
    ):
        raise Violation(
            Property.CONFIGURATION,
            f"{state.peer_id} campaigns in term {state.term} and has a change of the members "
            f"between {low} and {high} left to apply",
        )
