"""The turns of a round, who takes them and how large they are."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.places import NotRun, RunFailed
from bench_consensus import endurance, loads, outages
from bench_consensus.reckoning import COUNTS, PEER
from onceflow_consensus.errors import ConsensusError

if TYPE_CHECKING:
    from collections.abc import Callable

FAST_FLAGS = ("--heartbeat-interval=20", "--election-timeout=200")
"""etcd's times as ours are by default; its own are 100 and 1,000 ms."""

TITLES = {
    "write": "writes of 256 bytes, {} outstanding",
    "read": "linearizable reads, {} outstanding",
    "stale": "stale reads, {} outstanding",
}
CLIENTS = 20
"""Connections of ``many``: each has as many calls under way as the others."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    seconds, warm_s: of a load. stable_s: how long no leader may change. trials: of a fail-over.
    commands: overwriting few keys. state_mb: keys and values that a member recovers. crashes: of
    all members, each in the middle of ``crash_writes``. programs: returns etcd's, or raises NotRun.
    """

    rounds: int
    seconds: float
    warm_s: float
    stable_s: float
    trials: int
    commands: int
    state_mb: int
    crashes: int
    crash_writes: int = 30_000
    engine: str = "raft"
    programs: Callable = None


FULL = Size(5, 20.0, 5.0, 300.0, 20, 10_000_000, 100, 5)
QUICK = Size(1, 3.0, 1.0, 20.0, 5, 500_000, 25, 2)


def once(function):
    """A function that is called once; if it raised NotRun, it raises that every time."""
    known = []

    @functools.wraps(function)
    def call():
        if not known:
            try:
                known.append(function())
            except NotRun as error:
                known.append(error)
        if isinstance(known[0], NotRun):
            raise known[0]
        return known[0]

    return call


def turns():
    """Every name with its title and the function that takes the turn; A and B are neighbours."""
    found = []
    for kind, title in TITLES.items():
        for count in COUNTS:
            name, text = f"{kind}-{count}", title.format(f"{count:,}")
            found += _both(name, text, loads.ours, loads.etcd, kind, count)
    text = f"writes, 1,000 outstanding of {CLIENTS} clients"
    found += _both("many-1000", text, loads.ours, loads.etcd, "write", COUNTS[-1], CLIENTS)
    found += _both("stable-1000", "writes for long, 1,000 outstanding", _stable_ours, _stable_etcd)
    text = "fail-over after kill -9 of the leader"
    found += _both("failover", text, outages.ours, outages.etcd)
    fast = functools.partial(outages.etcd, flags=FAST_FLAGS)
    found.append((f"failover{PEER}-20", f"etcd, {text}, 20/200 ms", fast))
    found.append(("crash", "ours, kill -9 of all while writing", outages.crash))
    found.append(("memory", "ours, few keys overwritten many times", endurance.memory))
    found.append(("recovery", "ours, restart with much state", endurance.recovery))
    return found


def _both(name, title, ours, etcd, *arguments):
    def bound(function):
        return lambda directory, size: function(directory, size, *arguments)

    return [(name, f"ours, {title}", bound(ours)), (f"{name}{PEER}", f"etcd, {title}", bound(etcd))]


def _stable(size):
    return Size(**{**size.__dict__, "seconds": size.stable_s})


def _stable_ours(directory, size):
    return loads.ours(directory, _stable(size), "write", COUNTS[-1])


def _stable_etcd(directory, size):
    return loads.etcd(directory, _stable(size), "write", COUNTS[-1])


def run(name, number, take, size, root):
    """Take one turn; returns its line, which says so if it did not run or failed."""
    line = {"name": name, "round": number}
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    try:
        line |= take(directory, size)
    except NotRun as error:
        line |= {"verified": False, "not_run": str(error)}
    except (RunFailed, ConsensusError, OSError) as error:
        line |= {"verified": False, "failed": f"{type(error).__name__}: {error}"}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return line | {"load1": round(os.getloadavg()[0], 1)}
