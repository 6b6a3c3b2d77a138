"""Side-by-side benchmarks: a table, and JSON lines.

    python tests/bench [--quick] [--only batch,streams] [--output FILE]

One real Kafka, one input, one contestant at a time. The exit code is 0 if all that ran was whole
and verified. Figures of a machine that does other work at the same time are worth their ratios at
best: the load stands in every line.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

# Run by its folder, as `make bench` does, this file's own folder heads the path; the modules are
# imported by full names, which tests use as well.
sys.path[:] = [str(Path(__file__).resolve().parents[1])] + [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

import confluent_kafka  # noqa: E402
import orjson  # noqa: E402

from bench.places import CACHE  # noqa: E402
from bench.rounds import Bench, Size  # noqa: E402
from bench.table import goals, medians, render  # noqa: E402
from onceflow.localkafka import LocalKafka  # noqa: E402

HEAP_MB = 2_048
FULL = Size(events=4_000_000, restored=5_000_000, latency_s=30.0)
QUICK = Size(events=400_000, restored=500_000, latency_s=5.0, bound_s=120.0)
ROUNDS = 5


def parse(arguments):
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, help=f"of the full input; {FULL.events:,}")
    parser.add_argument("--rounds", type=int, help=f"interleaved; {ROUNDS}")
    parser.add_argument(
        "--only", default="", help="names or their beginnings, comma separated; see --list"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of it, one round")
    parser.add_argument("--output", type=Path, help="JSON lines; .cache/bench/results.jsonl")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    return parser.parse_args(arguments)


def size_of(options):
    """How much is to be done."""
    size = QUICK if options.quick else FULL
    events = options.events or size.events
    return Size(events, size.restored, size.latency_s, size.bound_s)


def selected(turns, only):
    """The turns whose names are, or begin with, one of ``only``."""
    wanted = [name for name in only.split(",") if name]
    unknown = [name for name in wanted if not any(turn[0].startswith(name) for turn in turns)]
    if unknown:
        known = ", ".join(turn[0] for turn in turns)
        sys.exit(f"bench: nobody is called {', '.join(unknown)}; there are {known}")
    return [turn for turn in turns if not wanted or any(turn[0].startswith(w) for w in wanted)]


def machine():
    """What the figures were measured on."""
    return {
        "name": "machine",
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "confluent_kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
        "load1": round(os.getloadavg()[0], 1),
    }


def say(text):
    """Tell people what happens."""
    print(text, flush=True)


def main(arguments):
    """Run the benchmarks; returns the exit code."""
    options = parse(arguments)
    size = size_of(options)
    CACHE.mkdir(parents=True, exist_ok=True)
    output = options.output or CACHE / "results.jsonl"
    if options.list:
        for name, title, _ in Bench("", CACHE, size, say).turns():
            say(f"{name:22} {title}")
        return 0
    with (
        tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as root,
        output.open("ab") as file,
        LocalKafka(heap_mb=HEAP_MB, progress=say) as kafka,
    ):
        bench = Bench(kafka.bootstrap, Path(root), size, say)
        turns = selected(bench.turns(), options.only)
        lines = []

        def write(line):
            file.write(orjson.dumps(line) + b"\n")
            file.flush()

        write(machine())
        for number in range(1, (options.rounds or (1 if options.quick else ROUNDS)) + 1):
            for name, _, measure in turns:
                line = bench.run(name, number, measure)
                lines.append(line)
                write(line)
                say(f"round {number}: {orjson.dumps(line).decode()}")
        found, full = medians(lines), size.events >= FULL.events
        write({"name": "medians", "medians": found, "goals": goals(found, full=full)})
    say("\n" + render(lines, [(name, title) for name, title, _ in turns], full=full))
    say(f"\nJSON lines: {output}; load average over the last minute: {os.getloadavg()[0]:.1f}")
    return 0 if all(line.get("verified") or "not_run" in line for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
