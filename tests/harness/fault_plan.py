"""Random fault runs: what happens to which worker, drawn from a seed, so that it can be repeated.

A plan is decided before the run begins; the machine's speed changes when a fault meets the
application, not which faults there are.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from harness.kafka_wire import Api
from harness.proxy import Fault
from onceflow.decisions.crash_points import CrashPoint

OF_SINKS = {
    CrashPoint.BEFORE_PREPARE,
    CrashPoint.DURING_PREPARE,
    CrashPoint.AFTER_PREPARE,
    CrashPoint.BEFORE_FINISH,
    CrashPoint.DURING_FINISH,
    CrashPoint.AFTER_FINISH,
    CrashPoint.AFTER_LIST,
    CrashPoint.AFTER_RAISE,
}
"""Passed by applications with two-phase sinks only: ``test_fault_sinks``."""

OF_OUTBOX = {
    CrashPoint.BEFORE_OUTBOX_APPLY,
    CrashPoint.DURING_OUTBOX_APPLY,
    CrashPoint.AFTER_OUTBOX_APPLY,
}
"""Passed by applications with outbox sinks only: ``test_fault_outbox``."""

SESSION_S = 6.0
FAULT_KINDS = {
    "crash": 5,
    "kill": 3,
    "kill_all": 1,
    "zombie": 2,
    "short_stop": 1,
    "join": 2,
    "leave": 2,
    "end_txn": 3,
    "request": 2,
    "late_commit": 2,
    "cut": 1,
    "end_broker": 1,
}
"""Kinds of faults with their weights."""
END_FAULTS = (
    Fault.DELAY_REQUEST,
    Fault.DELAY_RESPONSE,
    Fault.CUT_BEFORE,
    Fault.CUT_AFTER,
    Fault.DUPLICATE,
    Fault.DROP_RESPONSE,
)
REQUESTS = (
    Api.TXN_OFFSET_COMMIT,
    Api.ADD_OFFSETS_TO_TXN,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.INIT_PRODUCER_ID,
    Api.PRODUCE,
)


@dataclass(frozen=True)
class Step:
    """One fault: what, to which worker, and details that its kind needs."""

    kind: str
    worker: str
    after_outputs: int
    point: str = ""
    passing: int = 1
    fault: str = ""
    api: int = 0
    times: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: str
    protocol: str
    static: bool
    workers: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def fences(self):
        """Whether a live worker may find its partitions in other hands."""
        return any(
            step.kind in ("zombie", "short_stop", "request", "end_txn") for step in self.steps
        )

    @property
    def ends_brokers(self):
        """Whether a broker ends, for which there must be others."""
        return any(step.kind == "end_broker" for step in self.steps)

    def describe(self):
        """For the results: plain values."""
        return asdict(self)


def make_plan(seed, number):
    """The plan of run ``number`` of a seed."""
    chance = random.Random(f"{seed}/{number}")
    protocol = chance.choice(("classic", "classic", "consumer"))
    # Under KIP-848 a static member that comes back early is refused: its place is taken.
    static = protocol == "classic" and chance.random() < 0.5
    workers = tuple("abc"[: chance.choice((1, 1, 2, 2, 3))])
    steps = tuple(_step(chance, workers) for _ in range(chance.choice((1, 2, 2, 3))))
    return Plan(f"{seed}/{number}", protocol, static, workers, steps)


def _step(chance, workers):
    kind = chance.choices(list(FAULT_KINDS), list(FAULT_KINDS.values()))[0]
    api = Api.END_TXN if kind == "end_txn" else chance.choice(REQUESTS)
    faults = END_FAULTS if kind == "end_txn" else END_FAULTS[:4]
    return Step(
        kind,
        chance.choice(workers),
        chance.randrange(20, 120),
        point=chance.choice([p for p in CrashPoint if p not in OF_SINKS | OF_OUTBOX]).value,
        passing=chance.randrange(1, 6),
        fault=chance.choice(faults).name,
        api=int(api),
        times=chance.randrange(1, 4),
        seconds=round(chance.uniform(0.3, 3.0), 1),
    )
