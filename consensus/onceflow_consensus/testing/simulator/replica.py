"""A simulated replica at work, driven as a server drives it.

It takes a ``Ready``, sends, writes, waits for its disk, sends what rests on the write, applies and
advances; with local threads the writer gathers requests while it waits. Between any two of these
steps it may crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import EMPTY_HARD_STATE, HardState
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import StorageMode
from onceflow_consensus.storage.durable_log import WriteRequest
from onceflow_consensus.testing.simulator.ledger import Property, Violation
from onceflow_consensus.testing.simulator.process import CrashedError, CrashPoint, Life, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onceflow_consensus.raft.messages import LogIndex
    from onceflow_consensus.replica import PeerMessage, ReplicaReady

_THREAD_DELAYS_MS = (0, 0, 0, 1, 3)
_CRASH_SHARE = 0.2
_MAX_ROUNDS = 1000


class Replica(Process):
    """A process of a simulated group at work."""

    def begin_work(self) -> None:
        """Forget the work of an earlier life."""
        self._uses_threads = self.around.setup.storage is StorageMode.MESSAGES
        self._waiting: ReplicaReady | None = None
        self._to_write: list[PeerMessage] = []
        self._being_written: list[PeerMessage] = []
        self._to_apply: list[PeerMessage] = []

    def turn(self) -> None:
        """Do everything that there is to do at this moment."""
        if self.life is not Life.RUNNING:
            return
        self.guarded(self._work)

    def _work(self) -> None:
        node = self.node
        around = self.around
        rounds = 0
        while self._waiting is None and node.has_ready():
            rounds += 1
            if rounds > _MAX_ROUNDS:
                raise Violation(
                    Property.COMES_TO_REST, f"{self.peer_id} still has work after {rounds} rounds"
                )
            ready = node.ready()
            if around.observer is not None:
                around.observer.readied(node, ready)
            entries = ready.entries
            if entries:
                around.ledger.held(
                    self.peer_id, entries, around.rules.term_before(self.peer_id, entries[0].index)
                )
            for read in ready.read_states:
                around.counts["reads confirmed"] += 1
                around.ledger.answered(self.peer_id, read.request_context, read.index)
            if ready.messages:
                self._send(ready.messages)
            if self._uses_threads:
                self._hand_to_threads(ready)
            else:
                self._begin(ready)

    def _send(self, messages: Sequence[PeerMessage]) -> None:
        around = self.around
        for message in messages:
            around.rules.promise(message, self.disk)
        if around.observer is not None:
            for message in messages:
                around.observer.sent(self.node, message)
        ordinary = messages
        if any(message.raft_snapshot is not None for message in messages):
            ordinary = [message for message in messages if self._is_worth_sending(message)]
        for message in around.network.send(ordinary):
            self.learn_fate(message, Report.SNAPSHOT_FAILED)

    def _is_worth_sending(self, message: PeerMessage) -> bool:
        """Hold back a snapshot from before its receiver was added, and take one of today."""
        received = message.raft_snapshot
        if received is None or message.to in received.configuration.peer_ids:
            return True
        self.learn_fate(message, Report.SNAPSHOT_FAILED)
        self.compact(0)
        return False

    def _crash_if_armed(self, point: CrashPoint, *requests: WriteRequest) -> None:
        if self.armed is point:
            self.around.counts[f"crashes {point.value}"] += 1
            self.crash(list(requests))
            raise CrashedError

    def _crash_while_installing(self, requests: list[WriteRequest]) -> None:
        """Crash in a share of the writes that replace the log: they take the most steps."""
        is_installing = any(request.raft_snapshot is not None for request in requests)
        if is_installing and self.fuzz.random() < _CRASH_SHARE:
            self.around.counts["crashes while a snapshot is installed"] += 1
            self.crash(requests)
            raise CrashedError

    # Storage written by ``Ready``.

    def _begin(self, ready: ReplicaReady) -> None:
        if ready.entries or ready.hard_state is not None or ready.raft_snapshot is not None:
            request = WriteRequest(ready.entries, ready.hard_state, ready.raft_snapshot)
            self._crash_if_armed(CrashPoint.BEFORE_WRITE)
            self._crash_if_armed(CrashPoint.BEFORE_SYNC, request)
            self._crash_while_installing([request])
            delay_ms = self._write_delay_ms()
            if delay_ms:
                self.unsynced, self._waiting = [request], ready
                self.around.schedule(delay_ms, self._ready_synced, self.incarnation)
                return
            self.persist([request])
        self._finish(ready)

    def _write_delay_ms(self) -> int:
        times_ms = self.around.setup.write_ms
        return times_ms[int(self.fuzz.random() * len(times_ms))] + self.slow_ms

    def _ready_synced(self, incarnation: int) -> Replica | None:
        if incarnation != self.incarnation:
            return None
        if self.life is Life.PAUSED:
            self.late.append((self._ready_synced, incarnation))
            return None
        ready, requests = self._waiting, self.unsynced
        self._waiting, self.unsynced = None, []
        if ready is not None:
            self.guarded(lambda: (self.persist(requests), self._finish(ready)))
        return self

    def _finish(self, ready: ReplicaReady) -> None:
        self._crash_if_armed(CrashPoint.AFTER_SYNC)
        if ready.messages_after_persist:
            self._send(ready.messages_after_persist)
        self._crash_if_armed(CrashPoint.BEFORE_APPLY)
        if ready.committed_entries:
            self.machine.apply(ready.committed_entries)
        self._crash_if_armed(CrashPoint.BEFORE_ADVANCE)
        self.node.advance()
        if self.around.observer is not None:
            self.around.observer.advanced(self.node)
        self.observe()

    # Storage written by messages to two local threads.

    def _hand_to_threads(self, ready: ReplicaReady) -> None:
        if ready.storage_append is not None:
            self._to_write.append(ready.storage_append)
        if ready.storage_apply is not None:
            self._to_apply.append(ready.storage_apply)
            self._wake(self._run_applier)
        if self._to_write and not self._being_written:
            self._begin_batch()

    def _wake(self, thread: Callable[[int], object]) -> None:
        """Let a thread run soon: perhaps only after other things have happened."""
        delay_ms = self.fuzz.choice(_THREAD_DELAYS_MS) + self.slow_ms
        self.around.schedule(delay_ms, thread, self.incarnation)

    def _begin_batch(self) -> None:
        self._being_written, self._to_write = self._to_write, []
        self.unsynced = [_write_request(message) for message in self._being_written]
        self._crash_if_armed(CrashPoint.BEFORE_WRITE)
        self._crash_if_armed(CrashPoint.BEFORE_SYNC, *self.unsynced)
        self._crash_while_installing(self.unsynced)
        self.around.schedule(self._write_delay_ms(), self._batch_synced, self.incarnation)

    def _batch_synced(self, incarnation: int) -> Replica | None:
        if incarnation != self.incarnation:
            return None
        if self.life is Life.PAUSED:
            self.late.append((self._batch_synced, incarnation))
            return None
        self.guarded(self._finish_batch)
        return self

    def _finish_batch(self) -> None:
        requests, self.unsynced = self.unsynced, []
        written, self._being_written = self._being_written, []
        self.persist(requests)
        self._crash_if_armed(CrashPoint.AFTER_SYNC)
        for message in written:
            for response in message.responses:
                if response.to == self.peer_id:
                    self.step(response)
                else:
                    self._send((response,))
        if self._to_write:
            self._begin_batch()

    def _run_applier(self, incarnation: int) -> Replica | None:
        if incarnation != self.incarnation:
            return None
        if self.life is Life.PAUSED:
            self.late.append((self._run_applier, incarnation))
            return None
        work, self._to_apply = self._to_apply, []
        self.guarded(lambda: self._apply_work(work))
        return self

    def _apply_work(self, work: list[PeerMessage]) -> None:
        self._crash_if_armed(CrashPoint.BEFORE_APPLY)
        for message in work:
            self.machine.apply(message.entries)
            self._crash_if_armed(CrashPoint.BEFORE_ADVANCE)
            for response in message.responses:
                self.step(response)

    # Both ways.

    def persist(self, requests: list[WriteRequest]) -> None:
        """Write and sync.

        Raises:
            StorageFailed: the disk was told to fail.
        """
        if self.is_disk_failing:
            self.is_disk_failing = False
            self.disk.fail(requests, self.fuzz)
        else:
            self.disk.persist(requests)
        for request in requests:
            if request.raft_snapshot is not None:
                self.around.counts["snapshots installed"] += 1
                self.machine.restore(request.raft_snapshot)

    def compact(self, kept_entries: int) -> None:
        """Save the machine's state, and drop entries that it covers but for the last few."""
        if self.unsynced or self.machine.index <= self.disk.log.newest_snapshot.index:
            return
        self.guarded(lambda: self._compact(self.machine.index - kept_entries))

    def _compact(self, index: LogIndex) -> None:
        own = WriteRequest(own_snapshot=self.machine.state())
        self._crash_if_armed(CrashPoint.BEFORE_SYNC, own)
        self.persist([own])
        self.around.counts["snapshots taken"] += 1
        log = self.disk.log
        compaction = log.compaction_to(min(index, self.node.status.applied_index))
        self._crash_if_armed(CrashPoint.BEFORE_WRITE, compaction)
        self.persist([compaction])


def _write_request(message: PeerMessage) -> WriteRequest:
    hard_state = HardState(message.term, message.vote, message.commit_index)
    return WriteRequest(
        message.entries,
        hard_state if hard_state != EMPTY_HARD_STATE else None,
        message.raft_snapshot,
    )
