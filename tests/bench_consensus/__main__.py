"""The replicated group against etcd, side by side: a table, and JSON lines.

    python tests/bench_consensus [--quick] [--only write,failover] [--output FILE]

Three processes each on loopback, every write synced on all of them, one contestant at a time. The
exit code is 0 if all that ran was whole and verified. Figures of a machine that does other work at
the same time are worth their ratios at best: the load stands in every line.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

# Run by its folder, as `make bench-consensus` does, this file's own folder heads the path; the
# modules are imported by full names, which tests use as well.
sys.path[:] = [str(Path(__file__).resolve().parents[1])] + [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

import orjson  # noqa: E402

from bench.__main__ import say, selected  # noqa: E402
from bench.places import NotRun  # noqa: E402
from bench_consensus.programs import CACHE, fetch, file_system, require_disk  # noqa: E402
from bench_consensus.reckoning import goals, medians, render, spreads  # noqa: E402
from bench_consensus.rounds import FULL, QUICK, once, run, turns  # noqa: E402


def parse(arguments):
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="bench_consensus", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help=f"interleaved; {FULL.rounds}")
    parser.add_argument("--seconds", type=float, help=f"of each load; {FULL.seconds:g}")
    parser.add_argument("--trials", type=int, help=f"of a fail-over; {FULL.trials}")
    parser.add_argument(
        "--only", default="", help="names or their beginnings, comma separated; see --list"
    )
    parser.add_argument("--engine", choices=("raft", "paxos"), default="raft", help="of ours")
    parser.add_argument("--quick", action="store_true", help="a small part of it, one round")
    parser.add_argument(
        "--output", type=Path, help="JSON lines; .cache/bench-consensus/results.jsonl"
    )
    parser.add_argument("--list", action="store_true", help="show the names and end")
    return parser.parse_args(arguments)


def size_of(options):
    """How much is to be done."""
    size = QUICK if options.quick else FULL
    given = {
        name: value
        for name in ("rounds", "seconds", "trials")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(size, engine=options.engine, programs=once(fetch), **given)


def machine(size):
    """What the figures were measured on."""
    return {
        "name": "machine",
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "engine": size.engine,
        "etcd": _etcd_version(size),
        "file_system": file_system(CACHE),
        "load1": round(os.getloadavg()[0], 1),
    }


def _etcd_version(size):
    try:
        return size.programs().version
    except NotRun as error:
        return f"not run: {error}"


def main(arguments):
    """Run the benchmarks; returns the exit code."""
    options = parse(arguments)
    chosen = selected(turns(), options.only)
    if options.list:
        for name, title, _ in chosen:
            say(f"{name:20} {title}")
        return 0
    # As after an interrupt, what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    size = size_of(options)
    full = size.seconds >= FULL.seconds and size.trials >= FULL.trials
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        require_disk(CACHE)
    except NotRun as error:
        sys.exit(f"bench_consensus: {error}")
    output, lines = options.output or CACHE / "results.jsonl", []
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as root, output.open("ab") as file:

        def write(line):
            file.write(orjson.dumps(line) + b"\n")
            file.flush()

        write(machine(size))
        for number in range(1, size.rounds + 1):
            for name, _, take in chosen:
                line = run(name, number, take, size, root)
                lines.append(line)
                write(line)
                say(f"round {number}: {orjson.dumps(line).decode()}")
        found = medians(lines)
        summary = {"medians": found, "rates": spreads(lines), "goals": goals(found, full=full)}
        write({"name": "medians", **summary})
    say("\n" + render(lines, [(name, title) for name, title, _ in chosen], full=full))
    say(f"\nJSON lines: {output}; load average over the last minute: {os.getloadavg()[0]:.1f}")
    return 0 if all(line.get("verified") or "not_run" in line for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
