"""The smallest part of a failing plan that still fails in the same way: delta debugging.

Actions are taken out in ever smaller pieces (Zeller and Hildebrandt, 2002). An action's chance is
its own, so that those that stay mostly do what they did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.testing.simulator.running import play

if TYPE_CHECKING:
    from onceflow_consensus.testing.simulator.plan import Plan
    from onceflow_consensus.testing.simulator.running import Outcome

MAX_PLAYS = 3000
"""Plays that shrinking takes at most: about two minutes."""


class _Shrinker:
    def __init__(self, plan: Plan, outcome: Outcome) -> None:
        self._plan = plan
        self._broken = outcome.violation.broken if outcome.violation is not None else None
        self._plays = 0

    def still_fails(self, kept: list[int]) -> bool:
        if self._plays >= MAX_PLAYS:
            return False
        self._plays += 1
        violation = play(self._plan.only(kept)).violation
        return violation is not None and violation.broken is self._broken

    def shrunk(self, kept: list[int]) -> list[int]:
        pieces = 2
        while len(kept) > 1:
            size = -(-len(kept) // pieces)
            for start in range(0, len(kept), size):
                rest = kept[:start] + kept[start + size :]
                if rest and self.still_fails(rest):
                    kept, pieces = rest, max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    return kept
                pieces = min(len(kept), pieces * 2)
        return kept


def shrink(plan: Plan, outcome: Outcome) -> Plan:
    """Return the smallest plan found that breaks the same property as ``outcome`` did."""
    numbers = plan.numbers[: outcome.steps + 1]
    return plan.only(_Shrinker(plan, outcome).shrunk(numbers))
