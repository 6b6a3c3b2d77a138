"""The door to what is tested: how a replica of each engine starts, and what its insides must obey.

Everything else in the simulator speaks to replicas only as a server does. What an engine keeps
inside, and what its messages promise, is known here alone. Both engines keep a log whose entries
name the term (or ballot) in which they were proposed, so that most properties are the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.paxos.state import PaxosState
from onceflow_consensus.raft.messages import Message, MessageKind
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.raft.state import RaftState
from onceflow_consensus.testing.simulator.leadership import (
    check_candidate,
    check_counted,
    check_own_vote,
    check_votes,
)
from onceflow_consensus.testing.simulator.ledger import Ledger, Property, Violation
from onceflow_consensus.tracing.paxos import TracedPaxos
from onceflow_consensus.tracing.raft import TracedRaft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.log import RaftLog
    from onceflow_consensus.raft.messages import LogIndex, Term
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.replica import PeerMessage, Replica
    from onceflow_consensus.testing.simulator.disks import SimulatedDisk
    from onceflow_consensus.testing.simulator.plan import Setup
    from onceflow_consensus.tracing.lines import Trace

_MAX_INFLIGHT_BYTES = 10**7

_CANDIDATES = frozenset({Role.PRE_CANDIDATE, Role.CANDIDATE})

_EngineState = RaftState | PaxosState


def _holds(log: RaftLog | StableLog, index: LogIndex, term: Term) -> bool:
    """Whether a log holds an entry, or a snapshot that stands for it."""
    return index < log.first_index or log.term_at(index) == term


def _rank(log: StableLog) -> tuple[Term, LogIndex]:
    """Return what logs are compared by when a leader is elected, or a log is adopted."""
    return log.term_at(log.last_index) or 0, log.last_index


def _options(peer_id: PeerId, setup: Setup) -> RaftOptions:
    return RaftOptions(
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


class EngineRules:
    """What any engine must obey, in terms of logs, terms and quorums.

    ``disks`` are those of all replicas, the lost ones as they were when they were lost: what they
    had made durable had been durable. ``trace`` is where replicas tell what they go through.
    """

    def __init__(
        self,
        ledger: Ledger,
        disks: Mapping[PeerId, SimulatedDisk],
        trace: Trace | None = None,
    ) -> None:
        self.ledger = ledger
        self.trace = trace
        self._disks = disks
        self._states: dict[PeerId, _EngineState] = {}
        self._seen_terms: dict[PeerId, Term] = {}
        self._promised_terms: dict[PeerId, Term] = {}
        self._seen_commits: dict[PeerId, LogIndex] = {}
        self._led_terms: dict[PeerId, Term] = {}
        self._acknowledged: dict[PeerId, tuple[Term, LogIndex]] = {}

    def start(
        self, peer_id: PeerId, setup: Setup, stable: StableLog, applied_index: LogIndex
    ) -> Replica:
        """Start a replica from what its disk holds."""
        node, state = self.started(_options(peer_id, setup), stable, applied_index)
        self._states[peer_id] = state
        term, promised = self.term_of(state), self._promised_terms.get(peer_id, 0)
        if term < promised:
            raise Violation(
                Property.KEPT_PROMISE,
                f"{peer_id} starts again in term {term} and had promised in {promised}",
            )
        self._seen_terms[peer_id] = term
        self._seen_commits[peer_id] = applied_index
        self._check_kept(state)
        return node

    def started(
        self, options: RaftOptions, stable: StableLog, applied_index: LogIndex
    ) -> tuple[Replica, _EngineState]:
        """Start the engine; return its door and its state."""
        raise NotImplementedError

    def term_of(self, state: _EngineState) -> Term:
        """Return the term, or the number of the ballot, that a replica is in."""
        raise NotImplementedError

    def leads(self, state: _EngineState) -> bool:
        """Whether a replica leads its term."""
        raise NotImplementedError

    def forget_leader(self, peer_id: PeerId) -> None:
        """Make a replica forget who leads, if the engine can."""

    def adopted(self) -> set[PeerId]:
        """Return the replicas whose logs others are adopting, if the engine does such a thing."""
        return set()

    def promise(self, message: PeerMessage, disk: SimulatedDisk) -> None:
        """Check a message that leaves: what it promises, if anything, has to be durable.

        Raises:
            Violation: it is not durable, or the promise contradicts an earlier one.
        """
        raise NotImplementedError

    def is_leading(self, peer_id: PeerId) -> bool:
        """Whether a replica believes that it leads."""
        return self.leads(self._states[peer_id])

    def term_before(self, peer_id: PeerId, index: LogIndex) -> Term | None:
        """Return the term of the entry below ``index``, None if it is not known any more."""
        return self._states[peer_id].log.term_at(index - 1)

    def observe(self, peer_id: PeerId) -> None:
        """Check a replica after an event: what it leads, and what it holds committed.

        Raises:
            Violation: a property does not hold.
        """
        state = self._states[peer_id]
        term = self.term_of(state)
        if term < self._seen_terms[peer_id]:
            raise Violation(Property.ONE_VOTE, f"the term of {peer_id} fell to {term}")
        self._seen_terms[peer_id] = term
        self._check_kept(state)
        if self._led_terms.get(peer_id) != term and self.leads(state):
            self._led_terms[peer_id] = term
            self._check_elected(state)
        commit_index = state.log.commit_index
        seen = self._seen_commits[peer_id]
        if commit_index != seen:
            if commit_index < seen:
                raise Violation(
                    Property.COMMITTED_FOR_EVER,
                    f"{peer_id} held {seen} committed and holds {commit_index}",
                )
            low = max(seen, self.ledger.first_index, state.log.first_index - 1) + 1
            if low <= commit_index:
                self._observe_commits(state, low, commit_index)
            self._seen_commits[peer_id] = commit_index
            if self.leads(state):
                self._check_counted(state)

    def _check_kept(self, state: _EngineState) -> None:
        """Check that what was acknowledged in the present term is still there."""
        term, index = self._acknowledged.get(state.peer_id, (0, 0))
        if index > state.log.last_index and term == self.term_of(state):
            raise Violation(
                Property.KEPT_PROMISE,
                f"{state.peer_id} acknowledged {index} in term {term}, and its log ends at "
                f"{state.log.last_index}",
            )

    def _check_elected(self, state: _EngineState) -> None:
        peer_id, term = state.peer_id, self.term_of(state)
        self.ledger.elected(peer_id, term, partial(_holds, state.log))
        supporters = self.ledger.supporters(peer_id, term)
        check_votes(peer_id, term, state.tracker.configuration.voters, supporters)
        check_own_vote(peer_id, term, self._disks[peer_id])
        self._check_counted(state)

    def _check_counted(self, state: _EngineState) -> None:
        counted = state.tracker.progress.keys() & self._disks.keys()
        check_counted(state, self.term_of(state), self._disks, counted - self.uncounted(state))

    def uncounted(self, state: _EngineState) -> set[PeerId]:
        """Return of whom a leader may take for granted what is not durable."""
        del state
        return set()

    def _observe_commits(self, state: _EngineState, low: LogIndex, high: LogIndex) -> None:
        for entry in state.log.slice(low, high + 1, 2**62):
            if self.ledger.commits(state.peer_id, self.term_of(state), entry):
                self._check_durable(state, entry.index, entry.term)

    def _check_durable(self, state: _EngineState, index: LogIndex, term: Term) -> None:
        holders = {
            peer_id: index for peer_id, disk in self._disks.items() if _holds(disk.log, index, term)
        }
        configuration = state.tracker.configuration
        if configuration.voters.committed_index(holders) < index:
            raise Violation(
                Property.DURABLE_QUORUM,
                f"{state.peer_id} holds {index} of term {term} committed among "
                f"{configuration.voters}, it is durable at {sorted(holders)}",
            )
        for peer_id in configuration.voters.peer_ids - holders.keys():
            # A replica with these members could campaign after a crash, with what its disk holds.
            log = self._disks[peer_id].log
            if log.newest_snapshot.configuration == configuration:
                self._check_cannot_lead(peer_id, configuration, index)

    def _check_cannot_lead(
        self, peer_id: PeerId, configuration: Configuration, index: LogIndex
    ) -> None:
        """Check that a replica that lacks a committed entry would not be elected."""
        ranks = {
            voter: _rank(self._disks[voter].log)
            for voter in configuration.voters.peer_ids
            if voter in self._states
        }
        supporters = {voter: index for voter, rank in ranks.items() if rank <= ranks[peer_id]}
        if configuration.voters.committed_index(supporters) >= index:
            raise Violation(
                Property.SAFE_COMMIT,
                f"{index} is committed, and {peer_id}, which lacks it, could still lead with "
                f"{sorted(supporters)}",
            )

    def check_vote(self, message: PeerMessage, disk: SimulatedDisk) -> None:
        """Check that a vote is durable and the only one of its term."""
        sender, to, term = message.sender, message.to, message.term
        self._promised_terms[sender] = max(term, self._promised_terms.get(sender, 0))
        self.ledger.voted(sender, term, to)
        durable = disk.log.hard_state
        if (durable.term, durable.vote) != (term, to) and durable.term <= term:
            raise Violation(
                Property.KEPT_PROMISE,
                f"{sender} votes for {to} in term {term}, its disk says {durable}",
            )

    def check_acknowledgement(self, message: PeerMessage, disk: SimulatedDisk) -> None:
        """Check that acknowledged entries are durable, unless their term is over."""
        last_index = disk.log.last_index
        if disk.log.hard_state.term == message.term and last_index < message.index:
            raise Violation(
                Property.KEPT_PROMISE,
                f"{message.sender} acknowledges {message.index}, its disk ends at {last_index}",
            )
        before = self._acknowledged.get(message.sender, (0, 0))
        self._acknowledged[message.sender] = max(before, (message.term, message.index))


class RaftRules(EngineRules):
    """How Raft is started and judged."""

    def started(
        self, options: RaftOptions, stable: StableLog, applied_index: LogIndex
    ) -> tuple[Replica, _EngineState]:
        """See ``EngineRules``."""
        if self.trace is None:
            node = RaftNode(options, stable, applied_index=applied_index)
        else:
            node = TracedRaft(options, stable, self.trace, applied_index=applied_index)
        self._nodes[options.peer_id] = node
        return node, node.state

    def __init__(
        self,
        ledger: Ledger,
        disks: Mapping[PeerId, SimulatedDisk],
        trace: Trace | None = None,
    ) -> None:
        super().__init__(ledger, disks, trace)
        self._nodes: dict[PeerId, RaftNode] = {}

    def term_of(self, state: _EngineState) -> Term:
        """See ``EngineRules``."""
        return state.term if isinstance(state, RaftState) else 0

    def leads(self, state: _EngineState) -> bool:
        """See ``EngineRules``."""
        return isinstance(state, RaftState) and state.role is Role.LEADER

    def observe(self, peer_id: PeerId) -> None:
        """See ``EngineRules``."""
        super().observe(peer_id)
        state = self._nodes[peer_id].state
        if state.role in _CANDIDATES:
            check_candidate(state)

    def uncounted(self, state: _EngineState) -> set[PeerId]:
        """See ``EngineRules``; only entries of its own term decide, and those it writes first."""
        return {state.peer_id}

    def forget_leader(self, peer_id: PeerId) -> None:
        """See ``EngineRules``."""
        self._nodes[peer_id].forget_leader()

    def promise(self, message: PeerMessage, disk: SimulatedDisk) -> None:
        """See ``EngineRules``."""
        if not isinstance(message, Message) or message.rejected:
            return
        if message.kind is MessageKind.VOTE_RESP:
            self.check_vote(message, disk)
        elif message.kind is MessageKind.APP_RESP:
            self.check_acknowledgement(message, disk)


class PaxosRules(EngineRules):
    """How Multi-Paxos is started and judged: a ballot's number is its term."""

    def started(
        self, options: RaftOptions, stable: StableLog, applied_index: LogIndex
    ) -> tuple[Replica, _EngineState]:
        """See ``EngineRules``."""
        if self.trace is None:
            node = PaxosNode(options, stable, applied_index=applied_index)
        else:
            node = TracedPaxos(options, stable, self.trace, applied_index=applied_index)
        return node, node.state

    def term_of(self, state: _EngineState) -> Term:
        """See ``EngineRules``."""
        return state.promised.number if isinstance(state, PaxosState) else 0

    def leads(self, state: _EngineState) -> bool:
        """See ``EngineRules``."""
        return isinstance(state, PaxosState) and state.phase is Phase.ACCEPT

    def adopted(self) -> set[PeerId]:
        """See ``EngineRules``."""
        return {
            state.proposal.source
            for state in self._states.values()
            if isinstance(state, PaxosState) and state.phase is Phase.PREPARE
        }

    def promise(self, message: PeerMessage, disk: SimulatedDisk) -> None:
        """See ``EngineRules``."""
        if not isinstance(message, PaxosMessage) or message.rejected:
            return
        if message.kind is PaxosKind.PROMISE:
            self.check_vote(message, disk)
        elif message.kind is PaxosKind.ACCEPTED:
            self.check_acknowledgement(message, disk)


RULES: dict[str, type[EngineRules]] = {"raft": RaftRules, "paxos": PaxosRules}
"""The engines by their names."""
