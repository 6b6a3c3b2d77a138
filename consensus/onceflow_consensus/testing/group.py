"""A group of replicas in one place: in-memory logs, one list of messages, nothing by itself.

What happens, and in which order, is decided by whoever calls: deliver these messages, perform that
replica's work. Each step is told to a ``Transcript`` in the notation of the cases. The state
machine appends the data of every entry to a string; its every state is kept as a snapshot.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from onceflow_consensus.errors import (
    MessageRefused,
    ProposalDropped,
    ReadDropped,
    RefusalReason,
)
from onceflow_consensus.raft.confchange import decode_conf_change
from onceflow_consensus.raft.messages import (
    EMPTY_HARD_STATE,
    LOCAL_THREADS,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.testing.memory_log import MemoryLog
from onceflow_consensus.testing.rendering import message_text, ready_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration

_REFUSALS = {
    RefusalReason.LOCAL_KIND: "raft: cannot step raft local message",
    RefusalReason.UNKNOWN_PEER: "raft: cannot step as peer not found",
    RefusalReason.NOT_CONTIGUOUS: "raft: entries do not follow one another",
}


def refused_text(action: Callable[[], None]) -> str:
    """Perform an action; return how the cases word its refusal, nothing if it was taken."""
    try:
        action()
    except ProposalDropped:
        return "raft proposal dropped"
    except ReadDropped:
        return "raft read dropped"
    except MessageRefused as refused:
        return _REFUSALS[refused.reason]
    return ""


class Transcript:
    """What the steps tell. While ``is_quiet`` it keeps nothing."""

    def __init__(self) -> None:
        self.is_quiet = False
        self._parts: list[str] = []
        self._indent = ""

    def write(self, text: str) -> None:
        """Add text, indented as the present step is."""
        if not self.is_quiet:
            self._parts.extend(self._indent + line for line in text.splitlines())

    @contextmanager
    def step(self, header: str, *, is_named: bool) -> Generator[None]:
        """Tell a step under a header, unless it is the only one and needs no name."""
        if is_named:
            self.write(header)
            self._indent += "  "
        try:
            yield
        finally:
            if is_named:
                self._indent = self._indent[:-2]

    def take(self) -> str:
        """Return what was told and begin anew."""
        text = "\n".join(self._parts)
        self._parts = []
        return text


@dataclass(slots=True)
class Member:
    """A replica with its log, the work of its two local threads, and its past states."""

    node: RaftNode
    log: MemoryLog
    options: RaftOptions
    history: list[RaftSnapshot]
    append_work: list[Message] = field(default_factory=list[Message])
    apply_work: list[Message] = field(default_factory=list[Message])

    @property
    def uses_threads(self) -> bool:
        """Whether its writes are messages to local threads."""
        return self.options.storage is StorageMode.MESSAGES

    def persist(
        self, hard_state: HardState, entries: tuple[Entry, ...], received: RaftSnapshot | None
    ) -> None:
        """Make durable what a ``Ready`` or a writer's message asks for."""
        if hard_state != EMPTY_HARD_STATE:
            self.log.hard_state = hard_state
        if received is not None:
            self.log.install(received)
        self.log.put(entries)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """Apply committed entries; each leaves a snapshot behind."""
        for entry in entries:
            data = entry.data
            configuration: Configuration = self.history[-1].configuration
            if entry.kind is not EntryKind.NORMAL:
                changed = self.node.apply_conf_change(entry)
                if changed is None:
                    return
                configuration = changed
                data = decode_conf_change(entry.data).context
            state = self.history[-1].data + data
            self.history.append(RaftSnapshot(entry.index, entry.term, configuration, state))


class Group:
    """The replicas, numbered from one, and the messages between them that are under way."""

    def __init__(self) -> None:
        self.members: dict[PeerId, Member] = {}
        self.messages: list[Message] = []
        self.transcript = Transcript()

    def add_member(self, options: RaftOptions, begun_with: RaftSnapshot) -> None:
        """Add a replica that starts from a snapshot, which may be empty."""
        log = MemoryLog(begun_with)
        node = RaftNode(options, log, applied_index=begun_with.index)
        member = Member(node, log, options, [begun_with])
        log.newest_snapshot = lambda: member.history[-1]
        self.members[options.peer_id] = member

    def process_ready(self, peer_id: PeerId) -> None:
        """Do what a replica wants done, or hand it to its threads."""
        member = self.members[peer_id]
        ready = member.node.ready()
        self.transcript.write(ready_text(ready))
        if member.uses_threads:
            self.messages.extend(ready.messages)
            if ready.storage_append is not None:
                member.append_work.append(ready.storage_append)
            if ready.storage_apply is not None:
                member.apply_work.append(ready.storage_apply)
            return
        hard_state = ready.hard_state or EMPTY_HARD_STATE
        member.persist(hard_state, ready.entries, ready.raft_snapshot)
        member.apply(ready.committed_entries)
        self.messages.extend([*ready.messages, *ready.messages_after_persist])
        member.node.advance()

    def process_append_thread(self, peer_id: PeerId) -> None:
        """Let a replica's writer perform its oldest message."""
        member = self.members[peer_id]
        if not member.append_work:
            self.transcript.write("no append work to perform")
            return
        work = member.append_work.pop(0)
        self._tell_work(work)
        hard_state = HardState(work.term, work.vote, work.commit_index)
        member.persist(hard_state, work.entries, work.raft_snapshot)
        self._respond(work.responses)

    def process_apply_thread(self, peer_id: PeerId) -> None:
        """Let a replica's state machine perform its oldest message."""
        member = self.members[peer_id]
        if not member.apply_work:
            self.transcript.write("no apply work to perform")
            return
        work = member.apply_work.pop(0)
        self._tell_work(work)
        member.apply(work.entries)
        self._respond(work.responses)

    def _tell_work(self, work: Message) -> None:
        self.transcript.write("Processing:")
        self.transcript.write(message_text(replace(work, responses=())))

    def _respond(self, responses: tuple[Message, ...]) -> None:
        self.transcript.write("Responses:")
        for response in responses:
            self.transcript.write(message_text(response))
        self.messages.extend(responses)

    def deliver(self, peer_id: PeerId, kind: MessageKind | None = None) -> int:
        """Deliver the messages to a replica that are under way; return their number."""
        taken = self._take(lambda message: message.to == peer_id and kind in (None, message.kind))
        for message in taken:
            self.transcript.write(message_text(message))
            member = self.members[peer_id]
            self.transcript.write(refused_text(lambda m=message, n=member.node: n.step(m)))
        return len(taken)

    def drop(self, peer_id: PeerId, kind: MessageKind | None = None) -> int:
        """Lose the messages to a replica; those of its own threads cannot be lost."""
        taken = self._take(
            lambda message: (
                message.to == peer_id
                and kind in (None, message.kind)
                and message.sender != message.to
                and message.sender not in LOCAL_THREADS
            )
        )
        for message in taken:
            self.transcript.write("dropped: " + message_text(message))
        return len(taken)

    def _take(self, is_wanted: Callable[[Message], bool]) -> list[Message]:
        taken = [message for message in self.messages if is_wanted(message)]
        self.messages = [message for message in self.messages if not is_wanted(message)]
        return taken

    def stabilize(self, peer_ids: Sequence[PeerId]) -> None:
        """Let some replicas work and receive until nothing is left to do for them."""
        while self._stabilize_once(peer_ids):
            pass

    def _stabilize_once(self, peer_ids: Sequence[PeerId]) -> bool:
        """Give every replica one turn of each kind of work; return whether there was any."""
        turns: tuple[tuple[str, Callable[[Member], bool], Callable[[PeerId], object]], ...] = (
            ("handling Ready", lambda member: member.node.has_ready(), self.process_ready),
            ("receiving messages", self._has_messages, self.deliver),
            (
                "processing append thread",
                lambda member: bool(member.append_work),
                self._drain_append_thread,
            ),
            (
                "processing apply thread",
                lambda member: bool(member.apply_work),
                self._drain_apply_thread,
            ),
        )
        had_work = False
        for name, has_work, work in turns:
            for peer_id in peer_ids:
                if has_work(self.members[peer_id]):
                    had_work = True
                    with self.transcript.step(f"> {peer_id} {name}", is_named=True):
                        work(peer_id)
        return had_work

    def _has_messages(self, member: Member) -> bool:
        return any(message.to == member.options.peer_id for message in self.messages)

    def _drain_append_thread(self, peer_id: PeerId) -> None:
        while self.members[peer_id].append_work:
            self.process_append_thread(peer_id)

    def _drain_apply_thread(self, peer_id: PeerId) -> None:
        while self.members[peer_id].apply_work:
            self.process_apply_thread(peer_id)
