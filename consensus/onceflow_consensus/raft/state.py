"""The whole state of one replica, and the only ways in which its role and term change.

The modules beside this one decide *when* something happens (election, replication, reading,
membership, ...); each takes this state as its first argument. What leaves the replica goes through
``post``, which alone decides whether a message must wait until everything it rests on is durable.
Must never import anything that does I/O, nor any module that decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.applying import ApplyCursor
from onceflow_consensus.raft.log import RaftLog
from onceflow_consensus.raft.messages import (
    AFTER_PERSIST_KINDS,
    EMPTY_HARD_STATE,
    NO_PEER,
    HardState,
    LogIndex,
    Message,
    MessageKind,
    Term,
)
from onceflow_consensus.raft.reads import ReadQueue, ReadState
from onceflow_consensus.raft.roles import Cause, Role, next_role
from onceflow_consensus.raft.tracker import Tracker

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog

_WITHOUT_TERM = frozenset({MessageKind.PROP, MessageKind.READ_INDEX})
"""Requests that are passed on to whoever leads, in whichever term."""

_FOR_ANOTHER_TERM = frozenset(
    {
        MessageKind.VOTE,
        MessageKind.VOTE_RESP,
        MessageKind.PRE_VOTE,
        MessageKind.PRE_VOTE_RESP,
    }
)
"""Messages about the term an election is held for, which a pre-vote has not entered yet."""


class RaftState:
    """One replica.

    term: the highest term seen. Invariant: never falls; durable before anything is promised in it.
    vote: whom this replica voted for in ``term``. Invariant: given once per term.
    role, raft_leader: its role, and who is believed to lead ``term``.
    log, cursor: its log, and how far the state machine is.
    tracker: the configuration in force, what is known of its members, votes of a campaign.
    configuration_index: the entry or snapshot that brought the configuration in force.
    messages: may leave at once.
    messages_after_persist: may leave only when the unstable state of this moment is durable.
    transferee: whom leadership is being handed to; set on a leader only.
    pending_conf_index: no configuration change lies above it in the log. A further one is only
        taken when everything up to it is applied, so that one change is under way at a time.
    uncommitted_bytes: data of proposals not yet applied; kept by the leader, reset with the term.
    reads: reads that wait for a quorum's confirmation.
    early_reads: reads that came before the first commit of the leader's term.
    read_states: reads of this replica that were confirmed.
    election_elapsed_ticks: on a leader, ticks since the last check of the quorum; else since
        the leader was heard or a vote given.
    heartbeat_elapsed_ticks: on a leader, ticks since the last heartbeat.
    election_timeout_ticks: the timeout of the present period; None until a tick brings one.
    """

    def __init__(self, options: RaftOptions, stable: StableLog, applied_index: LogIndex) -> None:
        self.options = options
        self.peer_id = options.peer_id
        self.role = Role.FOLLOWER
        self.raft_leader: PeerId = NO_PEER
        self.log = RaftLog(stable)
        self.cursor = ApplyCursor(self.log, options.max_applying_bytes)
        self.tracker = Tracker(options.max_inflight_messages, options.max_inflight_bytes)
        self.messages: list[Message] = []
        self.messages_after_persist: list[Message] = []
        self.read_states: list[ReadState] = []
        hard_state, configuration = stable.initial_state()
        self.tracker.restore(configuration, self.log.last_index)
        self.configuration_index: LogIndex = max(applied_index, self.log.commit_index)
        self.term: Term = hard_state.term
        self.vote: PeerId = hard_state.vote
        if hard_state != EMPTY_HARD_STATE:
            # A state machine may have stored more than the last commit index that was written:
            # what it applied was committed all the same.
            self._load_commit_index(max(hard_state.commit_index, applied_index))
        self.cursor.applied_to(max(applied_index, self.cursor.applied_index), 0)
        self._reset(self.term)

    @property
    def hard_state(self) -> HardState:
        """Return what must be durable at this moment."""
        return HardState(self.term, self.vote, self.log.commit_index)

    @property
    def is_learner(self) -> bool:
        """Whether this replica receives the log without a vote, as far as it knows."""
        return self.peer_id in self.tracker.configuration.learners

    @property
    def is_promotable(self) -> bool:
        """Whether this replica may campaign.

        A learner may not, nor a stranger, nor one whose snapshot is not durable: its log begins
        above what its disk holds.
        """
        return (
            self.peer_id in self.tracker.progress
            and not self.is_learner
            and self.log.unstable.raft_snapshot is None
        )

    def post(self, message: Message) -> None:
        """Queue a message.

        Promises (acknowledged entries, votes) wait until everything this replica holds at this
        moment is durable, rejections included; all others may overtake the disk.

        Raises:
            InvariantViolation: a bug: the term is missing, or this replica writes to itself.
        """
        if message.kind in _WITHOUT_TERM:
            is_right = message.term == 0
        elif message.kind in _FOR_ANOTHER_TERM:
            is_right = message.term > 0
        else:
            is_right = message.term == self.term
        invariant(
            is_right,
            "INV-RAFT-9: every message carries its term, but requests carry none",
            kind=message.kind,
            term=message.term,
        )
        if message.kind in AFTER_PERSIST_KINDS:
            self.messages_after_persist.append(message)
            return
        invariant(
            message.to != self.peer_id,
            "INV-RAFT-8: a replica promises to itself only what is durable",
            kind=message.kind,
        )
        self.messages.append(message)

    def become_follower(self, cause: Cause, term: Term, raft_leader: PeerId) -> None:
        """Follow ``raft_leader``, or nobody, in ``term``."""
        self.role = next_role(self.role, cause)
        self._reset(term)
        self.raft_leader = raft_leader

    def become_pre_candidate(self) -> None:
        """Ask for votes without touching term and vote, so that a lost poll leaves no trace."""
        self.role = next_role(self.role, Cause.PRE_CAMPAIGN)
        self.tracker.votes = {}
        self.raft_leader = NO_PEER

    def become_candidate(self) -> None:
        """Enter the next term and vote for oneself in it."""
        self.role = next_role(self.role, Cause.CAMPAIGN)
        self._reset(self.term + 1)
        self.vote = self.peer_id

    def become_leader(self) -> None:
        """Lead the present term. Nothing is known of the followers' logs yet."""
        self.role = next_role(self.role, Cause.ELECTED)
        self._reset(self.term)
        self.raft_leader = self.peer_id
        own = self.tracker.progress[self.peer_id]
        own.become_replicate()
        own.is_recently_active = True
        # There may be a change in the log that is not applied. Assuming that there is one delays
        # the next change at most until what is there now is applied.
        self.pending_conf_index = self.log.last_index

    def _reset(self, term: Term) -> None:
        invariant(
            term >= self.term,
            "INV-RAFT-16: the term never falls",
            term=term,
        )
        if term != self.term:
            self.term = term
            self.vote = NO_PEER
        self.raft_leader = NO_PEER
        self.election_elapsed_ticks = 0
        self.heartbeat_elapsed_ticks = 0
        self.election_timeout_ticks: int | None = None
        self.transferee: PeerId = NO_PEER
        self.tracker.reset(self.peer_id, self.log.last_index)
        self.pending_conf_index: LogIndex = 0
        self.uncommitted_bytes = 0
        self.reads = ReadQueue()
        self.early_reads: list[Message] = []

    def _load_commit_index(self, commit_index: LogIndex) -> None:
        invariant(
            self.log.commit_index <= commit_index <= self.log.last_index,
            "INV-RAFT-13: what is known to be committed lies within the stored log",
            commit_index=commit_index,
            first_index=self.log.first_index,
            last_index=self.log.last_index,
        )
        self.log.commit_to(commit_index)
