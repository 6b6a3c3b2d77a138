"""A simulated group: time, what happens at which moment, and who then has work.

Time stands still while something happens. What is due at the same millisecond happens in an order
drawn by chance; then each replica that was touched does its work. One seed decides everything.
"""

from __future__ import annotations

import random
from collections import Counter
from heapq import heappop, heappush
from typing import TYPE_CHECKING, cast

from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import RaftSnapshot
from onceflow_consensus.raft.node import Report
from onceflow_consensus.testing.simulator.disks import new_disk
from onceflow_consensus.testing.simulator.engines import RULES
from onceflow_consensus.testing.simulator.ledger import Ledger
from onceflow_consensus.testing.simulator.network import Network
from onceflow_consensus.testing.simulator.process import Life
from onceflow_consensus.testing.simulator.replica import Replica
from onceflow_consensus.testing.simulator.surroundings import Observer, Surroundings
from onceflow_consensus.tracing.lines import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.testing.simulator.disks import SimulatedDisk
    from onceflow_consensus.testing.simulator.plan import Plan

_MS = 1000

_FIRST_INDEX = 1
"""The group begins with a snapshot at this index, which names its first members."""

_Event = tuple[int, float, int, "Callable[..., object]", object]


class World:
    """A group with its network and its time.

    now_ms: virtual time. counts: how often what happened. choice: chance, seeded by each action.
    """

    def __init__(
        self,
        plan: Plan,
        observer: Observer | None = None,
        write_trace: Callable[[str], object] | None = None,
    ) -> None:
        setup = self.setup = plan.setup
        self.now_ms = 0
        self.choice = random.Random(plan.seed)  # noqa: S311 - repeatable on purpose
        self.counts: Counter[str] = Counter()
        self.disks: dict[PeerId, SimulatedDisk] = {}
        self.ledger = Ledger(_FIRST_INDEX)
        self.network = Network(setup, self.choice, self.counts, self._let_arrive)
        self.replicas: dict[PeerId, Replica] = {}
        self.asked = 0
        self._events: list[_Event] = []
        self._sequence = 0
        trace = None if write_trace is None else Trace(write_trace, lambda: self.now_ms / _MS)
        self._around = Surroundings(
            setup=setup,
            choice=self.choice,
            counts=self.counts,
            ledger=self.ledger,
            rules=RULES[plan.engine](self.ledger, self.disks, trace),
            network=self.network,
            schedule=self.schedule,
            observer=observer,
        )
        members = configuration_of(frozenset(range(1, setup.voters + 1)))
        begun = RaftSnapshot(_FIRST_INDEX, 1, members, bytes(4))
        self.ledger.applied(0, _FIRST_INDEX, 0, members)
        for peer_id in range(1, setup.voters + setup.spares + 1):
            self.add_replica(begun if peer_id <= setup.voters else None)

    def add_replica(self, begun: RaftSnapshot | None = None) -> PeerId:
        """Start another process, with a state or with an empty disk; return its identity."""
        peer_id = len(self.replicas) + 1
        self.disks[peer_id] = new_disk(self.setup.disk, begun)
        self.replicas[peer_id] = Replica(peer_id, self.disks[peer_id], self._around)
        return peer_id

    def schedule(self, delay_ms: int, happening: Callable[..., object], argument: object) -> None:
        """Let something happen later; it returns the replica that then has work, or None."""
        self._sequence += 1
        event = (self.now_ms + delay_ms, self.choice.random(), self._sequence, happening, argument)
        heappush(self._events, event)

    def pass_time(self, duration_ms: int) -> None:
        """Let everything happen that is due within a time."""
        events = self._events
        count = 0
        end_ms = self.now_ms + duration_ms
        while events and events[0][0] <= end_ms:
            now_ms = self.now_ms = events[0][0]
            busy: dict[int, Replica] = {}
            while events and events[0][0] == now_ms:
                event = heappop(events)
                count += 1
                touched = event[3](event[4])
                if touched is not None:
                    replica = cast("Replica", touched)
                    busy[replica.peer_id] = replica
            for replica in busy.values():
                replica.turn()
        self.now_ms = end_ms
        self.counts["events"] += count

    def _let_arrive(self, message: PeerMessage, delay_ms: int) -> None:
        self.schedule(delay_ms, self._arrives, message)

    def _arrives(self, message: PeerMessage) -> Replica | None:
        network = self.network
        if network.cuts or network.clogs:
            hindered_ms = network.obstacle((message.sender, message.to), self.now_ms)
            if hindered_ms:
                self.schedule(hindered_ms, self._arrives, message)
                return None
            if hindered_ms == 0:
                self.replicas[message.sender].learn_fate(message, Report.SNAPSHOT_FAILED)
                return None
        replica = self.replicas[message.to]
        if replica.life in (Life.RUNNING, Life.PAUSED):
            replica.receive(message)
            self.replicas[message.sender].learn_fate(message, Report.SNAPSHOT_DELIVERED)
            return replica
        self.replicas[message.sender].learn_fate(message, Report.SNAPSHOT_FAILED)
        return None

    @property
    def running(self) -> list[Replica]:
        """Return the replicas that run and are not paused."""
        return [item for item in self.replicas.values() if item.life is Life.RUNNING]

    @property
    def members(self) -> Configuration:
        """Return the configuration at the highest index that anybody applied."""
        return self.ledger.newest_configuration

    def all_leading(self) -> list[Replica]:
        """Return the running replicas that believe that they lead."""
        rules = self._around.rules
        return [item for item in self.running if rules.is_leading(item.peer_id)]

    def leading(self) -> Replica | None:
        """Return the running replica that leads the highest term, None if nobody leads."""
        return max(self.all_leading(), key=lambda item: item.node.status.term, default=None)

    def forget_leader(self, peer_id: PeerId) -> None:
        """Make a replica forget who leads, if its engine can."""
        self._around.rules.forget_leader(peer_id)

    def somebody(self, leading_share: float = 0.4) -> Replica | None:
        """Return a running replica by chance, in a share of the cases the one that leads."""
        if self.choice.random() < leading_share:
            found = self.leading()
            if found is not None:
                return found
        running = self.running
        return self.choice.choice(running) if running else None

    def needed(self) -> Replica | None:
        """Return a running replica whose log another one is adopting, else any by chance."""
        sources = self._around.rules.adopted()
        found = [item for item in self.running if item.peer_id in sources]
        return self.choice.choice(found) if found else self.somebody()

    def lost_members(self) -> list[PeerId]:
        """Return the members whose disk is gone."""
        return [
            peer_id
            for peer_id in sorted(self.members.peer_ids)
            if self.replicas[peer_id].life is Life.LOST
        ]
