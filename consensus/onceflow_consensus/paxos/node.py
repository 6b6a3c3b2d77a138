"""The door of the Paxos engine: events in, ``PaxosReady`` out.

It is driven exactly as ``raft/node.py`` says; ``onceflow_consensus.replica`` describes what both
engines have in common.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import InvalidOptions, MessageRefused, RefusalReason, invariant
from onceflow_consensus.paxos import learner
from onceflow_consensus.paxos.messages import (
    FROM_MEMBERS,
    LOCAL_KINDS,
    PaxosKind,
    PaxosMessage,
)
from onceflow_consensus.paxos.proposer import take_over
from onceflow_consensus.paxos.ready import (
    PaxosReady,
    append_work,
    applied_report,
    apply_work,
    persisted_report,
)
from onceflow_consensus.paxos.roles import SHOWN_ROLES, Phase
from onceflow_consensus.paxos.state import PaxosState
from onceflow_consensus.paxos.step import step, tick
from onceflow_consensus.paxos.synchronising import handle_snapshot_report, handle_unreachable
from onceflow_consensus.raft.confchange import ConfChange, encode_conf_change
from onceflow_consensus.raft.messages import (
    LOCAL_THREADS,
    Entry,
    EntryKind,
    LogIndex,
    encoded_bytes,
)
from onceflow_consensus.raft.node import Report, Status
from onceflow_consensus.raft.options import ReadMode, StorageMode
from onceflow_consensus.raft.ready import SoftState

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import HardState, RaftSnapshot
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog


class PaxosNode:
    """One replica of a group that runs Paxos."""

    def __init__(
        self, options: RaftOptions, stable: StableLog, *, applied_index: LogIndex = 0
    ) -> None:
        """Start, or start again, from what ``stable`` holds.

        Args:
            options: as for Raft. ``pre_vote``, ``check_quorum``, ``step_down_on_removal`` and
                ``refusals_tell_commit`` are what this engine always does, and cannot be switched
                off; leases do not exist.
            stable: the durable log.
            applied_index: what the state machine holds already; entries up to it are not handed
                out again.

        Raises:
            InvalidOptions: an option asks for what this engine cannot do.
            InvariantViolation: the durable log contradicts itself.
        """
        if options.read_mode is ReadMode.LEASE:
            raise InvalidOptions("the Paxos engine has no lease reads; choose read_mode SAFE")
        self.state = PaxosState(options, stable, applied_index)
        self._writes_by_ready = options.storage is StorageMode.READY
        self._told_soft_state: SoftState = self._soft_state
        self._told_hard_state: HardState = self.state.hard_state
        self._on_advance: list[PaxosMessage] = []

    @property
    def _soft_state(self) -> SoftState:
        return SoftState(self.state.followed, SHOWN_ROLES[self.state.phase])

    def tick(self, fresh_timeout_ticks: int) -> None:
        """Let one tick pass; see ``step.tick`` for the argument."""
        tick(self.state, fresh_timeout_ticks)

    def campaign(self) -> None:
        """Take a ballot, without waiting for the timeout, unless this replica leads already."""
        if self.state.phase is not Phase.ACCEPT:
            take_over(self.state)

    def propose(self, *payloads: bytes) -> None:
        """Propose entries, together or not at all.

        Raises:
            ProposalDropped: none is in the log; back off, or go to the leader.
        """
        self._propose(*(Entry(data=payload) for payload in payloads))

    def propose_conf_change(self, change: ConfChange) -> None:
        """Propose a change of the membership, which seals the log until it is applied.

        If it does not fit the configuration in force at the leader, an empty entry takes its
        place.

        Raises:
            ProposalDropped: it is not in the log; back off, or go to the leader.
        """
        self._propose(Entry(kind=EntryKind.CONF_CHANGE_V2, data=encode_conf_change(change)))

    def _propose(self, *entries: Entry) -> None:
        own_id = self.state.peer_id
        step(self.state, PaxosMessage(PaxosKind.PROPOSE, own_id, entries=entries))

    def apply_conf_change(self, entry: Entry) -> Configuration | None:
        """Put a decided membership change into force when its entry is applied.

        Returns:
            The configuration; None if a snapshot overtook the entry, see
            ``learner.apply_conf_change``.

        Raises:
            ConfChangeRefused: likewise.
        """
        return learner.apply_conf_change(self.state, entry)

    def step(self, message: PaxosMessage) -> None:
        """Take a message from a peer, or the report of a local thread.

        Raises:
            MessageRefused: not for us, or contradictory; drop it.
            ProposalDropped, ReadDropped: a request that was passed on to us was not taken.
        """
        kind, sender = message.kind, message.sender
        if sender not in LOCAL_THREADS and kind in LOCAL_KINDS:
            raise MessageRefused(RefusalReason.LOCAL_KIND, kind.value, sender)
        if kind in FROM_MEMBERS and sender not in self.state.tracker.progress:
            raise MessageRefused(RefusalReason.UNKNOWN_PEER, kind.value, sender)
        step(self.state, message)

    def read_index(self, request_context: bytes) -> None:
        """Ask for an index at which a read is linearizable; it comes as a ``ReadState``.

        A request may be lost like any message: ask again after a time-out.

        Raises:
            ReadDropped: not accepted; back off.
        """
        step(self.state, PaxosMessage(PaxosKind.READ_INDEX, context=request_context))

    def transfer_leadership(self, transferee: PeerId) -> None:
        """Hand the lead to ``transferee``; given up after an election timeout."""
        step(self.state, PaxosMessage(PaxosKind.TRANSFER_LEADER, transferee))

    def report(self, peer_id: PeerId, report: Report) -> None:
        """Tell how sending to a peer went. Idempotent; matters on a leader only."""
        if report is Report.UNREACHABLE:
            handle_unreachable(self.state, peer_id)
            return
        is_delivered = report is Report.SNAPSHOT_DELIVERED
        handle_snapshot_report(self.state, peer_id, is_delivered=is_delivered)

    def has_ready(self) -> bool:
        """Whether ``ready`` would hold anything."""
        # Asked after every step, and therefore without making any value to compare.
        state = self.state
        unstable, ballot = state.log.unstable, state.promised
        soft, hard = self._told_soft_state, self._told_hard_state
        is_to_write = (
            state.log.commit_index != hard.commit_index
            or (ballot.number, ballot.owner) != (hard.term, hard.vote)
            or unstable.in_progress_offset < unstable.offset + len(unstable.entries)
            or unstable.next_snapshot() is not None
        )
        return (
            is_to_write
            or bool(state.messages or state.messages_after_persist or state.read_states)
            or (state.followed, SHOWN_ROLES[state.phase]) != (soft.raft_leader, soft.role)
            or state.cursor.has_next(allow_unstable=self._writes_by_ready)
        )

    def ready(self) -> PaxosReady:
        """Take what is to be done. With ``StorageMode.READY``, call ``advance`` when it is done.

        Raises:
            InvariantViolation: the previous one was not advanced.
        """
        invariant(not self._on_advance, "INV-PAXOS-9: a Ready is finished before the next")
        state, told = self.state, self._told_hard_state
        unstable, hard_state, soft_state = state.log.unstable, state.hard_state, self._soft_state
        entries, raft_snapshot = unstable.next_entries(), unstable.next_snapshot()
        promises = tuple(state.messages_after_persist)
        committed = state.cursor.next_entries(allow_unstable=self._writes_by_ready)
        changed = None if hard_state == told else hard_state
        append, apply = None, None
        if self._writes_by_ready:
            promises = self._keep_reports(promises, raft_snapshot, committed)
        else:
            append = append_work(state, changed, entries, raft_snapshot, promises)
            apply = apply_work(state, committed)
        work = PaxosReady(
            messages=tuple(state.messages),
            raft_snapshot=raft_snapshot,
            entries=entries,
            hard_state=changed,
            messages_after_persist=promises,
            committed_entries=committed,
            soft_state=None if soft_state == self._told_soft_state else soft_state,
            read_states=tuple(state.read_states),
            must_sync=raft_snapshot is not None
            or bool(entries)
            or (told.term, told.vote) != (hard_state.term, hard_state.vote),
            storage_append=append,
            storage_apply=apply,
        )
        self._told_soft_state, self._told_hard_state = soft_state, hard_state
        self._clear(committed)
        return work

    def _keep_reports(
        self,
        promises: tuple[PaxosMessage, ...],
        raft_snapshot: RaftSnapshot | None,
        committed: tuple[Entry, ...],
    ) -> tuple[PaxosMessage, ...]:
        """Keep what is stepped with the advance; return the promises that go to others."""
        own_id = self.state.peer_id
        reports = (
            persisted_report(self.state, raft_snapshot),
            applied_report(self.state, committed),
        )
        to_itself = [item for item in promises if item.to == own_id]
        self._on_advance = [*to_itself, *(item for item in reports if item is not None)]
        return tuple(item for item in promises if item.to != own_id)

    def _clear(self, taken: tuple[Entry, ...]) -> None:
        state = self.state
        state.messages, state.messages_after_persist, state.read_states = [], [], []
        state.log.unstable.accept_in_progress()
        if taken:
            size_bytes = encoded_bytes(taken)
            state.cursor.accept(taken[-1].index, size_bytes, allow_unstable=self._writes_by_ready)

    def advance(self) -> None:
        """Tell that everything of the last ``PaxosReady`` is durable, sent and applied.

        Raises:
            InvariantViolation: with ``StorageMode.MESSAGES`` the threads' reports tell it.
        """
        invariant(self._writes_by_ready, "INV-PAXOS-9: local threads report by their messages")
        reports, self._on_advance = self._on_advance, []
        for message in reports:
            step(self.state, message)

    @property
    def status(self) -> Status:
        """Return how the replica sees itself; ``term`` and ``vote`` are the promised ballot."""
        state = self.state
        return Status(
            peer_id=state.peer_id,
            role=SHOWN_ROLES[state.phase],
            raft_leader=state.followed,
            term=state.promised.number,
            vote=state.promised.owner,
            commit_index=state.log.commit_index,
            last_index=state.log.last_index,
            applied_index=state.cursor.applied_index,
            configuration=state.tracker.configuration,
            transferee=state.transferee,
            uncommitted_bytes=state.uncommitted_bytes,
            progress=state.tracker.progress if state.phase is Phase.ACCEPT else {},
        )
