"""Who runs, on which input, by which command, and how its output is checked."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from bench.peers import quix, streams
from bench.places import PEERS, TESTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMIT_MS = 100


class Output(Enum):
    """What a contestant puts out, and so how it is verified."""

    RESULTS = "results"
    """Counts and sums per window."""
    COPIES = "copies"
    """The events themselves."""
    COUNTS = "counts"
    """Nothing but the changelog of a table of counts."""


@dataclass(frozen=True)
class Input:
    """A topic of events. Slow contestants get fewer of the same kind, so that rounds end."""

    name: str
    keys: int
    share: float = 1.0
    least: int = 0

    def events(self, full):
        """How many events the topic has when the full one has ``full``."""
        return max(round(full * self.share), min(full, self.least))


SMALL = Input("1k", 1_000)
LARGE = Input("100k", 100_000)
SMALL_TENTH = Input("1k-tenth", 1_000, 0.1, 60_000)
LARGE_TENTH = Input("100k-tenth", 100_000, 0.1, 60_000)
SMALL_HUNDREDTH = Input("1k-hundredth", 1_000, 0.01, 20_000)


@dataclass(frozen=True)
class Job:
    """One run: addresses and names that the command line is made of."""

    bootstrap: str
    source: str
    output: str
    group: str
    directory: Path
    commit_ms: int = COMMIT_MS


def _ready():
    """Nothing to install: the environment of the project has it."""


def _bare(_, job):
    program = str(PEERS / "bare_program.py")
    return [sys.executable, program, job.bootstrap, job.source, job.output, job.group]


def _faust(app):
    return lambda _, job: [
        sys.executable,
        *("-m", "faust", "-A", f"bench.apps.{app}"),
        *("worker", "-l", "warn", "--without-web"),
    ]


@dataclass(frozen=True)
class Contestant:
    """One line of the table.

    ``prepare`` installs or builds what is needed and may raise NotRun; what it returns goes into
    ``command``. ``scheme`` is of the broker URL that Faust programs see.
    """

    name: str
    title: str
    source: Input
    command: Callable
    output: Output = Output.RESULTS
    prepare: Callable = _ready
    scheme: str = "onceflow"

    def environ(self, job):
        """Variables for the process, those of Faust programs included."""
        return {
            "PYTHONPATH": os.pathsep.join(
                [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "BENCH_GROUP": job.group,
            "BENCH_BROKER": f"{self.scheme}://{job.bootstrap}",
            "BENCH_IN": job.source,
            "BENCH_OUT": job.output,
            "BENCH_DATA": str(job.directory / "state"),
            "ONCEFLOW_COMMIT_INTERVAL_MS": str(job.commit_ms),
        }

    def checked_topic(self, job):
        """The topic that is compared with the input."""
        return f"{job.group}-count-changelog" if self.output is Output.COUNTS else job.output


BATCH = _faust("aggregate")
CONTESTANTS = (
    Contestant("limit", "client alone: consume + produce", SMALL, _bare, Output.COPIES),
    Contestant("batch-1k", "ours, batch agent, 1,000 keys", SMALL, BATCH),
    Contestant(
        "streams-1k",
        "Kafka Streams, 1,000 keys",
        SMALL,
        streams.command,
        prepare=streams.prepare,
    ),
    Contestant(
        "quix-1k", "Quix Streams, 1,000 keys", SMALL_TENTH, quix.command, prepare=quix.prepare
    ),
    Contestant("batch-100k", "ours, batch agent, 100,000 keys", LARGE, BATCH),
    Contestant(
        "streams-100k",
        "Kafka Streams, 100,000 keys",
        LARGE,
        streams.command,
        prepare=streams.prepare,
    ),
    Contestant(
        "quix-100k", "Quix Streams, 100,000 keys", LARGE_TENTH, quix.command, prepare=quix.prepare
    ),
    Contestant(
        "record", "ours, agent with a Record, 1 table", SMALL, _faust("record"), Output.COUNTS
    ),
    Contestant(
        "record-faust",
        "stock Faust, at least once, the same",
        SMALL_HUNDREDTH,
        _faust("record"),
        Output.COUNTS,
        scheme="kafka",
    ),
    Contestant(
        "windowed", "ours, Record, 2 windowed tables, output", SMALL_TENTH, _faust("windowed")
    ),
    Contestant(
        "windowed-faust",
        "stock Faust, at least once, the same",
        SMALL_HUNDREDTH,
        _faust("windowed"),
        scheme="kafka",
    ),
)
LATENCY_OF = {"batch": CONTESTANTS[1], "streams": CONTESTANTS[2]}
LATENCY_COMMITS_MS = (100, 20)
RESTORING = Contestant("restore", "ours, a table restored", SMALL, _faust("restored"))
