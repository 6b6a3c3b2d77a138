"""The door of the Raft engine: events in, ``Ready`` out.

How to drive it, with storage written by ``Ready``::

    node.step(message) / node.tick(timeout) / node.propose(data) ...
    while node.has_ready():
        ready = node.ready()
        send(ready.messages)
        write and sync (ready.raft_snapshot, ready.entries, ready.hard_state)
        send(ready.messages_after_persist)
        apply(ready.committed_entries)      # node.apply_conf_change for membership changes
        node.advance()

With ``StorageMode.MESSAGES`` the writes go to two local threads as messages, whose responses are
stepped when they are done, and ``advance`` is not called.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.errors import MessageRefused, RefusalReason, invariant
from onceflow_consensus.raft import membership
from onceflow_consensus.raft.confchange import ConfChange, Transition, encode_conf_change
from onceflow_consensus.raft.messages import (
    LOCAL_KINDS,
    LOCAL_THREADS,
    RESPONSE_KINDS,
    Entry,
    EntryKind,
    LogIndex,
    Message,
    MessageKind,
    Term,
    encoded_bytes,
)
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.ready import (
    Ready,
    SoftState,
    applied_report,
    persisted_report,
    storage_append_message,
    storage_apply_message,
)
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.raft.state import RaftState
from onceflow_consensus.raft.step import step, tick

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import HardState, RaftSnapshot
    from onceflow_consensus.raft.progress import Progress
    from onceflow_consensus.raft.stable import StableLog


class Report(Enum):
    """What a driver can tell of a peer it sends to.

    Every snapshot that was sent has to be reported on: if its acknowledgement is lost, the peer
    would be waited for without end. UNREACHABLE is a hint and may be left out.
    """

    UNREACHABLE = "unreachable"
    SNAPSHOT_DELIVERED = "snapshot delivered"
    SNAPSHOT_FAILED = "snapshot failed"


class Status(msgspec.Struct, frozen=True, gc=False):
    """A replica as it sees itself. ``progress`` is filled on a leader, and for reading only."""

    peer_id: PeerId
    term: Term
    vote: PeerId
    commit_index: LogIndex
    applied_index: LogIndex
    last_index: LogIndex
    role: Role
    raft_leader: PeerId
    transferee: PeerId
    uncommitted_bytes: int
    configuration: Configuration
    progress: dict[PeerId, Progress]


class RaftNode:
    """One replica of a group."""

    def __init__(
        self, options: RaftOptions, stable: StableLog, *, applied_index: LogIndex = 0
    ) -> None:
        """Start, or start again, from what ``stable`` holds.

        Args:
            options: see ``RaftOptions``.
            stable: the durable log.
            applied_index: what the state machine holds already; entries up to it are not handed
                out again.

        Raises:
            InvariantViolation: the durable log contradicts itself.
        """
        self.state = RaftState(options, stable, applied_index)
        self._writes_by_ready = options.storage is StorageMode.READY
        self._told_soft_state = self._soft_state
        self._told_hard_state = self.state.hard_state
        self._on_advance: list[Message] = []

    @property
    def _soft_state(self) -> SoftState:
        return SoftState(self.state.raft_leader, self.state.role)

    def tick(self, fresh_timeout_ticks: int) -> None:
        """Let one tick pass; see ``step.tick`` for the argument."""
        tick(self.state, fresh_timeout_ticks)

    def set_election_timeout(self, timeout_ticks: int) -> None:
        """Fix the election timeout of the present period, until role or term change."""
        self.state.election_timeout_ticks = timeout_ticks

    def campaign(self) -> None:
        """Call an election, without waiting for the timeout."""
        step(self.state, Message(MessageKind.HUP, sender=self.state.peer_id))

    def propose(self, *payloads: bytes) -> None:
        """Propose entries, together or not at all.

        Raises:
            ProposalDropped: none is in the log; back off, or go to the leader.
        """
        self._propose(tuple(Entry(data=payload) for payload in payloads))

    def propose_conf_change(self, change: ConfChange, *, as_v1: bool = False) -> None:
        """Propose a change of the membership.

        It takes effect when it is applied. If it does not fit the configuration in force at its
        leader, or another is under way, an empty entry takes its place.

        Args:
            change: what to change.
            as_v1: write the entry in the older form, which holds one operation and is never joint.

        Raises:
            ProposalDropped: it is not in the log; back off, or go to the leader.
        """
        invariant(
            not as_v1 or (len(change.changes) == 1 and change.transition is Transition.AUTO),
            "INV-RAFT-20: the older form holds one operation without a transition",
        )
        kind = EntryKind.CONF_CHANGE if as_v1 else EntryKind.CONF_CHANGE_V2
        self._propose((Entry(kind=kind, data=encode_conf_change(change)),))

    def _propose(self, entries: tuple[Entry, ...]) -> None:
        proposal = Message(MessageKind.PROP, sender=self.state.peer_id, entries=entries)
        step(self.state, proposal)

    def apply_conf_change(self, entry: Entry) -> Configuration | None:
        """Put a committed membership change into force when its entry is applied.

        Returns:
            The configuration; None if a snapshot overtook the entry, see
            ``membership.apply_conf_change``.

        Raises:
            ConfChangeRefused: likewise.
        """
        return membership.apply_conf_change(self.state, entry)

    def step(self, message: Message) -> None:
        """Take a message from a peer, or a response of a local thread.

        Raises:
            MessageRefused: not for us, or contradictory; drop it.
            ProposalDropped, ReadDropped: a request that was passed on to us was not taken.
        """
        if message.sender not in LOCAL_THREADS:
            reason = None
            if message.kind in LOCAL_KINDS:
                reason = RefusalReason.LOCAL_KIND
            elif (
                message.kind in RESPONSE_KINDS and message.sender not in self.state.tracker.progress
            ):
                reason = RefusalReason.UNKNOWN_PEER
            if reason is not None:
                raise MessageRefused(reason, message.kind.value, message.sender)
        step(self.state, message)

    def read_index(self, request_context: bytes) -> None:
        """Ask for an index at which a read is linearizable; it comes as a ``ReadState``.

        A request may be lost like any message: ask again after a time-out.

        Raises:
            ReadDropped: not accepted; back off.
        """
        request = Message(MessageKind.READ_INDEX, entries=(Entry(data=request_context),))
        step(self.state, request)

    def transfer_leadership(self, transferee: PeerId) -> None:
        """Hand leadership to ``transferee``; given up after an election timeout."""
        step(self.state, Message(MessageKind.TRANSFER_LEADER, sender=transferee))

    def forget_leader(self) -> None:
        """Make a follower forget its leader, so that it can give a pre-vote at once."""
        step(self.state, Message(MessageKind.FORGET_LEADER))

    def report(self, peer_id: PeerId, report: Report) -> None:
        """Tell how sending to a peer went. Idempotent; matters on a leader only."""
        is_snapshot = report is not Report.UNREACHABLE
        kind = MessageKind.SNAP_STATUS if is_snapshot else MessageKind.UNREACHABLE
        failed = report is Report.SNAPSHOT_FAILED
        step(self.state, Message(kind, sender=peer_id, rejected=failed))

    def has_ready(self) -> bool:
        """Whether ``ready`` would hold anything."""
        # Asked after every step, and therefore without making any value to compare.
        state = self.state
        unstable = state.log.unstable
        soft, hard = self._told_soft_state, self._told_hard_state
        return bool(
            state.messages
            or state.messages_after_persist
            or state.read_states
            or state.raft_leader != soft.raft_leader
            or state.role is not soft.role
            or state.log.commit_index != hard.commit_index
            or state.term != hard.term
            or state.vote != hard.vote
            or unstable.next_snapshot() is not None
            or unstable.in_progress_offset < unstable.offset + len(unstable.entries)
            or state.cursor.has_next(allow_unstable=self._writes_by_ready)
        )

    def ready(self) -> Ready:
        """Take what is to be done. With ``StorageMode.READY``, call ``advance`` when it is done.

        Raises:
            InvariantViolation: the previous ``Ready`` was not advanced.
        """
        invariant(
            not self._on_advance, "INV-RAFT-11: one Ready is finished before the next is taken"
        )
        state = self.state
        entries = state.log.unstable.next_entries()
        hard_state, soft_state = state.hard_state, self._soft_state
        told = self._told_hard_state
        promises = tuple(state.messages_after_persist)
        received = state.log.unstable.next_snapshot()
        if self._writes_by_ready:
            # A promise to itself is stepped with the advance, which says that it is durable.
            self._on_advance = [item for item in promises if item.to == state.peer_id]
        changed = hard_state if hard_state != told else None
        committed = state.cursor.next_entries(allow_unstable=self._writes_by_ready)
        work = self._storage_work(entries, changed, received, promises, committed)
        ready = Ready(
            messages=tuple(state.messages),
            hard_state=changed,
            entries=entries,
            raft_snapshot=received,
            messages_after_persist=tuple(item for item in promises if item.to != state.peer_id)
            if self._writes_by_ready
            else promises,
            committed_entries=committed,
            read_states=tuple(state.read_states),
            soft_state=soft_state if soft_state != self._told_soft_state else None,
            must_sync=bool(entries)
            or received is not None
            or (hard_state.term, hard_state.vote) != (told.term, told.vote),
            storage_append=work[0],
            storage_apply=work[1],
        )
        self._accept(ready)
        return ready

    def _storage_work(
        self,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        received: RaftSnapshot | None,
        promises: tuple[Message, ...],
        committed: tuple[Entry, ...],
    ) -> tuple[Message | None, Message | None]:
        """Return the messages for the local threads, or keep their reports for ``advance``."""
        state = self.state
        if not self._writes_by_ready:
            return (
                storage_append_message(state, entries, hard_state, received, promises),
                storage_apply_message(state, committed),
            )
        reports = persisted_report(state, received), applied_report(state, committed)
        self._on_advance.extend(item for item in reports if item is not None)
        return None, None

    def _accept(self, ready: Ready) -> None:
        state = self.state
        self._told_soft_state = ready.soft_state or self._told_soft_state
        self._told_hard_state = ready.hard_state or self._told_hard_state
        state.messages = []
        state.messages_after_persist = []
        state.read_states = []
        state.log.unstable.accept_in_progress()
        if ready.committed_entries:
            state.cursor.accept(
                ready.committed_entries[-1].index,
                encoded_bytes(ready.committed_entries),
                allow_unstable=self._writes_by_ready,
            )

    def advance(self) -> None:
        """Tell that everything of the last ``Ready`` is durable, sent and applied.

        Raises:
            InvariantViolation: with ``StorageMode.MESSAGES`` the threads' responses tell it.
        """
        invariant(self._writes_by_ready, "INV-RAFT-11: local threads report by their responses")
        reports, self._on_advance = self._on_advance, []
        for report in reports:
            step(self.state, report)

    @property
    def status(self) -> Status:
        """Return how the replica sees itself."""
        state = self.state
        return Status(
            peer_id=state.peer_id,
            term=state.term,
            vote=state.vote,
            commit_index=state.log.commit_index,
            applied_index=state.cursor.applied_index,
            last_index=state.log.last_index,
            role=state.role,
            raft_leader=state.raft_leader,
            transferee=state.transferee,
            uncommitted_bytes=state.uncommitted_bytes,
            configuration=state.tracker.configuration,
            progress=state.tracker.progress if state.role is Role.LEADER else {},
        )
