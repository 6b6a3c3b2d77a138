"""Workers with two-phase sinks on a model broker: the effects about branches, with faults.

Each call to one sink is a step of its own, so that crashes, fences and late PREPAREs fall between
any two. `SinkWorld.check` holds INV-2PC-1 and -2 for every record after each step, INV-2PC-3 where
somebody judges another's branch, INV-2PC-5 at claims and PREPAREs, and `settle` INV-2PC-4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from harness.epoch_worker import FAULTS, PARTITIONS, Fault, Worker, demand
from harness.epoch_world import World, random_step
from harness.sink_model import DecidingBroker, ModelSink, Row
from onceflow.decisions import branch_steps as bs
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions import takeover as td
from onceflow.decisions.epoch_branches import BranchPhase
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.scan import BranchScan
from onceflow.errors import ParticipantUnavailable, Superseded
from onceflow.ids import BranchId, CommitEpoch, Incarnation

if TYPE_CHECKING:
    from onceflow.decisions.takeover import TakeoverOptions


def sinks_of(row: Row) -> tuple[str, ...]:
    """Which sinks get a row of a record: all, one, or none, so that epochs differ."""
    partition, offset = row
    if offset % 3 == 0:
        return ("a", "b")
    return ("a",) if (offset + partition.number) % 3 == 1 else ()


@dataclass
class BranchJob:
    """What a worker does beside its epochs: finish or roll back, one sink after the other."""

    kind: str
    commit_epoch: CommitEpoch
    sinks: list[str]


class SinkWorker(Worker):
    """A worker with two sinks, a scan, and a job beside its epochs."""

    scan_class = BranchScan
    participants = bs.Participants.CONFIGURED
    faults: ClassVar[dict[str, tuple[Fault, ...]]] = {
        **FAULTS,
        "prepare": (Fault.ANSWER_LOST, Fault.DELAYED, Fault.REFUSED, Fault.FATAL),
        "await": (Fault.REFUSED,),
    }
    world: SinkWorld

    def __init__(self, world: SinkWorld, slot: int, start: int) -> None:
        super().__init__(world, slot, start)
        self.machine = self.machine_class(self.own, tuple(sorted(world.sinks)))
        self.branch_job: BranchJob | None = None
        self.scan: BranchScan | None = None
        self.scan_job: Any = None
        self.acting: list[tuple[str, str, BranchId]] = []
        """What is left of a FinishBranches of the takeover, and what was missing so far."""
        self.missing: set[bs.BranchAt] = set()

    @property
    def sinks(self) -> dict[str, ModelSink]:
        return self.world.sinks

    def branch(self, commit_epoch: CommitEpoch) -> BranchId:
        return BranchId(self.own, commit_epoch)

    def options(self) -> TakeoverOptions:
        options = super().options()
        return type(options)(
            options.own, options.reset_policy, options.pending_reads_max, self.participants
        )

    # Before the decision.

    def epoch_rows(self) -> dict[str, frozenset[Row]]:
        written = [(each, offset) for each in self.overlay for offset in self.overlay[each]]
        return {
            name: frozenset(row for row in written if name in sinks_of(row)) for name in self.sinks
        }

    def job_seal(self, commit_epoch: Any, fault: Fault) -> None:
        if fault is Fault.REFUSED:
            super().job_seal(commit_epoch, fault)
            return
        some = any(self.epoch_rows().values())
        rows = ev.SinkRows.SOME if some else ev.SinkRows.NONE
        self.handle(ev.Sealed(commit_epoch, rows))

    def do_AwaitBranches(self, effect: fx.AwaitBranches) -> None:
        self.start_job("await", effect.commit_epoch)

    def job_await(self, commit_epoch: Any, fault: Fault) -> None:
        if fault is Fault.REFUSED:
            self.handle(ev.BranchesTimedOut(commit_epoch))
        else:
            self.start_job("await", commit_epoch)

    def do_Prepare(self, effect: fx.Prepare) -> None:
        if self.job is not None and self.job[0] == "await":
            self.job = None
        for sink in self.sinks.values():
            sink.check_free(self.branch(effect.commit_epoch))
        self.start_job("prepare", (effect.commit_epoch, sorted(self.sinks)))

    def job_prepare(self, argument: Any, fault: Fault) -> None:
        commit_epoch, left = argument
        sink, branch = self.sinks[left[0]], self.branch(commit_epoch)
        rows = self.epoch_rows()[sink.name]
        failed = ev.PrepareFailure.UNAVAILABLE
        if fault is Fault.DELAYED:
            sink.on_the_way.append((branch, rows))
        elif fault is Fault.FATAL:
            failed = ev.PrepareFailure.ROWS
        elif fault is not Fault.REFUSED:
            try:
                sink.prepare(branch, rows)
            except ParticipantUnavailable:
                fault = Fault.REFUSED
            except Superseded:
                fault, failed = Fault.REFUSED, ev.PrepareFailure.SUPERSEDED
        if fault is not Fault.NONE:
            self.leave_on_the_way(commit_epoch, left[1:])
            self.handle(ev.PrepareFailed(commit_epoch, failed, "the sink said so"))
        elif left[1:]:
            self.start_job("prepare", (commit_epoch, left[1:]))
        else:
            self.handle(ev.Prepared(commit_epoch))

    def leave_on_the_way(self, commit_epoch: CommitEpoch, names: list[str]) -> None:
        """All sinks are asked at once: what was not answered may arrive whenever it likes."""
        rows = self.epoch_rows()
        for name in names:
            self.sinks[name].on_the_way.append((self.branch(commit_epoch), rows[name]))

    def leave_prepare(self) -> None:
        if self.job is not None and self.job[0] in ("prepare", "await"):
            if self.job[0] == "prepare":
                self.leave_on_the_way(*self.job[1])
            self.job = None

    def do_DropAttempt(self, effect: fx.DropAttempt) -> None:
        self.leave_prepare()
        super().do_DropAttempt(effect)

    def do_ReplaceProducer(self, effect: fx.ReplaceProducer) -> None:
        self.leave_prepare()
        super().do_ReplaceProducer(effect)

    # After it.

    def do_FinishBranch(self, effect: fx.FinishBranch) -> None:
        self.start_branch_job("finish", effect.commit_epoch)

    def do_RollBackBranch(self, effect: fx.RollBackBranch) -> None:
        self.start_branch_job("roll back", effect.commit_epoch)

    def start_branch_job(self, kind: str, commit_epoch: CommitEpoch) -> None:
        demand(self.branch_job is None, "two branches under way", running=self.branch_job)
        self.branch_job = BranchJob(kind, commit_epoch, sorted(self.sinks))

    def commit_branch(self, sink: ModelSink, branch: BranchId) -> bool:
        return sink.commit(branch)

    def step_branch(self, *, answer_lost: bool = False) -> bool:
        """One call to one sink; a lost answer is asked for again."""
        job = self.branch_job
        if job is None:
            return False
        sink = self.sinks[job.sinks[0]]
        if job.kind == "finish" and not self.commit_branch(sink, self.branch(job.commit_epoch)):
            self.branch_job = None
            self.world.found_heuristic()
            self.handle(ev.BranchMissing(job.commit_epoch, "a sink lost the branch"))
            return True
        if job.kind == "roll back":
            self.roll_back_up_to(sink, job.commit_epoch)
        if answer_lost:
            return True
        del job.sinks[0]
        if not job.sinks:
            self.branch_job = None
            done = ev.BranchFinished if job.kind == "finish" else ev.BranchRolledBack
            self.handle(done(job.commit_epoch))
        return True

    def roll_back_up_to(self, sink: ModelSink, commit_epoch: CommitEpoch) -> None:
        for branch in sorted(sink.prepared):
            if branch.incarnation == self.own and branch.commit_epoch <= commit_epoch:
                sink.roll_back(branch)

    def job_apply(self, effect: fx.Apply, fault: Fault) -> None:
        self.world.writes += 1
        super().job_apply(effect, fault)

    def take_RestoreTasks(self, effect: td.RestoreTasks) -> None:
        self.world.writes += 1
        super().take_RestoreTasks(effect)

    # Taking over and scanning.

    def listed(self, incarnations: frozenset[Incarnation] | None) -> frozenset[bs.BranchAt]:
        return frozenset(
            (name, branch)
            for name, sink in self.sinks.items()
            for branch in sink.prepared
            if incarnations is None or branch.incarnation in incarnations
        )

    def branch_step(self, effect: Any) -> Any:
        """Perform a step of branches; None if it has to wait."""
        match effect:
            case bs.ListBranches(incarnations):
                own = self.machine.branch
                return bs.BranchesListed(self.listed(incarnations), own.dropped, own.last_committed)
            case bs.ReadAllMarkers():
                pending = any(self.broker.is_pending(each) for each in PARTITIONS)
                return None if pending else bs.AllMarkersRead(self.markers(frozenset(PARTITIONS)))
            case bs.FenceIncarnations(incarnations):
                self.fence(incarnations)
                return bs.IncarnationsFenced()
            case bs.RaiseMarkers(incarnations):
                return self.raise_rows(incarnations)
            case bs.ReadMarkerRows(incarnations):
                return bs.MarkerRowsRead(
                    {
                        (name, each): sink.shown.get(each, CommitEpoch(0))
                        for name, sink in self.sinks.items()
                        for each in incarnations
                    }
                )
        raise AssertionError(effect)

    def fence(self, incarnations: frozenset[Incarnation]) -> None:
        for incarnation in sorted(incarnations):
            for turn in (0, 1):
                self.broker.init_transactions(f"app.{incarnation}.{turn}")

    def raise_rows(
        self, incarnations: frozenset[Incarnation]
    ) -> bs.MarkersRaised | bs.RaiseRefused:
        try:
            for sink in self.sinks.values():
                for incarnation in sorted(incarnations):
                    sink.raise_marker(incarnation)
        except ParticipantUnavailable:
            return bs.RaiseRefused()
        return bs.MarkersRaised()

    def act(self, effect: bs.FinishBranches) -> bs.BranchesFinished | None:
        """One call to one sink; returns the event after the last one."""
        if not self.acting:
            wanted = [("roll back", *each) for each in effect.roll_backs]
            self.acting = sorted([*wanted, *(("commit", *each) for each in effect.commits)])
            self.missing = set()
        if self.acting:
            kind, name, branch = self.acting.pop()
            if kind == "commit":
                if not self.commit_branch(self.sinks[name], branch):
                    self.missing.add((name, branch))
            else:
                self.world.check_judged(self, branch, self.sinks[name])
                self.sinks[name].roll_back(branch)
        return None if self.acting else bs.BranchesFinished(frozenset(self.missing))

    def step_takeover(self) -> bool:
        effect = self.takeover_job
        if isinstance(effect, bs.FinishBranches):
            event = self.act(effect)
        elif isinstance(effect, bs.BranchEffect):
            event = self.branch_step(effect)
            if event is None:
                return False
        else:
            return super().step_takeover()
        if event is not None:
            self.takeover_job = None
            self.advance_takeover(event)
        return True

    def advance_takeover(self, event: Any) -> None:
        if not isinstance(event, bs.BranchesFinished):
            self.acting = []
        super().advance_takeover(event)

    def do_CancelTakeover(self, effect: fx.CancelTakeover) -> None:
        self.acting = []
        super().do_CancelTakeover(effect)

    def begin_scan(self) -> bool:
        if self.scan is not None or not self.alive:
            return False
        self.scan = self.scan_class(self.own)
        (self.scan_job,) = self.scan.begin()
        return True

    def step_scan(self) -> bool:
        if self.scan is None:
            return False
        effect = self.scan_job
        if isinstance(effect, bs.FinishBranches):
            for name, branch in sorted(effect.roll_backs):
                self.world.check_judged(self, branch, self.sinks[name])
                self.sinks[name].roll_back(branch)
            event = bs.BranchesFinished()
        else:
            event = self.branch_step(effect)
        if event is None:
            return False
        self.world.log.append((self.own, self.scan.state, event))
        (self.scan_job,) = self.scan.handle(event)
        self.world.scanned.append(self.scan_job)
        self.world.log.append(("", self.scan_job))
        if isinstance(self.scan_job, bs.ScanEnded):
            self.scan = self.scan_job = None
        return True

    def step_by_itself(self) -> bool:
        stepped = self.step_branch()
        waiting = self.job is not None and self.job[0] == "await"
        return (not waiting and super().step_by_itself()) or stepped


@dataclass
class SinkWorld(World):
    """A world with two sinks."""

    worker_class: type[Worker] = SinkWorker
    records: int = 9
    losses_left: int = 0
    """How many branches sinks may still forget."""
    heuristics: int = 0
    scanned: list[Any] = field(default_factory=list)
    """Steps of scans, to tell them from those of takeovers."""
    sinks: dict[str, ModelSink] = field(default_factory=dict)
    checked: tuple[int, ...] = ()
    """How much had changed at the last check."""
    writes: int = 0
    """How often a store was written or restored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sinks.update({name: ModelSink(name) for name in ("a", "b")})
        self.broker = DecidingBroker(self.sinks)
        for sink in self.sinks.values():
            sink.broker = self.broker

    def is_of_takeover(self, effect: bs.FinishBranches) -> bool:
        """Whether a logged step is not one of a scan."""
        return not any(effect is scanned for scanned in self.scanned)

    @property
    def has_losses(self) -> bool:
        return any(sink.lost for sink in self.sinks.values())

    def found_heuristic(self) -> None:
        demand(self.has_losses, "a heuristic outcome is reported, but no sink lost anything")
        self.heuristics += 1

    def is_excused(self, effect: fx.Fail) -> bool:
        if "the sink" not in effect.message and "a sink" not in effect.message:
            return False
        demand(self.has_losses, "false alarm", message=effect.message)
        self.heuristics += 1
        return True

    def crash(self, slot: int, *, end_on_its_way: bool = False) -> bool:
        worker = self.workers[slot]
        if isinstance(worker, SinkWorker):
            worker.leave_prepare()
        return super().crash(slot, end_on_its_way=end_on_its_way)

    # What must hold.

    def check_judged(self, judge: SinkWorker, branch: BranchId, sink: ModelSink) -> None:
        """Somebody rolls back another's branch: its owner must be unable to commit it."""
        if branch.incarnation == judge.own or branch not in sink.prepared:
            return
        for worker in self.workers:
            if worker is None or worker.own != branch.incarnation:
                continue
            deciding = (
                worker.machine.branch.phase is BranchPhase.GIVEN
                and worker.machine.branch.number == branch.commit_epoch
                and worker.machine.state in (EpochState.PREPARING, EpochState.DECIDING)
            )
            demand(
                not deciding or self.broker.is_fenced(worker.producer),
                "INV-2PC-3: judged before its incarnation was fenced",
                branch=branch,
            )

    def check(self) -> None:
        """Check everything, if anything that can be checked has changed."""
        sinks = (sink.changes for sink in self.sinks.values())
        changes = (self.broker.changes, self.writes, *sinks)
        if changes != self.checked:
            self.checked = changes
            super().check()
            self.check_sinks()

    def check_sinks(self) -> None:
        for sink in self.sinks.values():
            coming: dict[Row, int] = {}
            for branch in sink.prepared.keys() & sink.decided:
                for row in sink.prepared[branch]:
                    coming[row] = coming.get(row, 0) + 1
            for partition in PARTITIONS:
                committed = self.broker.committed_offset(partition)
                for offset in range(self.records):
                    row = (partition, offset)
                    promised = sink.rows.get(row, 0) + coming.get(row, 0)
                    self.check_row(sink, row, promised, committed)

    def check_row(self, sink: ModelSink, row: Row, promised: int, committed: int) -> None:
        """Check one row; `promised` counts it where it is visible and where it surely will be."""
        have, is_committed = sink.rows.get(row, 0), row[1] < committed
        demand(promised <= 1, "INV-EPOCH-3: a row is there twice", sink=sink.name, row=row)
        demand(
            is_committed or have == 0,
            "INV-2PC-1: a row of an uncommitted record is visible",
            sink=sink.name,
            row=row,
        )
        wanted = is_committed and sink.name in sinks_of(row) and not sink.lost
        demand(
            not wanted or promised == 1,
            "INV-2PC-2: the row of a committed record is lost",
            sink=sink.name,
            row=row,
        )

    def settle(self) -> None:
        if self.heuristics:
            # People have to look first; nothing more is asked of workers.
            return
        super().settle()

    def _settle_round(self) -> bool:
        # In half of the lives PREPAREs arrive when nobody has anything to do any more.
        if len(self.log) % 2 or super().is_settled():
            for sink in self.sinks.values():
                sink.arrive(0)
                self.check()
        for worker in self.workers:
            if isinstance(worker, SinkWorker):
                worker.begin_scan()
                while worker.step_scan():
                    self.check()
        return super()._settle_round()

    def check_at_rest(self) -> None:
        if not self.heuristics:
            super().check_at_rest()

    def is_settled(self) -> bool:
        if self.heuristics:
            return True
        if not super().is_settled() or any(
            sink.prepared or sink.on_the_way for sink in self.sinks.values()
        ):
            return False
        for sink in self.sinks.values():
            missing = [
                (partition, offset)
                for partition in PARTITIONS
                for offset in range(self.records)
                if sink.name in sinks_of((partition, offset))
                and not sink.rows.get((partition, offset))
            ]
            demand(not missing, "rows are lost and nobody noticed", sink=sink.name, rows=missing)
        return True


@dataclass(frozen=True)
class Weather:
    """How often what happens, different in each life, so that rare mixtures come up."""

    weights: tuple[float, ...]
    """Of anything without sinks, branch calls, scans, late PREPAREs, losses."""
    calm: float
    """Which share of the steps without sinks only goes on with what is under way."""
    ill: float
    """How often a PREPARE or the end of a transaction goes wrong in a calm step too."""
    deadly: float
    """How likely a worker dies at a call to a sink."""

    @staticmethod
    def of(random: Random) -> Weather:
        branch, scan = random.choice([0.02, 0.06, 0.2]), random.choice([0.0, 0.05, 0.15])
        weights = (0.7, branch, scan, random.choice([0.01, 0.05]), 0.04)
        calm, ill = random.choice([0.3, 0.7, 0.95]), random.choice([0.0, 0.1, 0.3])
        return Weather(weights, calm, ill, random.choice([0.0, 0.05, 0.3]))


def go_on(world: SinkWorld, worker: SinkWorker, random: Random, ill: float) -> None:
    """What a worker does by itself, and a group that gives out what is free."""
    kind = random.random()
    if kind < 0.55:
        job = worker.job[0] if worker.job is not None else ""
        faults = worker.faults[job] if job in ("prepare", "end", "abort") else (Fault.NONE,)
        fault = random.choice(faults) if random.random() < ill else Fault.NONE
        worker.step_job(fault) or worker.step_takeover()
    elif kind < 0.7:
        worker.begin_record(random.choice(PARTITIONS))
    elif kind < 0.85:
        worker.finish_record(random.randrange(4))
    elif kind < 0.95:
        worker.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    else:
        world.assign(worker.slot, frozenset([random.choice(PARTITIONS)]))


def random_sink_step(world: SinkWorld, random: Random, weather: Weather) -> None:
    """One thing happens, in the sinks or elsewhere."""
    (kind,) = random.choices(range(5), weather.weights)
    slot = random.randrange(world.slots)
    worker = world.workers[slot]
    if not isinstance(worker, SinkWorker):
        world.start(slot)
    elif kind == 0 and random.random() < weather.calm:
        go_on(world, worker, random, weather.ill)
    elif kind == 0:
        random_step(world, random)
    elif kind == 1:
        if worker.branch_job is not None and random.random() < weather.deadly:
            world.crash(slot)
        else:
            worker.step_branch(answer_lost=random.random() < 0.2)
    elif kind == 2:
        worker.step_scan() or (random.random() < 0.3 and worker.begin_scan())
    elif kind == 3:
        world.sinks[random.choice("ab")].arrive(random.randrange(4))
    elif world.losses_left and world.sinks[random.choice("ab")].lose(random.randrange(4)):
        world.losses_left -= 1


STEPS = 250
"""Of a life, before it is let come to rest."""


def world_of(seed: int, worker_class: type[SinkWorker] = SinkWorker, losses: int = 0) -> SinkWorld:
    """A world with two or three workers, as the seed says."""
    return SinkWorld(worker_class, 2 + seed % 2, losses_left=losses)


def play(world: SinkWorld, seed: int, steps: int = STEPS) -> None:
    """One random life, and its rest; the same seed repeats it exactly."""
    random = Random(seed)
    weather = Weather.of(random)
    if seed % 4:
        world.open_all()
    for _ in range(steps):
        if world.heuristics:
            break
        random_sink_step(world, random, weather)
        world.check()
    world.settle()


def run_sinks(seed: int, worker_class: type[SinkWorker] = SinkWorker, losses: int = 0) -> SinkWorld:
    """Play a seed's life."""
    world = world_of(seed, worker_class, losses)
    play(world, seed)
    return world
