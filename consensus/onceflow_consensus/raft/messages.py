"""The vocabulary of the engine: entries, snapshots and messages.

The message kinds are those of etcd-raft, so that its cases and its documentation apply. One
message type serves all of them, local events included, and unused fields keep their defaults.
Plain integers stand for peers, terms and indices: they are computed with at every step, and a
wrapper per addition would check nothing further. Zero is "none" for each of them; the log's first
entry has index 1, so that a previous index of zero is unambiguous.
The values are structs and not dataclasses: several are made per entry on each member, and a frozen
dataclass of a message's size takes as long as a tenth of a quick sync. Nothing that they hold can
refer back to them, so that the garbage collector need not look at them.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.raft.configuration import EMPTY_CONFIGURATION, Configuration

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId

Term = int
"""Number of an election, growing; at most one peer leads in a term."""

LogIndex = int
"""Position in the log, counted from one; the index of a snapshot is its last entry's."""

NO_PEER: PeerId = 0
"""Stands for "nobody": no leader is known, no vote was given, no transfer is under way."""

APPEND_THREAD: PeerId = 2**64 - 1
"""Address of the replica's own log writer, when storage writes are asynchronous."""

APPLY_THREAD: PeerId = 2**64 - 2
"""Address of the replica's own state machine, when storage writes are asynchronous."""

LOCAL_THREADS = frozenset({APPEND_THREAD, APPLY_THREAD})
"""Addresses that are no peers."""


class EntryKind(Enum):
    """What an entry's data is."""

    # Kinds are looked up at every step. The hash of Enum itself is computed in Python.
    __hash__ = object.__hash__

    NORMAL = "EntryNormal"
    CONF_CHANGE = "EntryConfChange"
    CONF_CHANGE_V2 = "EntryConfChangeV2"


def _varint_bytes(number: int) -> int:
    return ((number | 1).bit_length() + 6) // 7


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One position of the log. ``data`` is opaque unless ``kind`` is a configuration change."""

    term: Term = 0
    index: LogIndex = 0
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""

    @property
    def encoded_bytes(self) -> int:
        """Size that byte limits count: that of the entry as etcd-raft encodes it.

        Limits mean the same as there, and a limit does not shift with our own wire format.
        """
        size = 2 + _varint_bytes(self.term) + _varint_bytes(self.index)
        if self.kind is not EntryKind.NORMAL:
            size += 2
        if self.data:
            size += 1 + _varint_bytes(len(self.data)) + len(self.data)
        return size


def encoded_bytes(entries: tuple[Entry, ...]) -> int:
    """Return the size of ``entries`` that byte limits count."""
    return sum([entry.encoded_bytes for entry in entries])


def payload_bytes(entries: tuple[Entry, ...]) -> int:
    """Return the size of the data alone: what proposers are held to account for."""
    return sum([len(entry.data) for entry in entries])


def limit_bytes(entries: tuple[Entry, ...], max_bytes: int) -> tuple[Entry, ...]:
    """Return the longest prefix within ``max_bytes``, but at least one entry.

    One entry is always returned, however large: otherwise it could never be sent.
    """
    if len(entries) <= 1:
        return entries
    size = 0
    for position, entry in enumerate(entries):
        size += entry.encoded_bytes
        if size > max_bytes and position > 0:
            return entries[:position]
    return entries


class EntryId(msgspec.Struct, frozen=True, gc=False):
    """What a position holds is decided by (term, index); compared lexicographically."""

    term: Term = 0
    index: LogIndex = 0


class RaftSnapshot(msgspec.Struct, frozen=True, gc=False):
    """State of the machine after ``index``, with the configuration in force there.

    ``data`` is opaque to the engine. A server that streams large states puts only what the
    receiver needs to fetch the stream here.
    """

    index: LogIndex = 0
    term: Term = 0
    configuration: Configuration = EMPTY_CONFIGURATION
    data: bytes = b""


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What must be durable before anything that depends on it leaves the replica.

    ``commit_index`` may be lost in a crash without harm: it is learned again.
    """

    term: Term = 0
    vote: PeerId = NO_PEER
    commit_index: LogIndex = 0


EMPTY_HARD_STATE = HardState()


class MessageKind(Enum):
    """Kinds of messages and local events, as in etcd-raft."""

    __hash__ = object.__hash__  # see EntryKind

    HUP = "MsgHup"
    BEAT = "MsgBeat"
    PROP = "MsgProp"
    APP = "MsgApp"
    APP_RESP = "MsgAppResp"
    VOTE = "MsgVote"
    VOTE_RESP = "MsgVoteResp"
    SNAP = "MsgSnap"
    HEARTBEAT = "MsgHeartbeat"
    HEARTBEAT_RESP = "MsgHeartbeatResp"
    UNREACHABLE = "MsgUnreachable"
    SNAP_STATUS = "MsgSnapStatus"
    CHECK_QUORUM = "MsgCheckQuorum"
    TRANSFER_LEADER = "MsgTransferLeader"
    TIMEOUT_NOW = "MsgTimeoutNow"
    READ_INDEX = "MsgReadIndex"
    READ_INDEX_RESP = "MsgReadIndexResp"
    PRE_VOTE = "MsgPreVote"
    PRE_VOTE_RESP = "MsgPreVoteResp"
    STORAGE_APPEND = "MsgStorageAppend"
    STORAGE_APPEND_RESP = "MsgStorageAppendResp"
    STORAGE_APPLY = "MsgStorageApply"
    STORAGE_APPLY_RESP = "MsgStorageApplyResp"
    FORGET_LEADER = "MsgForgetLeader"


LOCAL_KINDS = frozenset(
    {
        MessageKind.HUP,
        MessageKind.BEAT,
        MessageKind.UNREACHABLE,
        MessageKind.SNAP_STATUS,
        MessageKind.CHECK_QUORUM,
        MessageKind.STORAGE_APPEND,
        MessageKind.STORAGE_APPEND_RESP,
        MessageKind.STORAGE_APPLY,
        MessageKind.STORAGE_APPLY_RESP,
    }
)
"""Events of a replica's own driver; never accepted from the network."""

RESPONSE_KINDS = frozenset(
    {
        MessageKind.APP_RESP,
        MessageKind.VOTE_RESP,
        MessageKind.HEARTBEAT_RESP,
        MessageKind.UNREACHABLE,
        MessageKind.READ_INDEX_RESP,
        MessageKind.PRE_VOTE_RESP,
        MessageKind.STORAGE_APPEND_RESP,
        MessageKind.STORAGE_APPLY_RESP,
    }
)
"""Answers; accepted only from members, because a removed peer's answer proves nothing."""

AFTER_PERSIST_KINDS = frozenset(
    {MessageKind.APP_RESP, MessageKind.VOTE_RESP, MessageKind.PRE_VOTE_RESP}
)
"""Promises: they leave only when everything they rest on is durable (thesis, section 3.8)."""

TRANSFER_CONTEXT = b"CampaignTransfer"
"""Marks the vote requests of a transfer: they are granted although a leader lives."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message between peers, to or from a local thread, or a local event.

    ``index`` and ``log_term`` name the entry before ``entries`` in an append, the last entry in a
    vote request, the entry acknowledged or rejected in an answer, the last committed one in a
    refused vote. ``reject_hint`` is where the
    logs may agree. ``responses`` are to be delivered once a storage message was performed.
    """

    kind: MessageKind
    to: PeerId = NO_PEER
    sender: PeerId = NO_PEER
    term: Term = 0
    log_term: Term = 0
    index: LogIndex = 0
    entries: tuple[Entry, ...] = ()
    commit_index: LogIndex = 0
    vote: PeerId = NO_PEER
    raft_snapshot: RaftSnapshot | None = None
    rejected: bool = False
    reject_hint: LogIndex = 0
    context: bytes = b""
    responses: tuple[Message, ...] = ()
