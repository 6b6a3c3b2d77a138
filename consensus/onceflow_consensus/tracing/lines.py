"""What lines of a trace are made of, whichever engine is traced. See the package.

Must never import anything that does I/O: whoever asks for a trace hands in where lines go.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Generic, TypeVar

from onceflow_consensus.errors import MessageRefused
from onceflow_consensus.paxos.messages import PaxosMessage
from onceflow_consensus.raft.confchange import ChangeOp, decode_conf_change
from onceflow_consensus.raft.messages import LOCAL_THREADS, EntryKind, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.log import RaftLog
    from onceflow_consensus.raft.messages import Entry, EntryId, LogIndex, Term
    from onceflow_consensus.raft.tracker import Tracker

_Message = TypeVar("_Message", Message, PaxosMessage)

TAG = "trace"
"""Marks the lines that etcd-raft's trace has too."""

MORE_TAG = "trace-more"
"""Marks the lines of which etcd-raft's trace is silent."""

PAXOS_TAG = "trace-paxos"
"""Marks the lines of Multi-Paxos."""

_UNBOUNDED = 2**62

_ACTIONS = {
    ChangeOp.ADD_VOTER: "AddNewServer",
    ChangeOp.ADD_LEARNER: "AddLearner",
    ChangeOp.REMOVE: "RemoveServer",
}
"""What etcd-raft calls changes; one that only updates a member is not told."""


class Trace:
    """Where lines go."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        """Begin.

        Args:
            write: takes each line, with its end.
            clock: seconds, for ``ts``.
        """
        self._write = write
        self._clock = clock

    def tell(self, tag: str, event: dict[str, object]) -> None:
        """Write the line of an event."""
        line = {"tag": tag, "ts": self._clock(), "event": event}
        self._write(json.dumps(line, separators=(",", ":")) + "\n")


class Teller(Generic[_Message]):
    """A traced state: that of an engine, which a subclass is as well, telling every change.

    Commit index, log and configuration change in many places, but never without a message, a
    change of role or the end of an event following: what changed is told before these.

    arriving: a message that is being taken. It is told with the state before it, as soon as
        anything follows from it.
    tag: of the lines that tell nothing that is the engine's own.
    """

    arriving: _Message | None = None
    tag: str
    peer_id: PeerId
    log: RaftLog
    tracker: Tracker

    def begin(self, trace: Trace) -> None:
        """Tell how the state begins."""
        self._trace = trace
        self._told_commit = self.log.commit_index
        self._told_last = self.log.last_id
        self._told_configuration = self.tracker.configuration
        self.tell(self.tag, "InitState", prop={"terms": term_starts(self.log)})

    def told_state(self) -> tuple[Term, PeerId, str]:
        """Return term, vote and role."""
        raise NotImplementedError

    def may_propose(self) -> bool:
        """Whether what is added to the log was proposed here."""
        raise NotImplementedError

    def tell_arrival(self, message: _Message) -> None:
        """Tell of a message that is being taken."""
        raise NotImplementedError

    def tell_proposal(self, entry: Entry, before: EntryId) -> None:
        """Tell of an entry that was proposed when the log ended at ``before``."""
        raise NotImplementedError

    def tell_commit(self) -> None:
        """Tell that more is committed."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Tell what changed since the last line."""
        message, self.arriving = self.arriving, None
        if message is not None:
            self.tell_arrival(message)
        last = self.log.last_id
        if last != self._told_last:
            before, self._told_last = self._told_last, last
            if self.may_propose() and last.index > before.index:
                for entry in self.log.slice(before.index + 1, last.index + 1, _UNBOUNDED):
                    self.tell_proposal(entry, before)
        configuration = self.tracker.configuration
        if configuration != self._told_configuration:
            changed: dict[str, object] = {"newconf": texts(configuration.voters.incoming)}
            self.tell(self.tag, "ApplyConfChange", prop={"cc": changed})
            self._told_configuration = configuration
        if self.log.commit_index != self._told_commit:
            self._told_commit = self.log.commit_index
            self.tell_commit()

    def is_ready(self) -> None:
        """Tell that work was handed out."""
        self.catch_up()
        self.tell(self.tag, "Ready")

    def take(self, message: _Message, take: Callable[[], None]) -> None:
        """Let the engine take a message; one that it refuses at once is not told.

        Raises:
            MessageRefused, ProposalDropped, ReadDropped: as the engine does.
        """
        if message.sender not in LOCAL_THREADS:
            self.arriving = message
        try:
            take()
        except MessageRefused:
            self.arriving = None
            raise
        self.catch_up()

    def tell(
        self,
        tag: str,
        name: str,
        *,
        message: _Message | None = None,
        prop: dict[str, object] | None = None,
        last: EntryId | None = None,
    ) -> None:
        """Write a line: an event with the state as far as it was told, or with another ``last``."""
        last = self._told_last if last is None else last
        term, vote, role = self.told_state()
        event: dict[str, object] = {
            "name": name,
            "nid": str(self.peer_id),
            "state": {"term": term, "vote": str(vote), "commit": self._told_commit},
            "role": role,
            "log": last.index,
            "logTerm": last.term,
            **configuration_fields(self._told_configuration),
        }
        if message is not None:
            event["msg"] = message_fields(message)
        if prop:
            event["prop"] = prop
        self._trace.tell(tag, event)


def term_starts(log: RaftLog) -> list[tuple[LogIndex, Term]]:
    """Return where each term begins in a log, beginning with what stands below the first entry."""
    starts: list[tuple[LogIndex, Term]] = []
    for index in range(log.first_index - 1, log.last_index + 1):
        term = log.term_at(index) or 0
        if not starts or starts[-1][1] != term:
            starts.append((index, term))
    return starts


def texts(peer_ids: Iterable[PeerId]) -> list[str]:
    """Return replicas as a trace names them, in order."""
    return [str(peer_id) for peer_id in sorted(peer_ids)]


def configuration_fields(configuration: Configuration) -> dict[str, object]:
    """Return what an event says of the configuration in force."""
    voters = configuration.voters
    return {
        "conf": [texts(voters.incoming), texts(voters.outgoing)],
        "learners": texts(configuration.learners),
        "learnersNext": texts(configuration.learners_next),
        "autoLeave": configuration.auto_leave,
    }


def changes_of(entry: Entry) -> list[dict[str, str]]:
    """Return the changes of the membership that an entry holds, none if it is of another kind."""
    if entry.kind is EntryKind.NORMAL:
        return []
    return [
        {"nid": str(change.peer_id), "action": _ACTIONS[change.op]}
        for change in decode_conf_change(entry.data).changes
        if change.op in _ACTIONS
    ]


def message_fields(message: Message | PaxosMessage) -> dict[str, object]:
    """Return what an event says of its message."""
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
        fields["snapshotMembers"] = texts(received.configuration.peer_ids)
    return fields
