"""One simulated process: its life, its clock, its letter box and its crashes.

A process can be paused, can crash at any moment, and starts again from what its disk holds. What
it does while it runs is said in ``replica``.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.errors import (
    ConfChangeRefused,
    ConsensusError,
    StorageError,
    StorageFailed,
)
from onceflow_consensus.testing.simulator.ledger import Property, Violation
from onceflow_consensus.testing.simulator.machine import Machine
from onceflow_consensus.testing.simulator.surroundings import TICK_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry
    from onceflow_consensus.raft.node import Report
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.storage.durable_log import WriteRequest
    from onceflow_consensus.testing.simulator.disks import SimulatedDisk
    from onceflow_consensus.testing.simulator.surroundings import Surroundings

_MAX_DOWN_MS = 60
_FOUND_AFTER_MS = (0, 1, 2, 4, 8)
_IN_ORDER_SHARE = 0.5


class Life(Enum):
    """Whether a process runs. LOST: its disk is gone or damaged, it never comes back."""

    RUNNING = "running"
    PAUSED = "paused"
    DOWN = "down"
    LOST = "lost"


class CrashPoint(Enum):
    """Where in its work a process crashes."""

    BEFORE_WRITE = "before a write"
    BEFORE_SYNC = "between write and sync"
    AFTER_SYNC = "after the sync, before anything that rests on it is sent"
    BEFORE_APPLY = "after sending, before applying"
    BEFORE_ADVANCE = "after applying, before telling so"


class CrashedError(Exception):
    """A crash that was armed has happened; unwinds the work of the process."""


class Process:
    """What a replica runs in.

    life: see ``Life``. ``incarnation`` grows with every crash, so that events of a past life are
    known as such.
    armed: where it crashes when it gets there. is_disk_failing: the next write fails.
    inbox: what arrived while it was paused. late: what its disk or its threads did meanwhile.
    unsynced: what is being written, of which a crash may keep anything.
    tick_ms: time between its ticks; its clock drifts when that is not the group's.
    slow_ms: what a write takes in addition.
    """

    def __init__(self, peer_id: PeerId, disk: SimulatedDisk, around: Surroundings) -> None:
        self.peer_id = peer_id
        self.disk = disk
        self.around = around
        self.fuzz = around.choice
        self.incarnation = 0
        self.tick_ms = TICK_MS
        self.slow_ms = 0
        self.start()

    def start(self) -> None:
        """Start from what the disk holds."""
        around = self.around
        self.life = Life.RUNNING
        begun = self.disk.log.newest_snapshot
        self.machine = Machine(self.peer_id, around.ledger, self._reconfigure, begun)
        self.armed: CrashPoint | None = None
        self.is_disk_failing = False
        self.inbox: list[PeerMessage] = []
        self.late: list[tuple[Callable[..., object], object]] = []
        self.unsynced: list[WriteRequest] = []
        self.begin_work()
        self.node = around.rules.start(
            self.peer_id, around.setup, self.disk.log, self.machine.index
        )
        if around.observer is not None:
            around.observer.started(self.node)
        around.schedule(self.fuzz.randint(1, self.tick_ms), self.tick, self.incarnation)

    def begin_work(self) -> None:
        """Forget the work of an earlier life."""

    def turn(self) -> None:
        """Do everything that there is to do at this moment."""

    def tick(self, incarnation: int) -> Process | None:
        """Let the clock tick, and wait for its next tick."""
        if incarnation != self.incarnation:
            return None
        self.around.schedule(self.tick_ms, self.tick, incarnation)
        if self.life is Life.PAUSED:
            return None
        self.tick_once()
        return self

    def tick_once(self) -> None:
        """Let the clock tick."""
        election_ticks = self.around.setup.election_ticks
        self.node.tick(election_ticks + int(self.fuzz.random() * election_ticks))
        if self.around.observer is not None:
            self.around.observer.ticked(self.node)
        self.observe()

    def receive(self, message: PeerMessage) -> None:
        """Take a message from the network, or keep it while paused."""
        if self.life is Life.PAUSED:
            self.inbox.append(message)
        elif self.life is Life.RUNNING:
            self.step(message)

    def _find(self, message: PeerMessage) -> Process:
        """Take a message that had come during a pause."""
        self.receive(message)
        return self

    def step(self, message: PeerMessage) -> None:
        """Hand a message to the engine, which may refuse it."""
        try:
            self.node.step(message)
        except ConsensusError:
            self.around.counts["messages refused"] += 1
        if self.around.observer is not None:
            self.around.observer.stepped(self.node, message)
        self.observe()

    def observe(self) -> None:
        """Check the replica after an event."""
        self.around.rules.observe(self.peer_id)

    def resume(self, incarnation: int) -> Process | None:
        """Let a stopped process go on: it finds what it missed one after the other."""
        if incarnation != self.incarnation or self.life is not Life.PAUSED:
            return None
        self.life = Life.RUNNING
        inbox, self.inbox = self.inbox, []
        late, self.late = self.late, []
        is_in_order = self.fuzz.random() < _IN_ORDER_SHARE
        for position, message in enumerate(inbox):
            delay_ms = position if is_in_order else self.fuzz.choice(_FOUND_AFTER_MS)
            self.around.schedule(delay_ms, self._find, message)
        for done, argument in late:
            done(argument)
        return self

    def crash(self, requests: list[WriteRequest] | None = None) -> None:
        """Lose everything that is not durable; of what is being written, anything may be kept."""
        requests = self.unsynced if requests is None else requests
        around = self.around
        self.life = Life.DOWN
        self.incarnation += 1
        around.counts["crashes"] += 1
        if requests:
            around.counts["crashes between write and sync"] += 1
        if around.observer is not None:
            around.observer.crashed(self.peer_id)
        try:
            self.disk.crash(requests, self.fuzz)
        except StorageError as error:
            raise Violation(
                Property.STARTS_AGAIN, f"{self.peer_id} cannot read its disk: {error}"
            ) from error
        self.unsynced = []
        if self.disk.torn_bytes:
            around.counts["torn tails"] += 1

    def restart(self, incarnation: int) -> Process | None:
        """Start again after a crash."""
        if incarnation != self.incarnation or self.life is not Life.DOWN:
            return None
        self.around.counts["restarts"] += 1
        self.start()
        return self

    def learn_fate(self, message: PeerMessage, report: Report) -> None:
        """Let this replica hear what became of a message that brought a state."""
        around = self.around
        if message.raft_snapshot is not None:
            told = (self.incarnation, message.to, report)
            around.schedule(self.fuzz.randint(2, 20), self.hear, told)

    def hear(self, told: tuple[int, PeerId, Report]) -> Process | None:
        """Take a report on a peer."""
        incarnation, peer_id, report = told
        if incarnation != self.incarnation:
            return None
        if self.life is Life.PAUSED:
            self.late.append((self.hear, told))
            return None
        self.node.report(peer_id, report)
        self.observe()
        return self

    def guarded(self, work: Callable[[], object]) -> None:
        """Do something that may end in a crash."""
        try:
            work()
        except CrashedError:
            self.around.schedule(self.fuzz.randint(1, _MAX_DOWN_MS), self.restart, self.incarnation)
        except StorageFailed:
            self.around.counts["disk failures"] += 1
            self.crash([])
            self.around.schedule(self.fuzz.randint(1, _MAX_DOWN_MS), self.restart, self.incarnation)

    def _reconfigure(self, entry: Entry) -> Configuration | None:
        try:
            changed = self.node.apply_conf_change(entry)
        except ConfChangeRefused as refused:
            raise Violation(Property.CONFIGURATION, f"{entry} is committed: {refused}") from refused
        if changed is not None:
            self.around.counts["membership changes applied"] += 1
            if self.around.observer is not None:
                self.around.observer.reconfigured(self.node)
        self.observe()
        return changed
