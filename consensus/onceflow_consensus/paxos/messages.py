"""The vocabulary of the Paxos engine: ballots and messages.

The kinds are those of Sequence Paxos and of its ballot leader election. Entries, hard state and
snapshots are shared with the Raft engine, and so are the names of a message's fields; a *term* is
the number of a ballot. Zero is "none" for numbers, peers and indices.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.raft.messages import NO_PEER, EntryId

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry, LogIndex, RaftSnapshot, Term


class Ballot(msgspec.Struct, frozen=True, gc=False, order=True):
    """A claim to lead, ordered by number, then by owner.

    An acceptor promises one owner per number. Therefore at most one owner gets a quorum for a
    number, and the number alone names the leader that wrote an entry: it is the entry's term.
    """

    number: Term = 0
    owner: PeerId = NO_PEER


NO_BALLOT = Ballot()
"""Below every ballot that anybody can own."""


class PaxosKind(Enum):
    """Kinds of messages, and of the reports of local threads.

    Phase one: a proposer asks to PREPARE, acceptors PROMISE; it asks to FETCH what it lacks, and
    gets STATE, a snapshot, in place of what is compacted. Phase two: ACCEPT_SYNC brings an
    acceptor's log up to the proposer's, ACCEPT appends, acceptors answer ACCEPTED, DECIDE tells
    learners what is chosen. REFUSE answers a ballot that is too low.
    """

    # Kinds are looked up at every step. The hash of Enum itself is computed in Python.
    __hash__ = object.__hash__

    HEARTBEAT = "Heartbeat"
    HEARTBEAT_REPLY = "HeartbeatReply"
    PREPARE = "Prepare"
    PROMISE = "Promise"
    FETCH = "Fetch"
    STATE = "State"
    ACCEPT_SYNC = "AcceptSync"
    ACCEPT = "Accept"
    ACCEPTED = "Accepted"
    DECIDE = "Decide"
    SNAP = "Snapshot"
    REFUSE = "Refuse"
    PROPOSE = "Propose"
    READ_INDEX = "ReadIndex"
    READ_INDEX_RESP = "ReadIndexResp"
    CONFIRM = "Confirm"
    CONFIRMED = "Confirmed"
    TRANSFER_LEADER = "TransferLeader"
    TAKE_OVER = "TakeOver"
    STORAGE_APPEND = "StorageAppend"
    STORAGE_APPEND_RESP = "StorageAppendResp"
    STORAGE_APPLY = "StorageApply"
    STORAGE_APPLY_RESP = "StorageApplyResp"


OF_A_BALLOT = frozenset(
    {
        PaxosKind.PREPARE,
        PaxosKind.FETCH,
        PaxosKind.ACCEPT_SYNC,
        PaxosKind.ACCEPT,
        PaxosKind.DECIDE,
        PaxosKind.SNAP,
        PaxosKind.CONFIRM,
        PaxosKind.TAKE_OVER,
    }
)
"""What the owner of a ballot sends; its term and its sender name the ballot."""

ANSWERS = frozenset({PaxosKind.PROMISE, PaxosKind.ACCEPTED, PaxosKind.CONFIRMED})
"""Answers to the owner of a ballot, whose number they carry."""

FROM_MEMBERS = ANSWERS | {
    PaxosKind.HEARTBEAT_REPLY,
    PaxosKind.REFUSE,
    PaxosKind.STATE,
    PaxosKind.READ_INDEX_RESP,
}
"""What is only believed of members: what a removed peer answers proves nothing."""

LOCAL_KINDS = frozenset(
    {
        PaxosKind.STORAGE_APPEND,
        PaxosKind.STORAGE_APPEND_RESP,
        PaxosKind.STORAGE_APPLY,
        PaxosKind.STORAGE_APPLY_RESP,
    }
)
"""Between a replica and its own threads; never accepted from the network."""

AFTER_PERSIST_KINDS = frozenset({PaxosKind.PROMISE, PaxosKind.ACCEPTED})
"""Promises: they leave only when everything that they rest on is durable."""


class PaxosMessage(msgspec.Struct, frozen=True, gc=False):
    """A message between replicas, or to or from a local thread.

    ``term`` is the number of the ballot that a message belongs to; in heartbeats that of the
    sender's own ballot, in a refusal that of the ballot promised instead, owned by ``vote``.
    ``log_term`` and ``index`` name a position: up to which the proposer has the log (PREPARE,
    FETCH), where the acceptor's log ends (PROMISE), which ``entries`` follow (ACCEPT_SYNC, ACCEPT,
    DECIDE), what is accepted or was refused (ACCEPTED). In heartbeats ``index`` is the round, and
    the replies tell in ``log_term`` and ``vote`` whom their sender takes for elected, and in
    ``rejected`` that it is not content with it. In a refusal ``index`` is the refused number.
    ``reject_hint`` is where the logs may agree. ``responses`` are to be delivered once a storage
    message was performed.
    """

    kind: PaxosKind
    sender: PeerId = NO_PEER
    to: PeerId = NO_PEER
    term: Term = 0
    vote: PeerId = NO_PEER
    log_term: Term = 0
    index: LogIndex = 0
    commit_index: LogIndex = 0
    entries: tuple[Entry, ...] = ()
    raft_snapshot: RaftSnapshot | None = None
    rejected: bool = False
    reject_hint: LogIndex = 0
    context: bytes = b""
    responses: tuple[PaxosMessage, ...] = ()

    @property
    def ballot(self) -> Ballot:
        """Return the ballot under which its owner sent this; the sender's own in heartbeats."""
        return Ballot(self.term, self.sender)

    @property
    def position(self) -> EntryId:
        """Return the position that the message names."""
        return EntryId(self.log_term, self.index)
