"""The door to what is tested: how a replica of each engine starts, and what its insides must obey.

Everything else in the simulator speaks to replicas only as a server does. What an engine keeps
inside, and what its messages promise, is known here alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import Message, MessageKind
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.testing.simulator.ledger import Ledger, Property, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.log import RaftLog
    from onceflow_consensus.raft.messages import LogIndex, Term
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.testing.simulator.disks import SimulatedDisk
    from onceflow_consensus.testing.simulator.plan import Setup

EngineMessage = Message
EngineNode = RaftNode

_MAX_INFLIGHT_BYTES = 10**7


def _holds(log: RaftLog | StableLog, index: LogIndex, term: Term) -> bool:
    """Whether a log holds an entry, or a snapshot that stands for it."""
    return index < log.first_index or log.term_at(index) == term


class RaftRules:
    """How Raft is started and judged.

    ``disks`` are those of all replicas, the lost ones as they were when they were lost: what they
    had made durable had been durable.
    """

    def __init__(self, ledger: Ledger, disks: Mapping[PeerId, SimulatedDisk]) -> None:
        self._ledger = ledger
        self._disks = disks
        self._seen_terms: dict[PeerId, Term] = {}
        self._seen_commits: dict[PeerId, LogIndex] = {}
        self._led_terms: dict[PeerId, Term] = {}

    def start(
        self, peer_id: PeerId, setup: Setup, stable: StableLog, applied_index: LogIndex
    ) -> EngineNode:
        """Start a replica from what its disk holds."""
        options = RaftOptions(
            peer_id,
            election_ticks=setup.election_ticks,
            heartbeat_ticks=1,
            storage=setup.storage,
            pre_vote=setup.pre_vote,
            check_quorum=setup.check_quorum,
            max_message_bytes=setup.max_message_bytes,
            max_inflight_messages=setup.max_inflight_messages,
            max_inflight_bytes=_MAX_INFLIGHT_BYTES,
            max_applying_bytes=setup.max_applying_bytes,
        )
        node = RaftNode(options, stable, applied_index=applied_index)
        self._seen_terms[peer_id] = node.state.term
        self._seen_commits[peer_id] = applied_index
        return node

    def is_leading(self, node: EngineNode) -> bool:
        """Whether a replica believes that it leads."""
        return node.state.role is Role.LEADER

    def observe(self, peer_id: PeerId, node: EngineNode) -> None:
        """Check a replica after an event: what it leads, and what it holds committed.

        Raises:
            Violation: a property does not hold.
        """
        state = node.state
        term = state.term
        if term < self._seen_terms[peer_id]:
            raise Violation(Property.ONE_VOTE, f"the term of {peer_id} fell to {term}")
        self._seen_terms[peer_id] = term
        if state.role is Role.LEADER and self._led_terms.get(peer_id) != term:
            self._led_terms[peer_id] = term
            self._ledger.elected(peer_id, term, partial(_holds, state.log))
        commit_index = state.log.commit_index
        seen = self._seen_commits[peer_id]
        if commit_index != seen:
            if commit_index < seen:
                raise Violation(
                    Property.COMMITTED_FOR_EVER,
                    f"{peer_id} held {seen} committed and holds {commit_index}",
                )
            low = max(seen, self._ledger.first_index) + 1
            self._observe_commits(peer_id, node, low, commit_index)
            self._seen_commits[peer_id] = commit_index

    def _observe_commits(
        self, peer_id: PeerId, node: EngineNode, low: LogIndex, high: LogIndex
    ) -> None:
        log = node.state.log
        low = max(low, log.first_index)
        if low > high:
            return
        for entry in log.slice(low, high + 1, 2**62):
            if self._ledger.commits(peer_id, node.state.term, entry):
                self._check_durable(node, entry.index, entry.term)

    def _check_durable(self, node: EngineNode, index: LogIndex, term: Term) -> None:
        holders: dict[PeerId, LogIndex] = {}
        for peer_id, disk in self._disks.items():
            if _holds(disk.log, index, term):
                holders[peer_id] = index
        voters = node.state.tracker.configuration.voters
        if voters.committed_index(holders) < index:
            raise Violation(
                Property.DURABLE_QUORUM,
                f"{node.state.peer_id} holds {index} of term {term} committed among {voters}, "
                f"it is durable at {sorted(holders)}",
            )

    def promise(self, message: EngineMessage, disk: SimulatedDisk) -> None:
        """Check a message that leaves because what it promises is durable.

        Raises:
            Violation: it is not durable, or the promise contradicts an earlier one.
        """
        if message.rejected:
            return
        durable = disk.log.hard_state
        sender, to, term = message.sender, message.to, message.term
        if message.kind is MessageKind.VOTE_RESP:
            self._ledger.voted(sender, term, to)
            if (durable.term, durable.vote) != (term, to) and durable.term <= term:
                raise Violation(
                    Property.KEPT_PROMISE,
                    f"{sender} votes for {to} in term {term}, its disk says {durable}",
                )
        elif message.kind is MessageKind.APP_RESP and durable.term == term:
            last_index = disk.log.last_index
            if last_index < message.index:
                raise Violation(
                    Property.KEPT_PROMISE,
                    f"{sender} acknowledges {message.index}, its disk ends at {last_index}",
                )

    def term_before(self, node: EngineNode, index: LogIndex) -> Term | None:
        """Return the term of the entry below ``index``, None if it is not known any more."""
        return node.state.log.term_at(index - 1)

    def carries_state(self, message: EngineMessage) -> bool:
        """Whether a message brings the state of a machine, of whose fate its sender must hear."""
        return message.kind is MessageKind.SNAP


EngineRules = RaftRules
"""What is asked of an engine."""

RULES = {"raft": RaftRules}
"""The engines by their names."""
