"""What a judge of traces knows of one replica: rebuilt from its lines, and compared with them.

The judge believes nothing that it can work out: a follower's log is what it held before and what
was sent to it, a leader's what it held and what it proposed. Each line says how far the log goes,
in which term, what is committed and who is voted for; a line that differs is rejected.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from onceflow_consensus.raft.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.testing.trace_lines import TracedEvent, TracedMessage

FOLLOWS = Role.FOLLOWER.value
ASKS = Role.PRE_CANDIDATE.value
CAMPAIGNS = Role.CANDIDATE.value
LEADS = Role.LEADER.value


class TracedLog:
    """The terms of a log: where each begins, and where the last one ends."""

    def __init__(self, starts: tuple[tuple[int, int], ...], last_index: int) -> None:
        self._starts = [index for index, _ in starts]
        self._terms = [term for _, term in starts]
        self.last_index = last_index

    @property
    def starts(self) -> list[int]:
        """Return where the terms begin; the first stands for all that is not known below it."""
        return self._starts

    @property
    def last_term(self) -> int:
        """Return the last entry's term."""
        return self._terms[-1]

    def term_at(self, index: int) -> int | None:
        """Return the term at an index, None where it is not known."""
        if not self._starts[0] <= index <= self.last_index:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    def put(self, index: int, term: int) -> None:
        """Put an entry at an index; what stood there and above is gone."""
        while len(self._starts) > 1 and self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()
        if self._terms[-1] != term:
            self._starts.append(index)
            self._terms.append(term)
        self.last_index = index

    def begin_at(self, index: int, term: int) -> None:
        """Begin anew from a snapshot."""
        self._starts, self._terms, self.last_index = [index], [term], index


class ReplicaModel:
    """One life of a replica, from its ``InitState`` on.

    taken: the message that was received last; what it does to the log shows in the next line.
    granted: the votes of the present campaign. acked: what members acknowledged to this leader.
    """

    def __init__(self, event: TracedEvent) -> None:
        self.log = TracedLog(event.term_starts, event.last_index)
        self.term = event.term
        self.vote = event.vote
        self.commit_index = event.commit_index
        self.role = event.role
        self.voters = event.voters
        self.taken: TracedMessage | None = None
        self.granted: set[int] = set()
        self.acked: dict[int, int] = {}
        self._peer_id = event.peer_id
        self._requests: dict[int, TracedMessage] = {}
        self._entered: frozenset[int] | None = None
        self._is_by_snapshot = False
        self._proposed = 0
        if event.role != FOLLOWS:
            event.reject("a replica starts as a follower")
        if self.log.last_term != event.last_term or event.commit_index > event.last_index:
            event.reject("the log that it lists is not the one that it has")

    def take(self, event: TracedEvent) -> None:
        """Take a line.

        Raises:
            TraceRejected: it does not follow from those before.
        """
        if event.name not in _PROPOSALS:
            self._proposed = 0
        change = _CHANGES.get(event.name)
        if change is None:
            self._finish_taking()
            self._compare(event)
        else:
            change(self, event)
        if event.message is not None and event.name.startswith("Receive"):
            self._receive(event, event.message)
        elif event.message is not None:
            self._send(event, event.message)

    def _finish_taking(self) -> None:
        message, self.taken = self.taken, None
        if message is None or message.term != self.term or self.role == LEADS:
            return
        if message.kind == "MsgApp":
            self._append(message)
        elif message.kind == "MsgSnap":
            self._install(message)

    def _append(self, message: TracedMessage) -> None:
        if message.index < self.commit_index:
            return
        if self.log.term_at(message.index) != message.log_term:
            return
        for index, term in enumerate(message.entry_terms, message.index + 1):
            if self.log.term_at(index) != term:
                self.log.put(index, term)

    def _install(self, message: TracedMessage) -> None:
        if message.entries <= self.commit_index or self._peer_id not in message.snapshot_members:
            return
        if self.log.term_at(message.entries) != message.snapshot_term:
            self.log.begin_at(message.entries, message.snapshot_term)

    def _compare(self, event: TracedEvent, proposed_behind: int | None = None) -> None:
        self._compare_voters(event)
        log = (self.log.last_index, self.log.last_term)
        if proposed_behind is not None:
            log = (event.last_index, proposed_behind)
        told = (event.term, event.vote, event.role, event.last_index, event.last_term)
        known = (self.term, self.vote, self.role, *log)
        if told != known:
            event.reject(f"(term, vote, role, last index, last term) is {told}, must be {known}")
        if event.commit_index != self.commit_index and event.name != "Commit":
            event.reject(f"commits {event.commit_index}, but had committed {self.commit_index}")

    def _compare_voters(self, event: TracedEvent) -> None:
        if self._entered is None:
            if event.voters != self.voters:
                event.reject("the configuration changed without a word")
            return
        if event.voters.incoming != self._entered:
            event.reject("the configuration is not the one that was entered")
        if not self._is_by_snapshot:
            _check_step(event, self.voters)
        self.voters = event.voters
        self._entered = None
        self.acked = {
            peer_id: index for peer_id, index in self.acked.items() if peer_id in event.members
        }

    def become_follower(self, event: TracedEvent) -> None:
        """Follow; a higher term comes from the message that was taken."""
        if event.term > self.term:
            if self.taken is None or self.taken.term != event.term:
                event.reject(f"nobody told it of term {event.term}")
            self.vote = 0
        elif event.term < self.term:
            event.reject(f"the term falls from {self.term}")
        self.term, self.role = event.term, FOLLOWS
        self._compare(event)

    def become_pre_candidate(self, event: TracedEvent) -> None:
        """Ask whether an election can be won."""
        self._campaign(event, ASKS)

    def become_candidate(self, event: TracedEvent) -> None:
        """Enter the next term with the own vote."""
        self.term += 1
        self.vote = self._peer_id
        self._campaign(event, CAMPAIGNS)

    def _campaign(self, event: TracedEvent, role: str) -> None:
        if self.role == LEADS:
            event.reject("a leader does not campaign")
        self._finish_taking()
        self.role, self.granted = role, set()
        self._compare(event)

    def become_leader(self, event: TracedEvent) -> None:
        """Lead by the votes of a quorum."""
        if self.role != CAMPAIGNS:
            event.reject(f"a {self.role} cannot be elected")
        if not is_quorum(self.voters, self.granted):
            event.reject(f"the votes of {sorted(self.granted)} are no quorum")
        self.role = LEADS
        self.taken = None
        self.acked = {event.peer_id: self.log.last_index}
        self._compare(event)

    def propose(self, event: TracedEvent) -> None:
        """Put an entry at the end of a leader's log; lines are told before all of a proposal."""
        self._finish_taking()
        proposed = self.log.last_index - event.last_index
        if self.role != LEADS or not 0 <= proposed <= self._proposed:
            event.reject(f"proposes behind {event.last_index}, the log is at {self.log.last_index}")
        self._compare(event, self.log.term_at(event.last_index))
        if event.index != self.log.last_index + 1:
            event.reject(f"puts {event.index} behind {self.log.last_index}")
        self.log.put(event.index, self.term)
        self._proposed = proposed + 1

    def apply_configuration(self, event: TracedEvent) -> None:
        """Put a configuration into force; the line is told before."""
        taken = self.taken
        self._finish_taking()
        self._compare(event)
        self._entered = event.new_voters
        self._is_by_snapshot = taken is not None and taken.kind == "MsgSnap"

    def raise_commit(self, event: TracedEvent) -> None:
        """Commit; a leader only what a quorum acknowledged, ending in its term."""
        self._finish_taking()
        self._compare(event)
        index = event.commit_index
        if not self.commit_index < index <= self.log.last_index:
            event.reject(f"commits {index} after {self.commit_index} of {self.log.last_index}")
        if self.role == LEADS:
            holders = {peer_id for peer_id, acked in self.acked.items() if acked >= index}
            if not is_quorum(self.voters, holders):
                event.reject(f"{sorted(holders)} is no quorum for {index}")
            if self.log.term_at(index) != self.term:
                event.reject(f"commits {index} of an earlier term by counting")
        self.commit_index = index

    def _receive(self, event: TracedEvent, message: TracedMessage) -> None:
        if message.to != event.peer_id:
            event.reject("the message is for another replica")
        self.taken = message
        if message.kind == "MsgVote":
            self._requests[message.sender] = message
        if message.term != self.term or message.rejected:
            return
        if message.kind == "MsgVoteResp" and self.role == CAMPAIGNS:
            self.granted.add(message.sender)
        elif message.kind == "MsgAppResp" and self.role == LEADS:
            known = self.acked.get(message.sender, 0)
            self.acked[message.sender] = max(known, message.index)

    def _send(self, event: TracedEvent, message: TracedMessage) -> None:
        if message.sender != event.peer_id:
            if message.kind not in {"MsgProp", "MsgReadIndex", "MsgTransferLeader"}:
                event.reject("the message is another replica's")
            return
        if message.entries != len(message.entry_terms) and message.kind != "MsgSnap":
            event.reject("the entries are not as many as their terms")
        check = _SENT.get(message.kind)
        if check is not None:
            check(self, event, message)

    def check_append(self, event: TracedEvent, message: TracedMessage) -> None:
        """A leader sends what its log holds, and tells what it has committed."""
        self.check_lead(event, message)
        if self.log.term_at(message.index) not in {None, message.log_term}:
            event.reject(f"it holds another entry at {message.index}")
        for index, term in enumerate(message.entry_terms, message.index + 1):
            if self.log.term_at(index) != term:
                event.reject(f"it does not hold entry {index} of term {term}")

    def check_lead(self, event: TracedEvent, message: TracedMessage) -> None:
        """A leader sends it, and tells no more than it has committed."""
        if self.role != LEADS or message.term != self.term:
            event.reject("only the term's leader sends this")
        if message.commit_index > self.commit_index:
            event.reject(f"tells {message.commit_index}, has committed {self.commit_index}")

    def check_acknowledgement(self, event: TracedEvent, message: TracedMessage) -> None:
        """Nobody acknowledges what is not in its log."""
        if message.term != self.term:
            event.reject("acknowledges in another term")
        if not message.rejected and message.index > self.log.last_index:
            event.reject(f"acknowledges {message.index}, its log ends at {self.log.last_index}")

    def check_vote(self, event: TracedEvent, message: TracedMessage) -> None:
        """A vote is given once per term, to whoever's log holds as much."""
        if message.rejected:
            return
        if message.term != self.term or self.vote not in {0, message.to}:
            event.reject(f"has voted for {self.vote} in term {self.term}")
        request = self._requests.get(message.to)
        own = (self.log.last_term, self.log.last_index)
        if message.to == self._peer_id:
            return
        if request is None or request.term != message.term:
            event.reject("nobody asked for the vote")
        if (request.log_term, request.index) < own:
            event.reject(f"votes for a log that ends before its own {own}")
        self.vote = message.to


def is_quorum(voters: JointVoters, agreeing: Collection[int]) -> bool:
    """Whether more than half of each half agree; counted here, because the engine may be wrong."""
    halves = [half for half in (voters.incoming, voters.outgoing) if half]
    return bool(halves) and all(2 * len(half.intersection(agreeing)) > len(half) for half in halves)


def _check_step(event: TracedEvent, before: JointVoters) -> None:
    """One voter at most changes directly; more by way of both halves."""
    after = event.voters
    if after.is_joint or before.is_joint:
        is_step = after.outgoing == (frozenset() if before.is_joint else before.incoming)
        is_step = is_step and (not before.is_joint or after.incoming == before.incoming)
    else:
        is_step = len(before.incoming ^ after.incoming) <= 1
    if not is_step:
        event.reject(f"no single change leads from {before} to {after}")


_PROPOSALS = frozenset({"Replicate", "ChangeConf"})

_CHANGES: dict[str, Callable[[ReplicaModel, TracedEvent], None]] = {
    "BecomeFollower": ReplicaModel.become_follower,
    "BecomePreCandidate": ReplicaModel.become_pre_candidate,
    "BecomeCandidate": ReplicaModel.become_candidate,
    "BecomeLeader": ReplicaModel.become_leader,
    "Replicate": ReplicaModel.propose,
    "ChangeConf": ReplicaModel.propose,
    "ApplyConfChange": ReplicaModel.apply_configuration,
    "Commit": ReplicaModel.raise_commit,
}

_SENT: dict[str, Callable[[ReplicaModel, TracedEvent, TracedMessage], None]] = {
    "MsgApp": ReplicaModel.check_append,
    "MsgHeartbeat": ReplicaModel.check_lead,
    "MsgSnap": ReplicaModel.check_lead,
    "MsgAppResp": ReplicaModel.check_acknowledgement,
    "MsgVoteResp": ReplicaModel.check_vote,
}
