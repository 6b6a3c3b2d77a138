"""What a replica goes through, as lines of JSON that an outside judge can replay.

Names and fields are those of etcd-raft's state trace (its ``state_trace.go``), one event a line
under ``event``: ``name``, ``nid`` (the replica), ``state`` (term, vote, commit index), ``role``,
``log`` (the last index), ``conf`` (voters, and outgoing voters while joint), ``msg``, ``prop``.
A line with the tag ``trace`` tells what etcd-raft tells, where it tells it, so that its TLA+ trace
specification reads it. Lines with the tag ``trace-more`` tell the rest in the same form: a
follower's ``Commit``, ``BecomePreCandidate``, and messages of which etcd-raft is silent, named
after their kinds. Numbers of replicas are texts, as there.

What is added to an event, for a judge that holds whole logs: ``logTerm`` (the last entry's term),
``learners``, ``learnersNext``, ``autoLeave``; in ``msg`` the ``entryTerms``, the ``context`` and a
snapshot's ``snapshotTerm`` and ``snapshotMembers``. ``InitState`` lists in ``prop.terms`` where
each term begins in the log, beginning with what stands below the first entry. ``ts`` is the clock
that is handed in.

A message is told when the engine posts it, which is before it leaves: what a crash takes back is
never received. A message that is refused is told only if its term was taken before.

The trace is a replica of its own kind: it overrides the few doors of the state through which all
changes pass, and adds nothing to the engine when nobody asks for a trace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onceflow_consensus.errors import MessageRefused
from onceflow_consensus.raft.confchange import ChangeOp, decode_conf_change
from onceflow_consensus.raft.messages import (
    LOCAL_THREADS,
    EntryId,
    EntryKind,
    MessageKind,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.raft.state import RaftState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, LogIndex, Message, Term
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.ready import Ready
    from onceflow_consensus.raft.roles import Cause
    from onceflow_consensus.raft.stable import StableLog

TAG = "trace"
"""Marks the lines that etcd-raft's trace has too."""

MORE_TAG = "trace-more"
"""Marks the lines of which etcd-raft's trace is silent."""

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

_ACTIONS = {
    ChangeOp.ADD_VOTER: "AddNewServer",
    ChangeOp.ADD_LEARNER: "AddLearner",
    ChangeOp.REMOVE: "RemoveServer",
}
"""What etcd-raft calls changes; one that only updates a member is not told."""


class TracedState(RaftState):
    """The state of a replica that tells every change.

    Commit index, log and configuration change in many places, but never without a message, a
    change of role or the end of an event following: what changed is told before these.
    """

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        applied_index: LogIndex,
        write: Callable[[str], object],
        clock: Callable[[], float],
    ) -> None:
        """Begin as the replica does.

        Args:
            options: see ``RaftState``.
            stable: see ``RaftState``.
            applied_index: see ``RaftState``.
            write: takes each line, with its end.
            clock: seconds, for ``ts``.
        """
        super().__init__(options, stable, applied_index)
        self._write = write
        self._clock = clock
        self._arriving: Message | None = None
        self._told_commit = self.log.commit_index
        self._told_last = self.log.last_id
        self._told_configuration = self.tracker.configuration
        self._tell(TAG, "InitState", prop={"terms": self._term_starts()})

    def _term_starts(self) -> list[tuple[LogIndex, Term]]:
        starts: list[tuple[LogIndex, Term]] = []
        for index in range(self.log.first_index - 1, self.log.last_index + 1):
            term = self.log.term_at(index) or 0
            if not starts or starts[-1][1] != term:
                starts.append((index, term))
        return starts

    def arrives(self, message: Message) -> None:
        """Tell of a message before it is taken; nothing is told of it if it is refused."""
        self._arriving = message

    def is_refused(self) -> None:
        """Take back what ``arrives`` told."""
        self._arriving = None

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
            changed: dict[str, object] = {"newconf": _texts(configuration.voters.incoming)}
            self._tell(TAG, "ApplyConfChange", prop={"cc": changed})
            self._told_configuration = configuration
        if self.log.commit_index != self._told_commit:
            self._told_commit = self.log.commit_index
            self._tell(TAG if self.role is Role.LEADER else MORE_TAG, "Commit")

    def _tell_arrival(self) -> None:
        message, self._arriving = self._arriving, None
        if message is not None:
            self._tell_message("Receive", message, {})

    def _tell_proposals(self, before: EntryId) -> None:
        entries = self.log.slice(before.index + 1, self.log.last_index + 1, 2**62)
        for entry in entries:
            if entry.kind is EntryKind.NORMAL:
                self._tell(TAG, "Replicate", prop={"index": entry.index}, last=before)
            else:
                changes = _changes(entry)
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
            **_configuration_fields(configuration),
        }
        if message is not None:
            event["msg"] = _message_fields(message)
        if prop:
            event["prop"] = prop
        line = {"tag": tag, "ts": self._clock(), "event": event}
        self._write(json.dumps(line, separators=(",", ":")) + "\n")


class TracedReplica(RaftNode):
    """A replica that tells what it goes through; otherwise as ``RaftNode``."""

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        write: Callable[[str], object],
        clock: Callable[[], float],
        *,
        applied_index: LogIndex = 0,
    ) -> None:
        """Start, or start again; see ``RaftNode`` and ``TracedState`` for the arguments."""
        super().__init__(options, stable, applied_index=applied_index)
        self._traced = TracedState(options, stable, applied_index, write, clock)
        self.state = self._traced

    def tick(self, fresh_timeout_ticks: int) -> None:
        """See ``RaftNode``."""
        super().tick(fresh_timeout_ticks)
        self._traced.catch_up()

    def step(self, message: Message) -> None:
        """See ``RaftNode``."""
        if message.sender not in LOCAL_THREADS:
            self._traced.arrives(message)
        try:
            super().step(message)
        except MessageRefused:
            self._traced.is_refused()
            raise
        self._traced.catch_up()

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
            if report.sender not in LOCAL_THREADS:
                self._traced.arrives(report)
            self._on_advance = [report]
            super().advance()
            self._traced.catch_up()


def _texts(peer_ids: Iterable[PeerId]) -> list[str]:
    return [str(peer_id) for peer_id in sorted(peer_ids)]


def _configuration_fields(configuration: Configuration) -> dict[str, object]:
    voters = configuration.voters
    return {
        "conf": [_texts(voters.incoming), _texts(voters.outgoing)],
        "learners": _texts(configuration.learners),
        "learnersNext": _texts(configuration.learners_next),
        "autoLeave": configuration.auto_leave,
    }


def _changes(entry: Entry) -> list[dict[str, str]]:
    return [
        {"nid": str(change.peer_id), "action": _ACTIONS[change.op]}
        for change in decode_conf_change(entry.data).changes
        if change.op in _ACTIONS
    ]


def _message_fields(message: Message) -> dict[str, object]:
    received = message.raft_snapshot
    fields: dict[str, object] = {
        "type": message.kind.value,
        "term": message.term,
        "from": str(message.sender),
        "to": str(message.to),
        "entries": len(message.entries) if received is None else received.index,
        "logTerm": message.log_term,
        "index": message.index,
        "commit": message.commit_index,
        "vote": str(message.vote),
        "reject": message.rejected,
        "rejectHint": message.reject_hint,
        "entryTerms": [entry.term for entry in message.entries],
        "context": message.context.hex(),
    }
    if received is not None:
        fields["snapshotTerm"] = received.term
        fields["snapshotMembers"] = _texts(received.configuration.peer_ids)
    return fields
