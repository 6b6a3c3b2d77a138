"""Many seeds, on several processes, and what they amount to."""

from __future__ import annotations

import gc
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS
from onceflow_consensus.testing.simulator.mutations import put_in
from onceflow_consensus.testing.simulator.plan import draw_plan
from onceflow_consensus.testing.simulator.running import play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_SEEDS_AT_A_TIME = 25
MAX_FAILURES = 5
"""A sweep ends after so many failing seeds: more of them say nothing new."""


@dataclass(slots=True)
class Sweep:
    """What a number of seeds amount to.

    totals: how often what happened. seeds_with: in how many seeds it happened at all.
    failures: failing seeds, each with what was violated.
    """

    seeds: int = 0
    steps: int = 0
    totals: Counter[str] = field(default_factory=Counter[str])
    seeds_with: Counter[str] = field(default_factory=Counter[str])
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def add(self, other: Sweep) -> None:
        """Take the seeds of another sweep into account."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.totals.update(other.totals)
        self.seeds_with.update(other.seeds_with)
        self.failures.extend(other.failures)


def sweep_here(engine: str, steps: int, seeds: Iterable[int]) -> Sweep:
    """Play seeds in this process, until too many of them fail."""
    result = Sweep()
    gc.collect()
    for seed in seeds:
        outcome = play(draw_plan(engine, seed, steps))
        result.seeds += 1
        result.steps += outcome.steps
        result.totals.update(outcome.counts)
        result.seeds_with.update(name for name, count in outcome.counts.items() if count)
        if outcome.violation is not None:
            result.failures.append((seed, str(outcome.violation)))
            if len(result.failures) >= MAX_FAILURES:
                break
    return result


def sweep(
    engine: str,
    steps: int,
    seeds: range,
    *,
    mutation: str | None = None,
    tell: Callable[[Sweep], None] | None = None,
) -> Sweep:
    """Play seeds on all processors, until some fail.

    Args:
        engine: which engine.
        steps: of each seed.
        seeds: which seeds.
        mutation: the known bug to put in.
        tell: called with what there is so far, now and then.
    """
    result = Sweep()
    pieces = [seeds[start : start + _SEEDS_AT_A_TIME] for start in range(0, len(seeds), 25)]
    with ProcessPoolExecutor(os.cpu_count(), initializer=_prepare, initargs=(mutation,)) as pool:
        for done in pool.map(partial(sweep_here, engine, steps), pieces):
            result.add(done)
            if tell is not None:
                tell(result)
            if len(result.failures) >= MAX_FAILURES:
                pool.shutdown(wait=True, cancel_futures=True)
                break
    return result


def _prepare(mutation: str | None) -> None:
    # Worlds hold cycles, but few: looking for them all the time costs more than it gives back.
    gc.disable()
    if mutation is not None:
        put_in(KNOWN_BUGS[mutation])


def seed_that_kills(mutation: str, engine: str, steps: int, seeds: range) -> tuple[int, str] | None:
    """Return the first seed that a known bug fails, and how; None if it survives them all.

    Runs in a process of its own, into which the bug is put.
    """
    with ProcessPoolExecutor(1, initializer=_prepare, initargs=(mutation,)) as pool:
        return pool.submit(_first_failure, engine, steps, seeds).result()


def _first_failure(engine: str, steps: int, seeds: range) -> tuple[int, str] | None:
    for seed in seeds:
        violation = play(draw_plan(engine, seed, steps)).violation
        if violation is not None:
            return seed, str(violation)
    return None
