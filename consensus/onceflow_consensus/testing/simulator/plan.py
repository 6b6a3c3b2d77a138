"""What a run is made of: a setup and a list of actions, both drawn from one seed.

An action is a kind and a number of its own, from which everything is drawn that the action and
what follows it needs. Any part of a plan is therefore a plan as well, in which the actions that
are left do what they did: that is what makes a failure shrink.
Swarm testing: each seed leaves some kinds of faults out and prefers others, because faults that
always come together hide each other's effects.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum

from onceflow_consensus.raft.options import StorageMode


class ActionKind(Enum):
    """What can happen in one step; the value is what a report calls it."""

    TIME = "time passes"
    WRITE = "write"
    READ = "read"
    CHANGE_MEMBERS = "membership change"
    COMPACT = "own snapshot, compaction"
    TRANSFER = "leadership transfer"
    FORGET = "leader forgotten"
    CAMPAIGN = "campaign"
    CRASH = "crash"
    CRASH_AT = "crash at the next write"
    PAUSE = "pause"
    CUT = "one-way cut"
    PARTITION = "partition"
    CLOG = "clogged link"
    STORM = "loss and delay"
    HEAL = "network heals"
    REPLAY = "replay"
    SLOW_DISK = "slow disk"
    FAIL_DISK = "failing disk"
    ROT = "bit rot"
    LOSE_DISK = "lost disk"
    REPLACE = "replacement of a lost replica"
    DRIFT = "clock drift"
    JUMP = "clock jump"
    REPORT = "report on a peer"


ESSENTIAL = frozenset({ActionKind.TIME, ActionKind.WRITE})
"""Kinds that every seed has; nothing would happen without them."""

_WEIGHTS: dict[ActionKind, float] = {
    ActionKind.TIME: 50,
    ActionKind.WRITE: 15,
    ActionKind.READ: 7,
    ActionKind.CHANGE_MEMBERS: 4,
    ActionKind.COMPACT: 4,
    ActionKind.TRANSFER: 1,
    ActionKind.FORGET: 0.7,
    ActionKind.CAMPAIGN: 1.5,
    ActionKind.CRASH: 0.9,
    ActionKind.CRASH_AT: 1.5,
    ActionKind.PAUSE: 0.8,
    ActionKind.CUT: 1.2,
    ActionKind.PARTITION: 1.2,
    ActionKind.CLOG: 1,
    ActionKind.STORM: 0.6,
    ActionKind.HEAL: 1,
    ActionKind.REPLAY: 3,
    ActionKind.SLOW_DISK: 0.8,
    ActionKind.FAIL_DISK: 0.4,
    ActionKind.ROT: 0.3,
    ActionKind.LOSE_DISK: 0.15,
    ActionKind.REPLACE: 1.5,
    ActionKind.DRIFT: 0.7,
    ActionKind.JUMP: 1,
    ActionKind.REPORT: 1,
}
_EMPHASIS = (0.0, 0.5, 1.0, 1.0, 3.0)


class DiskKind(Enum):
    """What a replica writes to.

    PLAIN: batches are whole or absent. SEGMENTED: the real log code on a disk of sectors.
    """

    PLAIN = "plain"
    SEGMENTED = "segmented"


@dataclass(frozen=True, slots=True)
class Setup:
    """What stays the same during a run.

    voters, spares: replicas that are members at the start, and those that only run.
    pre_vote, check_quorum, max_...: see ``RaftOptions``; an engine takes what it knows.
    election_ticks: base of the election timeout.
    loss, duplication: share of messages, while no storm rages.
    delays_ms: a message's delay is one of these.
    write_ms: a write takes one of these.
    """

    voters: int
    spares: int
    storage: StorageMode
    disk: DiskKind
    pre_vote: bool
    check_quorum: bool
    max_message_bytes: int
    max_inflight_messages: int
    max_applying_bytes: int
    election_ticks: int
    loss: float
    duplication: float
    delays_ms: tuple[int, ...]
    write_ms: tuple[int, ...]


Action = tuple[ActionKind, int]
"""A kind, and the number from which everything else about the action is drawn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be repeated. ``actions`` are numbered by their place in the full plan."""

    engine: str
    seed: int
    setup: Setup
    actions: tuple[tuple[int, Action], ...]

    def only(self, kept: list[int]) -> Plan:
        """Return the plan with the actions of these numbers alone."""
        wanted = set(kept)
        actions = tuple(item for item in self.actions if item[0] in wanted)
        return replace(self, actions=actions)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the actions."""
        return [number for number, _ in self.actions]


def draw_plan(engine: str, seed: int, steps: int) -> Plan:
    """Return the plan of a seed. A shorter plan of the same seed is its beginning."""
    choice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    setup = _draw_setup(choice)
    kinds = list(_WEIGHTS)
    weights = [
        weight * (1 if kind in ESSENTIAL else choice.choice(_EMPHASIS))
        for kind, weight in _WEIGHTS.items()
    ]
    drawn = random.Random(choice.getrandbits(64))  # noqa: S311 - repeatable on purpose
    numbers = random.Random(choice.getrandbits(64))  # noqa: S311 - repeatable on purpose
    actions = [(kind, numbers.getrandbits(31)) for kind in drawn.choices(kinds, weights, k=steps)]
    return Plan(engine, seed, setup, tuple(enumerate(actions)))


def _draw_setup(choice: random.Random) -> Setup:
    voters, spares = choice.choice(((3, 1), (3, 1), (3, 1), (3, 2), (2, 1), (5, 0)))
    mean_ms = choice.choice((1.0, 2.0, 4.0))
    return Setup(
        voters=voters,
        spares=spares,
        storage=choice.choice((StorageMode.READY, StorageMode.MESSAGES)),
        disk=choice.choice((DiskKind.PLAIN, DiskKind.SEGMENTED)),
        pre_vote=choice.random() < 0.6,  # noqa: PLR2004 - a share
        check_quorum=choice.random() < 0.6,  # noqa: PLR2004 - a share
        max_message_bytes=choice.choice((0, 0, 40, 10**6)),
        max_inflight_messages=choice.choice((1, 3, 100)),
        max_applying_bytes=choice.choice((1, 40, 10**6, 10**6)),
        election_ticks=choice.choice((3, 3, 5)),
        loss=choice.choice((0.0, 0.02, 0.1)),
        duplication=choice.choice((0.0, 0.02, 0.1)),
        delays_ms=tuple(1 + int(choice.expovariate(1 / mean_ms)) for _ in range(32)),
        write_ms=choice.choice(((0,), (0, 0, 0, 2), (0, 1, 5), (2, 8, 20))),
    )
