"""Workers on a model broker: what happens to processes and their group, and what must hold.

One step is one thing that happens: a worker does something, the group decides, a process dies.
`World.check` holds after every step; `World.settle` proves that progress is possible.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from harness.epoch_worker import (
    PARTITIONS,
    RECORDS,
    Fault,
    ViolationError,
    Worker,
    demand,
)
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.marker import Handover
from onceflow.errors import Fenced
from onceflow.testing.model_broker import ModelBroker

if TYPE_CHECKING:
    from onceflow.ids import Partition


@dataclass
class World:
    """Broker, worker slots with their disks, and what is on its way."""

    worker_class: type[Worker] = Worker
    slots: int = 2
    records: int = RECORDS
    """In each partition."""
    broker: ModelBroker = field(default_factory=ModelBroker)
    in_flight: list[tuple[Any, bool]] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    resolved: list[int] = field(default_factory=list)
    writers: dict[Any, Any] = field(default_factory=dict)
    sends: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        self.disks: list[dict[Partition, set[int]]] = [{} for _ in range(self.slots)]
        self.workers: list[Worker | None] = [None] * self.slots

    # What happens to processes and the group. Each returns whether it could happen.

    def start(self, slot: int) -> bool:
        if self.workers[slot] is not None:
            return False
        self.starts += 1
        self.workers[slot] = self.worker_class(self, slot, self.starts)
        return True

    def crash(self, slot: int, *, end_on_its_way: bool = False) -> bool:
        worker = self.workers[slot]
        if worker is None:
            return False
        if end_on_its_way and worker.job is not None and worker.job[0] == "end":
            self.in_flight.append((worker.producer, True))
            self.writers[worker.own, worker.job[1]] = worker.producer
        self.leave(worker)
        return True

    def leave(self, worker: Worker) -> None:
        self.broker.expel(worker.own)
        self.workers[worker.slot] = None

    def assign(self, slot: int, partitions: frozenset[Partition]) -> bool:
        worker = self.workers[slot]
        free = frozenset(each for each in partitions if each not in self.broker.grants)
        if worker is None or not worker.alive or not free:
            return False
        if worker.revoking or worker.lost_untold:
            return False
        for partition in free:
            membership = self.broker.grant(partition, worker.own)
        number = len(worker.memberships) + 1
        worker.memberships[number] = membership
        worker.handle(ev.Assigned(free, number))
        return True

    def owned(self, worker: Worker) -> frozenset[Partition]:
        grants = self.broker.grants
        return frozenset(each for each in grants if grants[each].member == worker.own)

    def revoke(self, slot: int, partitions: frozenset[Partition]) -> bool:
        worker = self.workers[slot]
        if worker is None or worker.revoking or worker.lost_untold:
            return False
        asked = self.owned(worker) & partitions
        if not asked:
            return False
        worker.revoking = asked
        worker.handle(ev.RevokeRequested(asked))
        return True

    def lose(self, slot: int) -> bool:
        worker = self.workers[slot]
        if worker is None or not self.owned(worker):
            return False
        worker.lost_untold |= self.owned(worker)
        self.broker.expel(worker.own)
        return True

    def tell_lost(self, slot: int) -> bool:
        worker = self.workers[slot]
        if worker is None or not worker.lost_untold or worker.revoking:
            return False
        lost, worker.lost_untold = worker.lost_untold, frozenset()
        worker.handle(ev.Lost(lost))
        return True

    def arrive(self, index: int) -> bool:
        if not self.in_flight:
            return False
        producer, commits = self.in_flight.pop(index % len(self.in_flight))
        try:
            self.broker.end_transaction(producer, commits=commits)
        except Fenced:
            self.log.append((producer, "its late EndTxn is fenced"))
        return True

    def expire(self, index: int) -> bool:
        ids = sorted(self.broker.transactions)
        if not ids:
            return False
        self.broker.expire_transaction(ids[index % len(ids)])
        return True

    def open_all(self) -> None:
        """Two workers with a partition each, both open."""
        for slot, partition in enumerate(PARTITIONS):
            self.start(slot)
            self.assign(slot, frozenset([partition]))
            worker = self.workers[slot]
            while worker is not None and (worker.step_takeover() or worker.step_job()):
                self.check()

    # What must hold.

    def visible(self, partition: Partition) -> set[int]:
        return {each[2] for each in self.broker.records if each[:2] == ("out", partition)}

    def check(self) -> None:
        for partition in PARTITIONS:
            outputs = sorted(
                each[2] for each in self.broker.records if each[:2] == ("out", partition)
            )
            committed = self.broker.committed_offset(partition)
            demand(
                outputs == list(range(committed)),
                "INV-EPOCH-1..3: outputs are not those of the records below the committed offset",
                partition=partition,
                outputs=outputs,
                committed=committed,
            )
            for disk in self.disks:
                ahead = {each for each in disk.get(partition, ()) if each >= committed}
                demand(not ahead, "INV-STATE-1: store ahead of Kafka", ahead=ahead)
        sends = [each[1] for each in self.broker.records if each[0] == "send"]
        demand(len(sends) == len(set(sends)), "a send is visible twice", sends=sends)
        demand(set(self.resolved) <= set(sends), "a resolved send is not visible")

    def check_claim(self, before: dict[Partition, Any], worker: Worker) -> None:
        """A claim just committed: who wrote the last marker unreleased was fenced after that."""
        if worker.machine.state is not EpochState.CLAIMING:
            return
        for partition, marker in before.items():
            if marker is None or marker.incarnation == worker.own:
                continue
            writer = self.writers[marker.incarnation, marker.commit_epoch]
            demand(
                marker.released is Handover.RELEASED or self.broker.is_fenced(writer),
                "INV-TAKEOVER-4: claimed before the earlier owner was fenced",
                partition=partition,
                owner=marker.incarnation,
            )

    def story(self) -> str:
        """What happened, one event or effect a line."""
        return "\n".join(" ".join(str(part) for part in entry) for entry in self.log)

    def settle(self) -> None:
        """Without further faults everything is processed, committed and closed."""
        while self.in_flight:
            self.arrive(0)
            self.check()
        alive = {worker.own for worker in self.workers if worker is not None}
        for transactional_id in list(self.broker.transactions):
            if transactional_id.split(".")[1] not in alive:
                self.broker.expire_transaction(transactional_id)
        for _ in range(400):
            if self._settle_round():
                break
        else:
            raise ViolationError("no progress")
        self.check_at_rest()

    def check_at_rest(self) -> None:
        demand(not self.broker.transactions, "a transaction stays open for ever")

    def _settle_round(self) -> bool:
        for slot in range(self.slots):
            self.start(slot)
            self.tell_lost(slot)
            worker = self.workers[slot]
            if worker is None:
                continue
            free = frozenset(PARTITIONS) - self.broker.grants.keys()
            if free:
                self.assign(slot, frozenset([min(free)]))
            for _ in range(30):
                # Bounded: a zombie that nobody told yet claims in vain for ever.
                if self.workers[slot] is not worker or not worker.step_by_itself():
                    break
                self.check()
            if self.workers[slot] is not worker:
                continue
            for partition in PARTITIONS:
                worker.begin_record(partition)
            if worker.machine.state is EpochState.OPEN:
                worker.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
            self.check()
        return self.is_settled()

    def is_excused(self, effect: Any) -> bool:
        """Whether a worker may leave with exit code 4 without a marker that proves why."""
        return False

    def is_settled(self) -> bool:
        idle = {EpochState.OPEN, EpochState.DRAINING, EpochState.UNASSIGNED}
        return all(
            self.broker.committed_offset(each) == self.records for each in PARTITIONS
        ) and all(
            worker is not None
            and worker.machine.state in idle
            and not (worker.sent or worker.unfinished)
            for worker in self.workers
        )


def random_step(world: World, random: Any) -> None:
    """One thing happens; faults are as likely as in a bad night."""
    slot = random.randrange(world.slots)
    worker = world.workers[slot]
    if worker is None:
        world.start(slot)
        return
    some = frozenset(random.choice([PARTITIONS, PARTITIONS[:1], PARTITIONS[1:]]))
    job = worker.job[0] if worker.job is not None else ""
    faults = worker.faults.get(job, (Fault.NONE,))
    fault = random.choice(faults) if random.random() < 0.25 else Fault.NONE
    if world.in_flight and random.random() < 0.06:
        world.arrive(random.randrange(4))
        return
    kind = random.random()
    if kind < 0.45:
        worker.step_job(fault) or worker.step_takeover()
    elif kind < 0.57:
        worker.begin_record(random.choice(PARTITIONS))
    elif kind < 0.72:
        worker.finish_record(random.randrange(4))
    elif kind < 0.82:
        worker.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    elif kind < 0.87:
        world.assign(slot, some)
    else:
        _rare_step(world, worker, some, random)


def _rare_step(world: World, worker: Worker, some: frozenset[Partition], random: Any) -> None:
    slot, index = worker.slot, random.randrange(4)
    happen = random.choice(
        [
            lambda: world.crash(slot, end_on_its_way=index % 2 == 0),
            lambda: world.revoke(slot, some),
            lambda: world.revoke(slot, some),
            lambda: worker.handle(ev.RevokeTimedOut()),
            lambda: world.lose(slot),
            lambda: world.lose(slot),
            lambda: world.tell_lost(slot),
            lambda: world.arrive(index),
            lambda: world.expire(index),
            lambda: worker.fail_record(index) if index else worker.handle(ev.StopRequested()),
            worker.timer_send,
            worker.note_attempt,
        ]
    )
    happen()


def run(seed: int, steps: int, worker_class: type[Worker] = Worker, slots: int = 2) -> World:
    """One random life; the same seed repeats it exactly."""
    random = Random(seed)
    world = World(worker_class, slots)
    if seed % 4:
        world.open_all()
    for _ in range(steps):
        random_step(world, random)
        world.check()
    world.settle()
    return world
