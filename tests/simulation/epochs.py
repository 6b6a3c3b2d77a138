"""Workers with two-phase sinks, simulated: the long variant of ``test_sink_lives.py``.

    python tests/simulation/epochs.py [--first N] [--seeds N] [--processes N]
    python tests/simulation/epochs.py [--first N] [--seeds N] --broken RULE | --mutations

Prints how often what happened, and of the first violation what led to it. A seed repeats its life
exactly. The exit code is 0 if no invariant was violated. ``--broken`` plays one broken variant and
ends with 1 at its violation; ``--mutations`` looks for a seed that shows each of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

# Run by its path, this file's own folder heads the path; modules are imported by full names.
sys.path[:] = [str(Path(__file__).resolve().parents[1])] + [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

from harness.epoch_worker import ViolationError  # noqa: E402
from harness.sink_sweep import HAPPENINGS, Sweep, catch, losses_of, sweep  # noqa: E402
from harness.sink_variants import DESIGNED  # noqa: E402
from harness.sink_world import SinkWorker, play, world_of  # noqa: E402
from onceflow.errors import InvariantViolation  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 250
"""Seeds that a process plays at a time."""
SEEDS = 100_000
STORY_LINES = 200
"""The end of a violated life that is printed."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--broken", choices=DESIGNED, help="play a broken variant instead")
    parser.add_argument("--mutations", action="store_true", help="play every broken variant")
    return parser.parse_args(arguments)


def blocks(first: int, seeds: int) -> list[range]:
    end = first + seeds
    return [range(start, min(start + BLOCK, end)) for start in range(first, end, BLOCK)]


def tell(seed: int, rule: str | None = None) -> None:
    """Play a violated life again and print what led to the violation."""
    world = world_of(seed, DESIGNED[rule] if rule else SinkWorker, losses_of(seed, rule))
    try:
        play(world, seed)
    except (ViolationError, InvariantViolation) as error:
        print("\n".join(world.story().splitlines()[-STORY_LINES:]))
        print(f"seed {seed}: {error}")


def report(total: Sweep, elapsed_s: float) -> None:
    for name in HAPPENINGS:
        print(f"{total.counts[name]:>12,}  {name}")
    print(
        f"{total.seeds:,} lives in {elapsed_s:.0f} s ({total.seeds / elapsed_s:.0f}/s), "
        f"{len(total.failures)} violated an invariant"
    )


def break_rules(options: argparse.Namespace) -> int:
    """Play broken variants; of a single one tell the story."""
    seeds = range(options.first, options.first + options.seeds)
    if options.broken:
        seed = catch(options.broken, seeds)
        if seed is not None:
            tell(seed, options.broken)
        return 0 if seed is None else 1
    missed = 0
    for rule in DESIGNED:
        seed = catch(rule, seeds)
        missed += seed is None
        print(f"{rule}: {'not seen' if seed is None else f'seed {seed}'}", flush=True)
    return 1 if missed else 0


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.broken or options.mutations:
        return break_rules(options)
    total, started_s = Sweep(), time.monotonic()
    work = blocks(options.first, options.seeds)
    if options.processes == 1:
        for block in work:
            total.add(sweep(block))
    else:
        with ProcessPoolExecutor(options.processes) as pool:
            for result in pool.map(sweep, work):
                total.add(result)
    report(total, max(time.monotonic() - started_s, 1e-3))
    for seed, error in sorted(total.failures.items()):
        print(f"seed {seed}: {error}")
    if total.failures:
        tell(min(total.failures))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
