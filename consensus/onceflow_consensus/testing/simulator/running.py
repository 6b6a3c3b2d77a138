"""Playing a plan from its first action to the healed end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import ConsensusError, InvariantViolation
from onceflow_consensus.testing.simulator.faults import perform
from onceflow_consensus.testing.simulator.healing import heal_and_check
from onceflow_consensus.testing.simulator.ledger import Property, Violation
from onceflow_consensus.testing.simulator.world import World

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from onceflow_consensus.testing.simulator.plan import Plan
    from onceflow_consensus.testing.simulator.surroundings import Observer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: how often what happened, and the first violation, if any.

    steps: actions performed before it ended.
    """

    seed: int
    steps: int
    counts: Counter[str]
    violation: Violation | None


def play(
    plan: Plan,
    observer: Observer | None = None,
    tell: Callable[[int, World], None] | None = None,
    write_trace: Callable[[str], object] | None = None,
) -> Outcome:
    """Play a plan; the same plan always has the same outcome.

    Args:
        plan: what to play.
        observer: who watches the replicas.
        tell: called after each action with its number and the world.
        write_trace: takes each line of what the replicas go through, see ``tracing``.
    """
    steps = 0
    world = World(plan, observer, write_trace)
    violation: Violation | None = None
    try:
        for number, action in plan.actions:
            perform(world, action)
            steps += 1
            if tell is not None:
                tell(number, world)
        heal_and_check(world)
    except Violation as found:
        violation = found
    except (InvariantViolation, ConsensusError) as found:
        violation = Violation(Property.OWN_INVARIANT, str(found))
    counts = world.counts
    counts["elections won"] = world.ledger.elections
    counts["writes acknowledged"] = len(world.ledger.acknowledged)
    counts["entries committed"] = len(world.ledger.committed)
    return Outcome(plan.seed, steps, counts, violation)
