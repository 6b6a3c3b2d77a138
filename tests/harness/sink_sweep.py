"""Many random lives with sinks: what went wrong, and how often what happened.

A life in which nothing rare happens proves nothing, so the tally is part of the result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness.epoch_worker import ViolationError
from harness.sink_variants import DESIGNED, NEED_LOSSES
from harness.sink_world import SinkWorld, run_sinks
from onceflow.decisions import branch_steps as bs
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.errors import InvariantViolation

HAPPENINGS = (
    "branches finished by their owner",
    "branches rolled back by their owner",
    "branches finished by a takeover",
    "branches rolled back by a takeover",
    "branches rolled back by a scan",
    "rows raised",
    "raises refused",
    "epochs that waited for a branch",
    "epochs that waited in vain",
    "PREPARE unavailable",
    "PREPARE refused for its rows",
    "PREPARE refused by a raised row",
    "outcomes unknown",
    "producers spent",
    "workers that began anew",
    "heuristic outcomes",
)
"""What a sweep has to have seen."""


PLAIN = {
    ev.BranchFinished: "branches finished by their owner",
    ev.BranchRolledBack: "branches rolled back by their owner",
    ev.BranchesTimedOut: "epochs that waited in vain",
    bs.MarkersRaised: "rows raised",
    bs.RaiseRefused: "raises refused",
    fx.AwaitBranches: "epochs that waited for a branch",
}
PREPARES = {
    ev.PrepareFailure.UNAVAILABLE: "PREPARE unavailable",
    ev.PrepareFailure.ROWS: "PREPARE refused for its rows",
    ev.PrepareFailure.SUPERSEDED: "PREPARE refused by a raised row",
}


def happened(entry: Any) -> str | None:
    """The name of what an entry of a world's log tells, if it is counted."""
    match entry:
        case bs.ScanEnded(rolled_back) if rolled_back:
            return "branches rolled back by a scan"
        case ev.PrepareFailed():
            return PREPARES[entry.kind]
        case ev.TransactionEnded(_, ev.Outcome.UNKNOWN):
            return "outcomes unknown"
        case ev.TransactionEnded(_, _, True) | ev.Aborted(_, True):
            return "producers spent"
        case fx.Fail(_, 1):
            return "workers that began anew"
        case _:
            return PLAIN.get(type(entry))


def tally(world: SinkWorld) -> Counter[str]:
    """How often what happened in a life."""
    counts: Counter[str] = Counter()
    for *_, entry in world.log:
        name = happened(entry)
        if name is not None:
            counts[name] += 1
        if isinstance(entry, bs.FinishBranches) and world.is_of_takeover(entry):
            counts["branches finished by a takeover"] += len(entry.commits)
            counts["branches rolled back by a takeover"] += len(entry.roll_backs)
    counts["heuristic outcomes"] += world.heuristics
    return counts


@dataclass
class Sweep:
    """The result of some seeds; results of several processes are added."""

    seeds: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Sweep) -> None:
        self.seeds += other.seeds
        self.failures.update(other.failures)
        self.counts.update(other.counts)


def losses_of(seed: int, rule: str | None = None) -> int:
    """Every fifth life has a sink that forgets a branch, and that of a rule which is about it."""
    if rule is not None:
        return 1 if rule in NEED_LOSSES else 0
    return 1 if seed % 5 == 4 else 0


def sweep(seeds: range) -> Sweep:
    """Play these seeds, one after the other."""
    result = Sweep(len(seeds))
    for seed in seeds:
        try:
            result.counts.update(tally(run_sinks(seed, losses=losses_of(seed))))
        except (ViolationError, InvariantViolation) as error:
            result.failures[seed] = str(error)
    return result


def catch(rule: str, seeds: range) -> int | None:
    """The first of these seeds that shows that a rule is broken."""
    for seed in seeds:
        try:
            run_sinks(seed, worker_class=DESIGNED[rule], losses=losses_of(seed, rule))
        except (ViolationError, InvariantViolation):
            return seed
    return None
