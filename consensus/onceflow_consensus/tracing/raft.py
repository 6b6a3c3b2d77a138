"""A Raft replica that tells what it goes through, as etcd-raft does. See the package."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import EntryKind, Message, MessageKind
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.raft.state import RaftState
from onceflow_consensus.tracing.lines import (
    MORE_TAG,
    TAG,
    Teller,
    changes_of,
)

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, EntryId, LogIndex, Term
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.ready import Ready
    from onceflow_consensus.raft.roles import Cause
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.tracing.lines import Trace

_NAMES = {
    MessageKind.APP: "AppendEntriesRequest",
    MessageKind.HEARTBEAT: "AppendEntriesRequest",
    MessageKind.SNAP: "AppendEntriesRequest",
    MessageKind.APP_RESP: "AppendEntriesResponse",
    MessageKind.HEARTBEAT_RESP: "AppendEntriesResponse",
    MessageKind.VOTE: "RequestVoteRequest",
    MessageKind.VOTE_RESP: "RequestVoteResponse",
}
"""What etcd-raft calls messages; all others are called by their kind."""


class TracedState(Teller[Message], RaftState):
    """The state of a replica that tells every change."""

    tag = TAG

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        applied_index: LogIndex,
        trace: Trace,
    ) -> None:
        """Begin as the replica does."""
        super().__init__(options, stable, applied_index)
        self.begin(trace)

    def told_state(self) -> tuple[Term, PeerId, str]:
        """See ``Teller``."""
        return self.term, self.vote, self.role.value

    def may_propose(self) -> bool:
        """See ``Teller``."""
        return self.role is Role.LEADER

    def tell_arrival(self, message: Message) -> None:
        """See ``Teller``."""
        self._tell_message("Receive", message, {})

    def tell_proposal(self, entry: Entry, before: EntryId) -> None:
        """See ``Teller``."""
        if entry.kind is EntryKind.NORMAL:
            self.tell(TAG, "Replicate", prop={"index": entry.index}, last=before)
            return
        changes = changes_of(entry)
        prop: dict[str, object] = {"index": entry.index, "cc": {"changes": changes}}
        self.tell(TAG if changes else MORE_TAG, "ChangeConf", prop=prop, last=before)

    def tell_commit(self) -> None:
        """See ``Teller``."""
        self.tell(TAG if self.role is Role.LEADER else MORE_TAG, "Commit")

    def post(self, message: Message) -> None:
        """Queue a message and tell it."""
        super().post(message)
        self.catch_up()
        prop: dict[str, object] = {}
        own = self.tracker.progress.get(self.peer_id)
        if message.kind is MessageKind.APP and own is not None:
            prop = {"match": own.match_index, "next": own.next_index}
        self._tell_message("Send", message, prop)

    def become_follower(self, cause: Cause, term: Term, raft_leader: PeerId) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_follower(cause, term, raft_leader)
        self.tell(TAG, "BecomeFollower")

    def become_pre_candidate(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_pre_candidate()
        self.tell(MORE_TAG, "BecomePreCandidate")

    def become_candidate(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_candidate()
        self.tell(TAG, "BecomeCandidate")

    def become_leader(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_leader()
        self.tell(TAG, "BecomeLeader")

    def _tell_message(self, direction: str, message: Message, prop: dict[str, object]) -> None:
        known = _NAMES.get(message.kind)
        name = direction + (known or message.kind.value.removeprefix("Msg"))
        tag = MORE_TAG if known is None else TAG
        self.tell(tag, name, message=message, prop=prop)


class TracedRaft(RaftNode):
    """A replica that tells what it goes through; otherwise as ``RaftNode``."""

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        trace: Trace,
        *,
        applied_index: LogIndex = 0,
    ) -> None:
        """Start, or start again; see ``RaftNode`` for the arguments."""
        super().__init__(options, stable, applied_index=applied_index)
        self._traced = TracedState(options, stable, applied_index, trace)
        self.state = self._traced

    def tick(self, fresh_timeout_ticks: int) -> None:
        """See ``RaftNode``."""
        super().tick(fresh_timeout_ticks)
        self._traced.catch_up()

    def step(self, message: Message) -> None:
        """See ``RaftNode``."""
        self._traced.take(message, partial(super().step, message))

    def apply_conf_change(self, entry: Entry) -> Configuration | None:
        """See ``RaftNode``."""
        configuration = super().apply_conf_change(entry)
        self._traced.catch_up()
        return configuration

    def ready(self) -> Ready:
        """See ``RaftNode``."""
        ready = super().ready()
        self._traced.is_ready()
        return ready

    def advance(self) -> None:
        """See ``RaftNode``; promises to itself are received one by one."""
        reports, self._on_advance = self._on_advance, []
        super().advance()
        for report in reports:
            self._on_advance = [report]
            self._traced.take(report, super().advance)
