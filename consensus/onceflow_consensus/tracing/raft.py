"""A Raft replica that tells what it goes through, as etcd-raft does. See the package."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import (
    EntryId,
    EntryKind,
    Message,
    MessageKind,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.raft.state import RaftState
from onceflow_consensus.tracing.lines import (
    MORE_TAG,
    TAG,
    Teller,
    changes_of,
    configuration_fields,
    message_fields,
    term_starts,
    texts,
)

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, LogIndex, Term
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
    """The state of a replica that tells every change.

    Commit index, log and configuration change in many places, but never without a message, a
    change of role or the end of an event following: what changed is told before these.
    """

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        applied_index: LogIndex,
        trace: Trace,
    ) -> None:
        """Begin as the replica does."""
        super().__init__(options, stable, applied_index)
        self._trace = trace
        self._told_commit = self.log.commit_index
        self._told_last = self.log.last_id
        self._told_configuration = self.tracker.configuration
        self._tell(TAG, "InitState", prop={"terms": term_starts(self.log)})

    def catch_up(self) -> None:
        """Tell what changed since the last line."""
        self._tell_arrival()
        last = self.log.last_id
        if last != self._told_last:
            before, self._told_last = self._told_last, last
            if self.role is Role.LEADER and last.index > before.index:
                self._tell_proposals(before)
        configuration = self.tracker.configuration
        if configuration != self._told_configuration:
            changed: dict[str, object] = {"newconf": texts(configuration.voters.incoming)}
            self._tell(TAG, "ApplyConfChange", prop={"cc": changed})
            self._told_configuration = configuration
        if self.log.commit_index != self._told_commit:
            self._told_commit = self.log.commit_index
            self._tell(TAG if self.role is Role.LEADER else MORE_TAG, "Commit")

    def _tell_arrival(self) -> None:
        message, self.arriving = self.arriving, None
        if message is not None:
            self._tell_message("Receive", message, {})

    def _tell_proposals(self, before: EntryId) -> None:
        entries = self.log.slice(before.index + 1, self.log.last_index + 1, 2**62)
        for entry in entries:
            if entry.kind is EntryKind.NORMAL:
                self._tell(TAG, "Replicate", prop={"index": entry.index}, last=before)
            else:
                changes = changes_of(entry)
                tag = TAG if changes else MORE_TAG
                cc = {"changes": changes}
                prop: dict[str, object] = {"index": entry.index, "cc": cc}
                self._tell(tag, "ChangeConf", prop=prop, last=before)

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
        self._tell(TAG, "BecomeFollower")

    def become_pre_candidate(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_pre_candidate()
        self._tell(MORE_TAG, "BecomePreCandidate")

    def become_candidate(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_candidate()
        self._tell(TAG, "BecomeCandidate")

    def become_leader(self) -> None:
        """See ``RaftState``."""
        self.catch_up()
        super().become_leader()
        self._tell(TAG, "BecomeLeader")

    def is_ready(self) -> None:
        """Tell that work was handed out."""
        self.catch_up()
        self._tell(TAG, "Ready")

    def _tell_message(self, direction: str, message: Message, prop: dict[str, object]) -> None:
        known = _NAMES.get(message.kind)
        name = direction + (known or message.kind.value.removeprefix("Msg"))
        tag = MORE_TAG if known is None else TAG
        self._tell(tag, name, message=message, prop=prop)

    def _tell(
        self,
        tag: str,
        name: str,
        *,
        message: Message | None = None,
        prop: dict[str, object] | None = None,
        last: EntryId | None = None,
    ) -> None:
        last = self._told_last if last is None else last
        configuration = self._told_configuration
        event: dict[str, object] = {
            "name": name,
            "nid": str(self.peer_id),
            "state": {"term": self.term, "vote": str(self.vote), "commit": self._told_commit},
            "role": self.role.value,
            "log": last.index,
            "logTerm": last.term,
            **configuration_fields(configuration),
        }
        if message is not None:
            event["msg"] = message_fields(message)
        if prop:
            event["prop"] = prop
        self._trace.tell(tag, event)


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
