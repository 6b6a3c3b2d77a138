"""A worker on a model broker: performs the effects of commit epochs and takeovers, with faults.

One step is one thing that happens: a record begins or ends, a job answers. What happens to several
workers is `harness.epoch_world`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions import takeover as td
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.takeover import Takeover, TakeoverOptions
from onceflow.errors import Fenced, TransactionAborted
from onceflow.ids import Incarnation, Offset, Partition

if TYPE_CHECKING:
    from harness.epoch_world import World
    from onceflow.testing.model_broker import Membership, Producer

RECORDS = 4
PARTITIONS = (Partition("in", 0), Partition("in", 1))


class ViolationError(AssertionError):
    """A promise is broken: what a mutation test waits for."""


def demand(condition: object, text: str, **facts: object) -> None:
    if not condition:
        raise ViolationError(f"{text} {facts}")


class Fault(StrEnum):
    NONE = "none"
    ANSWER_LOST = "answer_lost"
    DELAYED = "delayed"
    DUPLICATED = "duplicated"
    REFUSED = "refused"
    FATAL = "fatal"


FAULTS: dict[str, tuple[Fault, ...]] = {
    "seal": (Fault.REFUSED,),
    "offsets": (Fault.REFUSED, Fault.FATAL),
    "end": (Fault.ANSWER_LOST, Fault.DELAYED, Fault.DUPLICATED, Fault.REFUSED),
    "abort": (Fault.ANSWER_LOST, Fault.DELAYED),
}
"""What can go wrong with which job."""


@dataclass
class Begun:
    partition: Partition
    offset: int
    stamp: Any


class Worker:
    """One process: everything that a kill takes away."""

    machine_class = CommitEpochs
    takeover_class = Takeover
    faults: ClassVar[dict[str, tuple[Fault, ...]]] = FAULTS

    def __init__(self, world: World, slot: int, start: int) -> None:
        self.world = world
        self.broker = world.broker
        self.slot = slot
        self.own = Incarnation(f"w{slot}s{start}")
        self.machine = self.machine_class(self.own)
        self.takeover: Takeover | None = None
        self.takeover_job: Any = None
        self.assignment = 0
        self.producers = [
            self.broker.init_transactions(self.transactional_id(turn)) for turn in (0, 1)
        ]
        self.turn = 0
        self.memberships: dict[int, Membership] = {}
        self.positions: dict[Partition, int] = {}
        self.gate_open = False
        self.unfinished: list[Begun] = []
        self.overlay: dict[Partition, set[int]] = {}
        self.outbox: list[int] = []
        self.sent: list[int] = []
        self.job: tuple[str, Any] | None = None
        self.to_send: fx.SendOffsets | None = None
        self.revoking: frozenset[Partition] = frozenset()
        self.lost_untold: frozenset[Partition] = frozenset()
        self.in_transaction = False

    def transactional_id(self, turn: int) -> str:
        return f"app.{self.own}.{turn}"

    @property
    def producer(self) -> Producer:
        """Of the transaction that is open or ended last; the two take turns."""
        return self.producers[self.turn]

    @property
    def disk(self) -> dict[Partition, set[int]]:
        return self.world.disks[self.slot]

    @property
    def sent_partitions(self) -> frozenset[Partition]:
        return frozenset(self.to_send.offsets) if self.to_send is not None else frozenset()

    @property
    def alive(self) -> bool:
        return self.machine.state not in (EpochState.STOPPED, EpochState.FAILED)

    def handle(self, event: Any) -> None:
        self.world.log.append((self.own, self.machine.state, event))
        for effect in self.machine.handle(event):
            self.world.log.append(("", effect))
            getattr(self, "do_" + type(effect).__name__)(effect)

    # Effects.

    def do_BeginTakeover(self, effect: fx.BeginTakeover) -> None:
        demand(self.takeover is None, "two takeovers at once")
        demand(not self.gate_open and not self.unfinished, "takeover with work under way")
        self.assignment = effect.assignment
        self.takeover = self.takeover_class(effect.partitions, self.options())
        self.advance_takeover(td.Begin())

    def options(self) -> TakeoverOptions:
        return TakeoverOptions(self.own, td.ResetPolicy.EARLIEST, pending_reads_max=10_000)

    def do_CancelTakeover(self, effect: fx.CancelTakeover) -> None:
        self.takeover = self.takeover_job = None

    def do_BeginTransaction(self, effect: fx.BeginTransaction) -> None:
        demand(not self.in_transaction, "begin within a transaction")
        self.turn = 1 - self.turn
        self.in_transaction = True

    def do_OpenGate(self, effect: fx.OpenGate) -> None:
        demand(self.in_transaction and not self.unfinished, "gate opens without a transaction")
        demand(effect.stamp == self.machine.stamp, "gate opens for an old stamp")
        self.gate_open = True
        while self.outbox and self.gate_open:
            self.send(self.outbox.pop(0))

    def do_CloseGate(self, effect: fx.CloseGate) -> None:
        self.gate_open = False
        self.start_job("drain", None)

    def do_Seal(self, effect: fx.Seal) -> None:
        self.start_job("seal", effect.commit_epoch)

    def do_Flush(self, effect: fx.Flush) -> None:
        pass

    def do_SendOffsets(self, effect: fx.SendOffsets) -> None:
        self.to_send = effect

    def do_CommitTransaction(self, effect: fx.CommitTransaction) -> None:
        self.start_job("offsets", effect.commit_epoch)

    def do_AbortTransaction(self, effect: fx.AbortTransaction) -> None:
        self.job = None if self.job and self.job[0] == "seal" else self.job
        self.start_job("abort", effect.commit_epoch)

    def do_Apply(self, effect: fx.Apply) -> None:
        self.start_job("apply", effect)

    def do_DropAttempt(self, effect: fx.DropAttempt) -> None:
        demand(effect.stamp <= self.machine.stamp, "dropped for a stamp that is not given out")
        if self.job is not None and self.job[0] in ("drain", "seal"):
            self.job = None
        self.unfinished.clear()
        self.overlay.clear()
        if effect.sends is fx.SendsFate.REPEAT:
            self.outbox = [*self.sent, *self.outbox]
        self.sent = []

    def do_Rewind(self, effect: fx.Rewind) -> None:
        self.positions.update(effect.offsets)

    def do_ForgetPartitions(self, effect: fx.ForgetPartitions) -> None:
        demand(not self.gate_open and not self.unfinished, "forgotten with work under way")
        for partition in effect.partitions:
            self.positions.pop(partition, None)
            self.overlay.pop(partition, None)

    def do_FinishRevoke(self, effect: fx.FinishRevoke) -> None:
        for partition in self.revoking:
            grant = self.broker.grants.get(partition)
            if grant is not None and grant.member == self.own:
                self.broker.take_back(partition)
        self.revoking = frozenset()

    def do_ReplaceProducer(self, effect: fx.ReplaceProducer) -> None:
        self.job = None if self.job and self.job[0] in ("drain", "seal") else self.job
        self.in_transaction = False
        self.start_job("replace", None)

    def do_ReadMarkers(self, effect: fx.ReadMarkers) -> None:
        demand(effect.partitions, "nothing to read")
        self.start_job("read", effect.partitions)

    def do_Stop(self, effect: fx.Stop) -> None:
        self.world.leave(self)

    def do_Fail(self, effect: fx.Fail) -> None:
        if effect.exit_code == 4 and not self.world.is_excused(effect):
            named = {self.broker.committed(partition).marker for partition in self.positions}
            demand(
                any(marker is not None and marker.incarnation != self.own for marker in named),
                "exit 4 without proof of another incarnation",
                message=effect.message,
            )
        self.world.leave(self)

    def start_job(self, name: str, argument: Any) -> None:
        demand(self.job is None, "two jobs at once", running=self.job, next=name)
        self.job = (name, argument)

    # What happens by itself.

    def begin_record(self, partition: Partition) -> bool:
        position = self.positions.get(partition)
        if not self.gate_open or position is None or position >= self.world.records:
            return False
        self.positions[partition] = position + 1
        self.unfinished.append(Begun(partition, position, self.machine.stamp))
        return True

    def finish_record(self, index: int) -> bool:
        if not self.unfinished:
            return False
        begun = self.unfinished.pop(index % len(self.unfinished))
        if begun.stamp != self.machine.stamp:
            return True
        self.overlay.setdefault(begun.partition, set()).add(begun.offset)
        self.produce(("out", begun.partition, begun.offset))
        return True

    def fail_record(self, index: int) -> bool:
        if not self.unfinished:
            return False
        begun = self.unfinished[index % len(self.unfinished)]
        self.handle(ev.RecordFailed(begun.stamp))
        return True

    def note_attempt(self) -> None:
        if claimed := self.machine.committed_offsets:
            self.handle(ev.NoteAttempt(min(claimed)))

    def timer_send(self) -> bool:
        if not self.gate_open:
            return False
        self.world.sends += 1
        self.send(self.world.sends)
        return True

    def send(self, number: int) -> None:
        self.sent.append(number)
        self.produce(("send", number))

    def produce(self, record: Any) -> None:
        try:
            self.broker.produce(self.producer, record)
        except Fenced:
            self.handle(ev.SendFailed(self.machine.commit_epoch, ev.SendFailure.FATAL))

    def is_drained(self) -> bool:
        return not self.unfinished

    def step_job(self, fault: Fault = Fault.NONE) -> bool:
        if self.job is None:
            return False
        name, argument = self.job
        if name == "drain" and not self.is_drained():
            return False
        if name == "read" and any(self.broker.is_pending(each) for each in argument):
            return False
        self.job = None
        getattr(self, "job_" + name)(argument, fault)
        return True

    def job_drain(self, argument: None, fault: Fault) -> None:
        claimed = self.machine.committed_offsets
        offsets = {partition: Offset(self.positions[partition]) for partition in claimed}
        self.handle(ev.Drained(self.machine.commit_epoch, offsets, bool(self.sent)))

    def job_seal(self, commit_epoch: Any, fault: Fault) -> None:
        if fault is Fault.REFUSED:
            self.handle(ev.SendFailed(commit_epoch, ev.SendFailure.ABORTABLE))
        else:
            self.handle(ev.Sealed(commit_epoch))

    def membership(self, number: int) -> Membership:
        return self.memberships[number]

    def job_offsets(self, commit_epoch: Any, fault: Fault) -> None:
        assert self.to_send is not None
        try:
            self.broker.send_offsets(
                self.producer, self.membership(self.to_send.membership), self.to_send.offsets
            )
        except TransactionAborted:
            self.handle(ev.OffsetsRefused(commit_epoch))
            return
        except Fenced:
            self.handle(ev.SendFailed(commit_epoch, ev.SendFailure.FATAL))
            return
        if fault is Fault.REFUSED:
            self.handle(ev.SendFailed(commit_epoch, ev.SendFailure.ABORTABLE))
        elif fault is Fault.FATAL:
            self.handle(ev.SendFailed(commit_epoch, ev.SendFailure.FATAL))
        else:
            self.start_job("end", commit_epoch)

    def job_end(self, commit_epoch: Any, fault: Fault) -> None:
        self.world.writers[self.own, commit_epoch] = self.producer
        if fault is Fault.REFUSED:
            self.ended(commit_epoch, ev.Outcome.NOT_COMMITTED)
            return
        if fault is Fault.DELAYED:
            self.world.in_flight.append((self.producer, True))
            self.ended(commit_epoch, ev.Outcome.UNKNOWN)
            return
        before = {each: self.broker.committed(each).marker for each in PARTITIONS}
        try:
            self.broker.end_transaction(self.producer, commits=True)
        except Fenced:
            self.ended(commit_epoch, ev.Outcome.UNKNOWN)
            return
        self.world.check_claim({each: before[each] for each in self.sent_partitions}, self)
        if fault is Fault.ANSWER_LOST:
            self.ended(commit_epoch, ev.Outcome.UNKNOWN)
        elif fault is Fault.DUPLICATED:
            self.world.in_flight.append((self.producer, True))
            self.ended(commit_epoch, ev.Outcome.COMMITTED, spent=True)
        else:
            self.ended(commit_epoch, ev.Outcome.COMMITTED)

    def ended(self, commit_epoch: Any, outcome: ev.Outcome, *, spent: bool = False) -> None:
        if outcome is not ev.Outcome.NOT_COMMITTED:
            self.in_transaction = False
        self.handle(ev.TransactionEnded(commit_epoch, outcome, spent))

    def job_abort(self, commit_epoch: Any, fault: Fault) -> None:
        self.in_transaction = False
        if fault is Fault.DELAYED:
            self.world.in_flight.append((self.producer, False))
            self.handle(ev.Aborted(commit_epoch, spent=True))
            return
        try:
            self.broker.end_transaction(self.producer, commits=False)
        except Fenced:
            self.handle(ev.Aborted(commit_epoch, spent=True))
            return
        self.handle(ev.Aborted(commit_epoch, spent=fault is Fault.ANSWER_LOST))

    def job_apply(self, effect: fx.Apply, fault: Fault) -> None:
        for partition in effect.partitions:
            self.disk.setdefault(partition, set()).update(self.overlay.get(partition, ()))
            committed = self.machine.committed_offsets[partition]
            demand(
                self.disk[partition] == set(range(committed)),
                "INV-STATE-2: store is not the fold of what is committed",
                store=self.disk[partition],
                committed=committed,
            )
        self.overlay.clear()
        self.world.resolved.extend(self.sent)
        self.sent = []
        self.handle(ev.Applied(effect.commit_epoch))

    def job_replace(self, argument: None, fault: Fault) -> None:
        self.producers[self.turn] = self.broker.init_transactions(self.transactional_id(self.turn))
        self.handle(ev.ProducerReady())

    def job_read(self, partitions: frozenset[Partition], fault: Fault) -> None:
        self.handle(ev.MarkersRead({each: self.broker.committed(each) for each in partitions}))

    def step_by_itself(self) -> bool:
        """One step that nothing hinders; False if there is none."""
        return self.step_job() or self.step_takeover() or self.finish_record(0)

    # Taking over.

    def advance_takeover(self, event: Any) -> None:
        assert self.takeover is not None
        self.world.log.append((self.own, self.takeover.state, event))
        for effect in self.takeover.handle(event):
            self.world.log.append(("", effect))
            if isinstance(effect, td.ReadyToClaim):
                self.takeover = self.takeover_job = None
                self.handle(ev.TakenOver(self.assignment, effect.starts))
            elif isinstance(effect, td.TakeoverFailed):
                self.takeover = self.takeover_job = None
                self.handle(ev.Failed(effect.message, effect.exit_code))
            elif not isinstance(effect, td.AlarmPending):
                self.takeover_job = effect

    def step_takeover(self) -> bool:
        effect, self.takeover_job = self.takeover_job, None
        if effect is None:
            return False
        getattr(self, "take_" + type(effect).__name__)(effect)
        return True

    def markers(self, partitions: frozenset[Partition]) -> dict[Partition, Any]:
        return {each: self.broker.committed(each) for each in partitions}

    def take_ReadLastMarkers(self, effect: td.ReadLastMarkers) -> None:
        self.advance_takeover(td.LastMarkersRead(self.markers(effect.partitions)))

    def take_FenceIncarnations(self, effect: td.FenceIncarnations) -> None:
        for incarnation in effect.incarnations:
            self.broker.init_transactions(f"app.{incarnation}.0")
            self.broker.init_transactions(f"app.{incarnation}.1")
        self.advance_takeover(td.IncarnationsFenced())

    def take_ReadStableMarkers(self, effect: td.ReadStableMarkers) -> None:
        pending = frozenset(each for each in effect.partitions if self.broker.is_pending(each))
        if pending:
            self.advance_takeover(td.StillPending(pending))
        else:
            self.advance_takeover(td.StableMarkersRead(self.markers(effect.partitions)))

    def take_ReadLogBounds(self, effect: td.ReadLogBounds) -> None:
        bounds = td.LogBounds(Offset(0), Offset(self.world.records))
        self.advance_takeover(td.LogBoundsRead(dict.fromkeys(effect.partitions, bounds)))

    def take_RestoreTasks(self, effect: td.RestoreTasks) -> None:
        for partition in effect.partitions:
            self.disk[partition] = self.world.visible(partition)
        self.advance_takeover(td.Restored())
