"""The loop of a member: drives the engine's door and does what each ``Ready`` asks.

Theory of operation. Whatever happens (a request, a message, a durable write, a tick) changes the
engine or a queue and calls ``wake``. Once per turn of the asyncio loop everything that happened is
carried on together: commands are proposed as one entry, one write goes to each peer and to each
client, one request to the disk. There is no task and no future per request.

What makes promises safe: the engine hands a promise out with the write that it rests on, and the
write queue returns it when that is durable. A commit index alone is not written: it is learned
again. Committed entries are applied in this loop, and reported to the engine at once.

While the own disk does not answer, the member is *muted* after a bound: it sends nothing, so that
it can neither lead nor hold an election up with a disk that stands still.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.errors import (
    ConfChangeRefused,
    MessageRefused,
    ProposalDropped,
    ReadDropped,
)
from onceflow_consensus.limits import COMMIT_NOTICE_MS, DISK_STALL_MS
from onceflow_consensus.raft.confchange import decode_conf_change
from onceflow_consensus.raft.messages import EntryKind
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.sessions import LogClock
from onceflow_consensus.storage import WriteRequest
from onceflow_consensus.transport.requests import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry
    from onceflow_consensus.raft.node import Report
    from onceflow_consensus.raft.ready import SoftState
    from onceflow_consensus.replica import PeerMessage, Replica, ReplicaReady
    from onceflow_consensus.server.member import Member

_MS = 1000

_TIMER_S = 0.001
"""How early a timer may fire: the loop's clock counts milliseconds."""


class Driver:
    """Runs one member; the parts are in ``Member``."""

    def __init__(self, member: Member, replica: Replica) -> None:
        self._member = member
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._is_awake = False
        self._is_stopped = False
        self._log_clock = LogClock(0, 0)
        self._random = random.Random()  # noqa: S311 - spreads timeouts, protects nothing
        self._tick_timer: asyncio.TimerHandle | None = None
        self._notice_timer: asyncio.TimerHandle | None = None
        self.role = Role.FOLLOWER
        self.raft_leader: PeerId = 0

    @property
    def replica(self) -> Replica:
        """Return the engine. Call ``wake`` after changing it."""
        return self._replica

    def start(self) -> None:
        """Begin to tick."""
        self._tick_timer = self._loop.call_later(self._tick_s, self._tick)
        self.wake()

    def stop(self) -> None:
        """Do nothing any more. Idempotent."""
        self._is_stopped = True
        for timer in (self._tick_timer, self._notice_timer):
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Let a turn follow, in which everything that happened is carried on."""
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon(self._turn)

    def take_messages(self, messages: list[PeerMessage]) -> None:
        """Step what came from a peer, and carry on at once: peers send bundles, not one by one."""
        if not self._is_stopped:
            self.guard(partial(self._step, messages))

    def _step(self, messages: list[PeerMessage]) -> None:
        replica, counters = self._replica, self._member.counters
        counters.peer_messages_received_total += len(messages)
        for message in messages:
            try:
                replica.step(message)
            except MessageRefused:
                counters.peer_messages_refused_total += 1
            except (ProposalDropped, ReadDropped):
                # A request that a peer passed on; the peer's own time-out tells who asked it.
                counters.proposals_dropped_total += 1
        self._carry_on_unless_due()

    def take_durable(self, promises: tuple[PeerMessage, ...]) -> None:
        """Deliver promises whose writes are durable: to the engine itself, or to peers."""
        links, own_id = self._member.links, self._member.options.peer_id
        for promise in promises:
            if promise.to == own_id:
                self._replica.step(promise)
            else:
                links.queue(promise)

    def take_written(self, deliver: Callable[[], None]) -> None:
        """Let ``deliver`` hand over what became durable, and carry on at once."""
        if not self._is_stopped:
            self.guard(deliver)
            self.guard(self._carry_on_unless_due)

    def take_alone(self) -> None:
        """Carry on at once with requests that nothing else will join in this turn."""
        if not self._is_stopped:
            self.guard(self._carry_on_unless_due)

    def _carry_on_unless_due(self) -> None:
        if not self._is_awake and not self._is_stopped:
            self._carry_on()

    def report(self, peer_id: PeerId, report: Report) -> None:
        """Tell the engine how sending to a peer went."""
        if not self._is_stopped:
            self.guard(partial(self._replica.report, peer_id, report))
            self.wake()

    @property
    def _tick_s(self) -> float:
        return self._member.options.timing.tick_ms / _MS

    @property
    def _now_ms(self) -> int:
        return int(self._loop.time() * _MS)

    def _tick(self) -> None:
        self.guard(self._let_tick_pass)

    def _let_tick_pass(self) -> None:
        member = self._member
        self._tick_timer = self._loop.call_later(self._tick_s, self._tick)
        election_ticks = member.options.timing.election_ticks
        self._replica.tick(election_ticks + self._random.randrange(election_ticks))
        member.reads.tick()
        member.administration.tick()
        is_stalled = member.writes.oldest_wait_s > DISK_STALL_MS / _MS
        if is_stalled and not member.links.is_muted:
            member.counters.disk_stalls_total += 1
        member.links.is_muted = is_stalled
        self.wake()

    def _turn(self) -> None:
        self._is_awake = False
        if not self._is_stopped:
            self.guard(self._carry_on)

    def guard(self, action: Callable[[], None]) -> None:
        """Do something for the member; whatever it raises stops the member.

        The loop's callbacks have nobody above them, and a member that lost its thread must not
        go on voting.
        """
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the root of the member's loop
            self._member.fail(error)

    def _carry_on(self) -> None:
        member, replica = self._member, self._replica
        member.counters.turns_total += 1
        member.proposals.propose(replica, self._log_clock.stamp(self._now_ms))
        member.reads.begin_round(replica)
        while replica.has_ready():
            self._take(replica.ready())
        member.links.flush()
        member.outbox.flush()
        if self._notice_timer is None:
            self._expect_notice()

    def _expect_notice(self) -> None:
        """See to it that a commit index is told although no entries follow it."""
        oldest_s = self._member.links.oldest_deferred_s
        if oldest_s is not None:
            due_s = oldest_s + COMMIT_NOTICE_MS / _MS
            self._notice_timer = self._loop.call_at(due_s, self._give_notice)

    def _give_notice(self) -> None:
        # Of those that wait most began to do so after the timer was set. They are left to wait:
        # under load entries take each of them along, and no notice is ever sent.
        self._notice_timer = None
        links = self._member.links
        links.release_deferred(self._loop.time() - COMMIT_NOTICE_MS / _MS + _TIMER_S)
        links.flush()
        self._expect_notice()

    def _take(self, ready: ReplicaReady) -> None:
        member = self._member
        if ready.soft_state is not None:
            self._take_soft_state(ready.soft_state)
        for message in ready.messages:
            if message.raft_snapshot is not None:
                member.snapshots.send(message)
            else:
                member.links.queue(message)
        if ready.storage_append is not None:
            if ready.must_sync:
                # What goes to the followers is written by them while it is written here.
                member.links.flush()
            self._write(ready)
            # What became durable at once is acknowledged before anything is applied.
            member.links.flush()
        for read_state in ready.read_states:
            member.reads.confirmed(read_state.request_context, read_state.index)
        if ready.read_states:
            member.reads.applied(member.data.applied_index)
        if ready.storage_apply is not None:
            self._apply(ready.storage_apply)

    def _take_soft_state(self, soft_state: SoftState) -> None:
        member = self._member
        was_leading = self.role is Role.LEADER
        self.role = soft_state.role
        if soft_state.raft_leader != self.raft_leader:
            self.raft_leader = soft_state.raft_leader
            member.counters.leader_changes_total += 1
            member.reads.refuse_all(Refusal.NOT_LEADER)
            member.administration.take_leader(self.raft_leader)
        member.tell_leader(self.raft_leader)
        if self.role is Role.LEADER and not was_leading:
            member.counters.elections_won_total += 1
            self._log_clock = LogClock(member.data.state.log_time_ms, self._now_ms)
        elif was_leading and self.role is not Role.LEADER:
            member.proposals.refuse_all(Refusal.NOT_LEADER)

    def _write(self, ready: ReplicaReady) -> None:
        append = ready.storage_append
        if append is None:
            return
        writes = self._member.writes
        if not ready.must_sync:
            writes.deliver_in_order(append.responses)
            return
        received = ready.raft_snapshot
        request = WriteRequest(
            entries=ready.entries, hard_state=ready.hard_state, raft_snapshot=received
        )
        then = None if received is None else partial(self._member.install, received)
        writes.submit(request, append.responses, then)

    def _apply(self, work: PeerMessage) -> None:
        member = self._member
        for entry in work.entries:
            if entry.kind is EntryKind.NORMAL:
                outcomes = member.data.state.apply(entry.index, entry.data)
                member.proposals.applied(entry.index, entry.term, outcomes)
            elif not self._apply_conf_change(entry):
                # The state is about to be replaced by a snapshot that reflects the rest.
                break
            member.data.applied_index = entry.index
            member.counters.entries_applied_total += 1
            member.administration.applied(entry)
        # Clients need not wait for what is noted of it here.
        member.outbox.flush()
        member.snapshots.applied(work.entries)
        for response in work.responses:
            self._replica.step(response)
        member.reads.applied(member.data.applied_index)

    def _apply_conf_change(self, entry: Entry) -> bool:
        """Apply a membership change; False if a snapshot that was received overtook it."""
        member = self._member
        try:
            configuration = self._replica.apply_conf_change(entry)
        except ConfChangeRefused:
            # Refused on every member alike, so that it counts as applied.
            configuration = self._replica.status.configuration
        else:
            if configuration is None:
                return False
            member.data.apply_change(decode_conf_change(entry.data))
        member.take_configuration(configuration)
        return True
