"""``python -m onceflow_consensus.testing.simulator``: play seeds, and shrink what fails.

Exit status: 0 nothing was violated (and every known bug was found), 1 otherwise, 2 for arguments
that make no sense.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from onceflow_consensus.testing.simulator.engines import RULES
from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS, UNFOUND
from onceflow_consensus.testing.simulator.mutations import put_in
from onceflow_consensus.testing.simulator.plan import Plan, draw_plan
from onceflow_consensus.testing.simulator.report import command, numbers_of, story, table
from onceflow_consensus.testing.simulator.running import play
from onceflow_consensus.testing.simulator.shrinking import shrink
from onceflow_consensus.testing.simulator.sweeping import Sweep, seed_that_kills, sweep

_ALL = "all"
_STEPS = 500
_SEEDS = 20_000
_MUTATION_SEEDS = 2000
_TELL_EVERY_SEEDS = 2000


class Arguments(argparse.Namespace):
    """What the command line asks for; ``--help`` says what each means."""

    engine: str
    seed: int | None
    seeds: int | None
    first: int
    steps: int
    only: str | None
    trace: Path | None
    mutation: str | None
    is_for_mutations: bool


def _arguments(argv: list[str]) -> Arguments:
    parser = argparse.ArgumentParser(
        prog="python -m onceflow_consensus.testing.simulator",
        description="Play whole groups on virtual time, each decided by one seed.",
    )
    parser.add_argument("--engine", choices=[*RULES, _ALL], default=_ALL)
    parser.add_argument("--seed", type=int, help="play this seed alone, and shrink it if it fails")
    parser.add_argument("--seeds", type=int, help=f"how many seeds to play; {_SEEDS} by default")
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds")
    parser.add_argument("--steps", type=int, default=_STEPS, help="actions of each seed")
    parser.add_argument("--only", help="actions to keep of a seed, such as 3,5-9")
    parser.add_argument(
        "--trace", type=Path, help="write what the replicas of --seed go through to this file"
    )
    parser.add_argument("--mutation", choices=sorted(KNOWN_BUGS), help="put a known bug in")
    parser.add_argument(
        "--mutations",
        action="store_true",
        dest="is_for_mutations",
        help=f"put every known bug in and look for a seed that finds it; {_MUTATION_SEEDS} seeds",
    )
    return parser.parse_args(argv, Arguments())


def main(argv: list[str]) -> int:
    """Do what the arguments ask for; return the exit status."""
    wanted = _arguments(argv)
    engines = list(RULES) if wanted.engine == _ALL else [wanted.engine]
    if wanted.is_for_mutations:
        return _find_known_bugs(engines, wanted)
    if wanted.trace is not None:
        wanted.trace.write_text("", encoding="utf-8")
    if wanted.seed is not None:
        if wanted.mutation is not None:
            put_in(KNOWN_BUGS[wanted.mutation])
        statuses = [_play_one(engine, wanted.seed, wanted) for engine in engines]
    else:
        statuses = [_play_many(engine, wanted) for engine in engines]
    return max(statuses)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _play_one(engine: str, seed: int, wanted: Arguments) -> int:
    plan = draw_plan(engine, seed, wanted.steps)
    if wanted.only is not None:
        plan = plan.only(numbers_of(wanted.only))
    if wanted.trace is None:
        outcome = play(plan)
    else:
        with wanted.trace.open("a", encoding="utf-8") as lines:
            outcome = play(plan, write_trace=lines.write)
    if outcome.violation is None:
        result = Sweep(1, outcome.steps, outcome.counts, outcome.counts)
        _tell(table(engine, result, 0.0))
        return 0
    _tell(f"{engine} seed {seed}: {outcome.violation}")
    smallest = plan if wanted.only is not None else _shrunk(plan)
    _tell(story(smallest))
    _tell(command(smallest, wanted.steps, wanted.mutation))
    return 1


def _shrunk(plan: Plan) -> Plan:
    _tell("shrinking; this takes up to a few minutes")
    return shrink(plan, play(plan))


def _play_many(engine: str, wanted: Arguments) -> int:
    begun = time.monotonic()
    seeds = range(wanted.first, wanted.first + (wanted.seeds or _SEEDS))

    def tell(so_far: Sweep) -> None:
        if so_far.seeds % _TELL_EVERY_SEEDS == 0:
            seconds = time.monotonic() - begun
            _tell(f"{engine}: {so_far.seeds} of {len(seeds)} seeds, {seconds:.0f} s")

    result = sweep(engine, wanted.steps, seeds, mutation=wanted.mutation, tell=tell)
    _tell(table(engine, result, time.monotonic() - begun))
    for seed, violated in result.failures:
        _tell(f"FAILED seed {seed}: {violated}")
        _tell(f"  {command(draw_plan(engine, seed, wanted.steps), wanted.steps, wanted.mutation)}")
    if result.failures:
        if wanted.mutation is not None:
            put_in(KNOWN_BUGS[wanted.mutation])
        _play_one(engine, result.failures[0][0], wanted)
        return 1
    return 0


def _find_known_bugs(engines: list[str], wanted: Arguments) -> int:
    seeds = range(wanted.first, wanted.first + (wanted.seeds or _MUTATION_SEEDS))
    survivors = 0
    for bug in (bug for name, bug in KNOWN_BUGS.items() if name not in UNFOUND):
        engine = bug.engine if bug.engine in RULES else engines[0]
        if engine not in engines:
            continue
        begun = time.monotonic()
        found = seed_that_kills(bug.name, engine, wanted.steps, seeds)
        seconds = time.monotonic() - begun
        survivors += found is None
        verdict = "SURVIVES" if found is None else f"dies at seed {found[0]}: {found[1]}"
        _tell(f"{engine:<8} {bug.name:<52} {seconds:>6.1f} s  {verdict[:120]}")
    _tell(f"{survivors} known bugs survive {len(seeds)} seeds")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
