"""Broken variants of two-phase commit, each of which the simulation has to catch.

They are subclasses of the simulated worker or of a pure machine; nothing in the product knows of
them. Names in brackets are those of the checked model that the rules come from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.sink_world import SinkWorker
from onceflow.decisions import branch_steps as bs
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs
from onceflow.decisions.epoch_branches import BranchPhase, OwnBranch
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.marker import parse
from onceflow.decisions.scan import BranchScan, ScanState
from onceflow.ids import CommitEpoch

if TYPE_CHECKING:
    from harness.epoch_worker import Fault
    from harness.sink_model import ModelSink
    from onceflow.decisions.marker import Handover
    from onceflow.ids import BranchId, Incarnation


class AbsenceBeforeFence(SinkWorker):
    """Concludes from a missing marker without fencing who might still commit it (b_nofence)."""

    def fence(self, incarnations: frozenset[Incarnation]) -> None:
        pass

    def take_FenceIncarnations(self, effect: bs.FenceIncarnations) -> None:
        self.advance_takeover(bs.IncarnationsFenced())


class DecidesBeforePrepared(SinkWorker):
    """Sends the decision while PREPAREs are on their way."""

    def do_Prepare(self, effect: fx.Prepare) -> None:
        self.leave_on_the_way(effect.commit_epoch, sorted(self.sinks))
        self.start_job("hope", effect.commit_epoch)

    def job_hope(self, commit_epoch: CommitEpoch, fault: Fault) -> None:
        self.handle(ev.Prepared(commit_epoch))


class MarkerWithoutK(SinkWorker):
    """Writes markers that do not name the last epoch with participants."""

    def do_SendOffsets(self, effect: fx.SendOffsets) -> None:
        offsets = {}
        for partition, at in effect.offsets.items():
            marker = parse(at.metadata)
            assert marker is not None
            without = replace(marker, with_participants=CommitEpoch(0))
            offsets[partition] = replace(at, metadata=without.encode())
        super().do_SendOffsets(replace(effect, offsets=offsets))


class EpochAsK(SinkWorker):
    """Takes the epoch of a marker for k, whether it had participants or not (b_nok)."""

    def markers(self, partitions: frozenset[Any]) -> dict[Any, Any]:
        found = super().markers(partitions)
        return {
            partition: replace(
                at, marker=replace(at.marker, with_participants=at.marker.commit_epoch)
            )
            if at.marker is not None
            else at
            for partition, at in found.items()
        }


class FreshMetadata(SinkWorker):
    """Takes the group metadata when it commits, not when it is assigned (b_fresh)."""

    def membership(self, number: int) -> Any:
        return self.broker.membership(self.own)


class ClaimsBeforeResolving(SinkWorker):
    """Claims without looking into the sinks (b_earlyclaim)."""

    participants = bs.Participants.NONE


class ScanOfTheLiving(BranchScan):
    """Judges everybody's branches, whoever is named unreleased (b_scanliving)."""

    def _markers_read(self, event: bs.AllMarkersRead) -> list[Any]:
        self.state = ScanState.FENCING
        return [bs.FenceIncarnations(self._others)]

    def _markers_read_again(self, event: bs.AllMarkersRead) -> list[Any]:
        committed = bs.epochs_named(event.markers)
        left = frozenset(
            at
            for at in self._listed
            if at[1].commit_epoch not in committed.get(at[1].incarnation, ())
        )
        return self._clear(left, ScanState.CLEARING) if left else self._end()

    TRANSITIONS: ClassVar[Any] = {
        **BranchScan.TRANSITIONS,
        (ScanState.READING, bs.AllMarkersRead): _markers_read,
        (ScanState.READING_AGAIN, bs.AllMarkersRead): _markers_read_again,
    }


class ScansTheLiving(SinkWorker):
    """Its scan is against living owners, and fences nobody."""

    scan_class = ScanOfTheLiving

    def step_scan(self) -> bool:
        if isinstance(self.scan_job, bs.FenceIncarnations):
            assert self.scan is not None
            (self.scan_job,) = self.scan.handle(bs.IncarnationsFenced())
            return True
        return super().step_scan()


class ScanReadsOnce(BranchScan):
    """Judges by the markers read before the fence (scan_recheck, b_scanreadfirst)."""

    def _markers_read(self, event: bs.AllMarkersRead) -> list[Any]:
        self.early = event
        return super()._markers_read(event)

    def _listed_again(self, event: bs.BranchesListed) -> list[Any]:
        effects = super()._listed_again(event)
        reads = self.state is ScanState.READING_AGAIN
        return self._markers_read_again(self.early) if reads else effects

    TRANSITIONS: ClassVar[Any] = {
        **BranchScan.TRANSITIONS,
        (ScanState.READING, bs.AllMarkersRead): _markers_read,
        (ScanState.LISTING_AGAIN, bs.BranchesListed): _listed_again,
    }


class ScansByOldMarkers(SinkWorker):
    """Does not read the markers again behind the fence of a scan."""

    scan_class = ScanReadsOnce


class NeverScans(SinkWorker):
    """Leaves what no takeover finds (b_noscan)."""

    def begin_scan(self) -> bool:
        return False


class UnknownGidIsDone(SinkWorker):
    """Takes a branch that a sink does not know for a committed one (b_unknowndone)."""

    def commit_branch(self, sink: ModelSink, branch: BranchId) -> bool:
        sink.commit(branch)
        return True

    def branch_step(self, effect: Any) -> Any:
        if isinstance(effect, bs.ReadMarkerRows):
            assert self.takeover is not None
            assert self.takeover._branches is not None
            taken = self.takeover._branches._taken
            return bs.MarkerRowsRead(
                {
                    (name, each): taken[each].with_participants
                    for name in self.sinks
                    for each in effect.incarnations
                }
            )
        return super().branch_step(effect)


def _never_spent(self: CommitEpochs, event: ev.TransactionEnded) -> Any:
    return self._transaction_ended(replace(event, spent=False))


class ReusesEpochs(CommitEpochs):
    """Never replaces a producer that came back with a doubt."""

    TRANSITIONS: ClassVar[Any] = {
        **CommitEpochs.TRANSITIONS,
        (EpochState.CLAIMING, ev.TransactionEnded): _never_spent,
        (EpochState.DECIDING, ev.TransactionEnded): _never_spent,
    }


class ReusesProducer(SinkWorker):
    """Goes on with a producer whose duplicate EndTxn may still be on its way (b_reuse)."""

    machine_class = ReusesEpochs

    def do_BeginTransaction(self, effect: fx.BeginTransaction) -> None:
        self.turn = 1
        super().do_BeginTransaction(effect)


class NoCompareAndSet(SinkWorker):
    """Prepares without the compare-and-set of the marker row (b_nocas)."""

    def __init__(self, world: Any, slot: int, start: int) -> None:
        super().__init__(world, slot, start)
        for sink in self.sinks.values():
            sink.compares = False


class NeverRaises(SinkWorker):
    """Does not raise the marker row of who is taken over from, nor look again (b_noraise)."""

    def raise_rows(self, incarnations: frozenset[Incarnation]) -> Any:
        return bs.MarkersRaised()


class HastyBranch(OwnBranch):
    """Forgets branches at once, so that the next epoch is prepared over them (b_next)."""

    def committed(self, commit_epoch: CommitEpoch) -> list[Any]:
        effects = super().committed(commit_epoch)
        self.phase = BranchPhase.NONE
        return effects

    def gone(self, commit_epoch: CommitEpoch, was: BranchPhase) -> None:
        pass


class HastyEpochs(CommitEpochs):
    """Believes that a branch is gone when it is to be finished."""

    def __init__(self, own: Incarnation, participants: tuple[str, ...] = ()) -> None:
        super().__init__(own, participants)
        self.branch = HastyBranch(participants)


class PreparesOverOthers(SinkWorker):
    """Prepares the next epoch while the last one is being finished."""

    machine_class = HastyEpochs

    def start_branch_job(self, kind: str, commit_epoch: CommitEpoch) -> None:
        self.branch_job = None
        super().start_branch_job(kind, commit_epoch)


class CarelessBranch(OwnBranch):
    """Does not mind that its owner handed a partition over unreleased."""

    def handed_over(self, released: Handover) -> None:
        pass


class CarelessEpochs(CommitEpochs):
    """Goes on where sinks are going to refuse it."""

    def __init__(self, own: Incarnation, participants: tuple[str, ...] = ()) -> None:
        super().__init__(own, participants)
        self.branch = CarelessBranch(participants)


class LivesOn(SinkWorker):
    """Commits on elsewhere after it left a partition unreleased: its row is ahead, falsely."""

    machine_class = CarelessEpochs


class GuessingEpochs(CommitEpochs):
    """Takes an unknown outcome for an abort and rolls the branch back."""

    def _guess(self, event: ev.TransactionEnded) -> Any:
        unknown = event.outcome is ev.Outcome.UNKNOWN
        guess = replace(event, outcome=ev.Outcome.NOT_COMMITTED) if unknown else event
        return self._transaction_ended(guess)

    TRANSITIONS: ClassVar[Any] = {
        **CommitEpochs.TRANSITIONS,
        (EpochState.DECIDING, ev.TransactionEnded): _guess,
    }


class UnknownIsAborted(SinkWorker):
    """Rolls a branch back whose epoch may be committed."""

    machine_class = GuessingEpochs


class NeverRollsBack(SinkWorker):
    """Forgets the branch of an aborted attempt."""

    def roll_back_up_to(self, sink: ModelSink, commit_epoch: CommitEpoch) -> None:
        pass

    def begin_scan(self) -> bool:
        return False


DESIGNED = {
    "absence before the fence": AbsenceBeforeFence,
    "decide before prepare is durable": DecidesBeforePrepared,
    "marker without k": MarkerWithoutK,
    "the epoch as k": EpochAsK,
    "fresh group metadata": FreshMetadata,
    "claim before resolving": ClaimsBeforeResolving,
    "scan against a living owner": ScansTheLiving,
    "unknown gid taken as done": UnknownGidIsDone,
    "a reused producer": ReusesProducer,
    "scan by markers read before the fence": ScansByOldMarkers,
    "no scan": NeverScans,
    "no compare-and-set": NoCompareAndSet,
    "no raise": NeverRaises,
    "prepare over an unfinished branch": PreparesOverOthers,
    "unknown outcome taken as an abort": UnknownIsAborted,
    "living on after an unreleased hand-over": LivesOn,
    "no rollback": NeverRollsBack,
}
"""Every variant by the rule that it breaks."""

NEED_LOSSES = {"unknown gid taken as done"}
"""Rules that are about sinks which forget a branch."""

CAUGHT_FROM = {"fresh group metadata": 149, "living on after an unreleased hand-over": 5042}
"""For rules whose breach shows rarely: a seed that showed it, from which on it is looked for."""

RARE = (
    "scan by markers read before the fence",
    "no compare-and-set",
    "no raise",
)
"""Rules whose breach no seed is known to show; ``make sim ENGINE=epochs ARGS=--mutations`` looks
for one. The first is shown by a life that is told step by step. What the other two forbid leaves
branches to the scan, so that rows wait and are not lost."""
