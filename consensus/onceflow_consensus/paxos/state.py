"""The whole state of one replica, and the only ways in which its phase and its promise change.

The modules beside this one decide *when* something happens: ``proposer``, ``acceptor``,
``learner``, and what they need. What leaves the replica goes through ``post``, which alone decides
whether a message must wait until everything it rests on is durable.

What is durable is the promised ballot (term and vote of the hard state), the log, and how far it is
decided. The accepted ballot, which Sequence Paxos stores as well, is the term of the log's last
entry: a proposer opens its ballot with an entry of its own, so that whoever accepted anything in
a ballot either holds an entry of it or only a part of what is older, which counts as the older.
Must never import anything that does I/O, nor any module that decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.paxos.elections import BallotElection
from onceflow_consensus.paxos.messages import (
    AFTER_PERSIST_KINDS,
    ANSWERS,
    OF_A_BALLOT,
    Ballot,
    PaxosMessage,
)
from onceflow_consensus.paxos.reads import ReadRounds
from onceflow_consensus.paxos.roles import Cause, Phase, next_phase
from onceflow_consensus.quorum.majority import VoteResult
from onceflow_consensus.raft.applying import ApplyCursor
from onceflow_consensus.raft.log import RaftLog
from onceflow_consensus.raft.messages import (
    NO_PEER,
    EntryId,
    EntryKind,
    HardState,
)
from onceflow_consensus.raft.tracker import Tracker

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.reads import ReadState
    from onceflow_consensus.raft.stable import StableLog


@dataclass(frozen=True, slots=True)
class Promise:
    """An acceptor's promise: where its log ends, and how far it knows that it is decided."""

    last: EntryId
    commit_index: LogIndex


class Proposal:
    """What a proposer knows of its present ballot; empty unless it proposes.

    promises: who promised, this replica once its own promise is durable.
    refusals: who promised a higher ballot instead.
    held: the promise with the highest log so far; what it brought is taken when a quorum is there.
    source, fetched: whose log is being adopted, and up to where that has come.
    asked: up to where it was when more was last asked for.
    stalled_ticks: how long nothing came of it.
    """

    __slots__ = ("asked", "fetched", "held", "promises", "refusals", "source", "stalled_ticks")

    def __init__(self) -> None:
        self.promises: dict[PeerId, Promise] = {}
        self.refusals: set[PeerId] = set()
        self.held: PaxosMessage | None = None
        self.source: PeerId = NO_PEER
        self.fetched = EntryId()
        self.asked: EntryId | None = None
        self.stalled_ticks = 0

    def best(self) -> PeerId:
        """Return who promised with the highest log."""
        return max(self.promises, key=lambda peer: _rank(self.promises[peer].last))


def _rank(last: EntryId) -> tuple[int, int]:
    return last.term, last.index


def is_above(one: EntryId, other: EntryId) -> bool:
    """Whether a log that ends at ``one`` may hold chosen entries that one up to ``other`` lacks."""
    return _rank(one) > _rank(other)


class PaxosState:
    """One replica.

    promised: the highest ballot promised. Invariant: never falls, one owner per number; durable
        before anything is answered in it.
    phase, followed: what it does as a proposer; whose ballot it follows, if that was heard lately.
    elections: what is known of everybody's ballots.
    log, cursor: its log, and how far the state machine is.
    tracker: the configuration in force; what the proposer knows of each acceptor's log.
    configuration_index: the entry or snapshot that brought the configuration in force.
    proposal: see ``Proposal``.
    seal_index: the last membership change in the proposer's log. Nothing is proposed after it
        until it is applied: entries up to it belong to the old configuration, later ones to the
        next.
    transferee, transfer_ticks: whom the ballot is to be handed to, and since when.
    uncommitted_bytes: data of proposals not yet applied; kept by the proposer.
    reads, early_reads: reads that wait for confirmation; for the first decision of the ballot.
    state_due_at: the tick before which no further snapshot is sent to a proposer that fetches.
    silence_ticks: since the owner of the promised ballot was heard.
    contested_ticks: for how long this replica might have taken over.
    election_timeout_ticks: the timeout of the present period; None until a tick brings one.
    """

    def __init__(self, options: RaftOptions, stable: StableLog, applied_index: LogIndex) -> None:
        self.options = options
        self.peer_id = options.peer_id
        self.phase = Phase.FOLLOW
        self.followed: PeerId = NO_PEER
        self.log = RaftLog(stable)
        self.cursor = ApplyCursor(self.log, options.max_applying_bytes)
        self.tracker = Tracker(options.max_inflight_messages, options.max_inflight_bytes)
        self.messages: list[PaxosMessage] = []
        self.messages_after_persist: list[PaxosMessage] = []
        self.read_states: list[ReadState] = []
        stored, configuration = stable.initial_state()
        self.tracker.restore(configuration, self.log.last_index)
        self.configuration_index: LogIndex = max(applied_index, self.log.commit_index)
        self.promised = Ballot(stored.term, stored.vote)
        # What a state machine applied was decided, even if the index was not written any more.
        decided_index = max(stored.commit_index, applied_index, self.log.commit_index)
        invariant(
            decided_index <= self.log.last_index,
            "INV-PAXOS-2: what is known to be decided lies within the stored log",
            decided_index=decided_index,
            last_index=self.log.last_index,
        )
        self.log.commit_to(decided_index)
        self.cursor.applied_to(max(applied_index, self.cursor.applied_index), 0)
        self.elections = BallotElection(self.peer_id, self.promised, options.election_ticks)
        self.silence_ticks = 0
        self.state_due_at = 0
        self._begin_period()

    @property
    def hard_state(self) -> HardState:
        """Return what must be durable at this moment."""
        return HardState(self.promised.number, self.promised.owner, self.log.commit_index)

    @property
    def is_voter(self) -> bool:
        """Whether this replica's promises count, as far as it knows."""
        return self.peer_id in self.tracker.voters

    @property
    def other_members(self) -> list[PeerId]:
        """Return every other member, learners included."""
        return [peer_id for peer_id in self.tracker.progress if peer_id != self.peer_id]

    def standing(self) -> VoteResult:
        """Return whether a quorum promised the own ballot, or cannot any more."""
        proposal = self.proposal
        votes = dict.fromkeys(proposal.refusals, False) | dict.fromkeys(proposal.promises, True)
        result = self.tracker.configuration.voters.vote_result(votes)
        # The own promise has to be among them: one that is not durable could be made again after
        # a restart, for the same number, with another log.
        if result is VoteResult.WON and self.peer_id not in proposal.promises:
            return VoteResult.PENDING
        return result

    def post(self, message: PaxosMessage) -> None:
        """Queue a message; promises wait until all that this replica holds now is durable.

        Raises:
            InvariantViolation: a bug: it speaks for a ballot that is not promised, or promises to
                itself what is not durable.
        """
        kind = message.kind
        is_right = (
            (message.term, message.sender) == (self.promised.number, self.promised.owner)
            if kind in OF_A_BALLOT
            else kind not in ANSWERS or message.term == self.promised.number
        )
        invariant(
            is_right,
            "INV-PAXOS-3: an owner speaks, and an acceptor answers, in the promised ballot only",
            kind=kind.value,
            term=message.term,
            promised=self.promised,
        )
        if kind in AFTER_PERSIST_KINDS:
            self.messages_after_persist.append(message)
            return
        invariant(
            message.to != self.peer_id,
            "INV-PAXOS-4: a replica promises to itself only what is durable",
            kind=kind.value,
        )
        self.messages.append(message)

    def promise(self, cause: Cause, ballot: Ballot) -> None:
        """Promise to accept nothing below ``ballot``, and enter the phase that follows."""
        invariant(
            ballot.number > self.promised.number,
            "INV-PAXOS-5: a promise is never taken back, and given to one owner per number",
            promised=self.promised,
            ballot=ballot,
        )
        self.phase = next_phase(self.phase, cause)
        self.promised = ballot
        self.elections.observe(ballot)
        self.followed = NO_PEER
        self.silence_ticks = 0
        self._begin_period()

    def give_up(self, cause: Cause) -> None:
        """Stop proposing; what was promised and accepted stays."""
        self.phase = next_phase(self.phase, cause)
        self.followed = NO_PEER
        self.elections.is_content = False
        self._begin_period()

    def open_ballot(self) -> None:
        """Enter the second phase."""
        self.phase = next_phase(self.phase, Cause.PREPARED)
        self.followed = self.peer_id

    def _begin_period(self) -> None:
        self.proposal = Proposal()
        # Nothing counts as accepted before it is said to be, by this replica as well: its own log
        # may be cut and grow again before the ballot is opened.
        self.tracker.reset(self.peer_id, 0)
        self.election_timeout_ticks: int | None = None
        self.contested_ticks = 0
        self.transferee: PeerId = NO_PEER
        self.transfer_ticks = 0
        self.seal_index: LogIndex = 0
        self.uncommitted_bytes = 0
        self.reads = ReadRounds()
        self.early_reads: list[PaxosMessage] = []

    def last_seal(self, low: LogIndex, high: LogIndex) -> LogIndex:
        """Return the last membership change in ``(low, high]`` of the log, 0 if there is none."""
        found = 0
        low = max(low, self.log.first_index - 1)
        while low < high:
            page = self.log.slice(low + 1, high + 1, self.options.max_applying_bytes)
            for entry in page:
                if entry.kind is not EntryKind.NORMAL:
                    found = entry.index
            low += len(page)
        return found

    @property
    def has_unapplied_change(self) -> bool:
        """Whether a decided membership change is left to apply.

        It may have removed this replica, or may ask for another quorum: nobody proposes before.
        """
        return bool(self.last_seal(self.cursor.applied_index, self.log.commit_index))
