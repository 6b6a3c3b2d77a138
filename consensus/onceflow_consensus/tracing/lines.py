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
    from onceflow_consensus.raft.messages import Entry, LogIndex, Term

_Message = TypeVar("_Message", Message, PaxosMessage)

TAG = "trace"
"""Marks the lines that etcd-raft's trace has too."""

MORE_TAG = "trace-more"
"""Marks the lines of which etcd-raft's trace is silent."""

PAXOS_TAG = "trace-paxos"
"""Marks the lines of Multi-Paxos."""

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
    """What a traced state has in common with others: it tells of a message that was taken.

    arriving: a message that is being taken. It is told with the state before it, as soon as
        anything follows from it.
    """

    arriving: _Message | None = None

    def catch_up(self) -> None:
        """Tell what changed since the last line."""
        raise NotImplementedError

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
