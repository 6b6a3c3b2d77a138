"""What a person reads: tables of what happened, and the story of a plan that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.testing.simulator.process import Life
from onceflow_consensus.testing.simulator.running import play

if TYPE_CHECKING:
    from onceflow_consensus.testing.simulator.plan import Plan
    from onceflow_consensus.testing.simulator.replica import Replica
    from onceflow_consensus.testing.simulator.sweeping import Sweep
    from onceflow_consensus.testing.simulator.world import World

PROGRAM = "python -m onceflow_consensus.testing.simulator"


def table(engine: str, sweep: Sweep, seconds: float) -> str:
    """Return what a sweep amounts to, one line for each thing that happened."""
    rate = sweep.seeds / seconds if seconds else 0.0
    head = (
        f"{engine}: {sweep.seeds} seeds, {sweep.steps} steps, {sweep.totals['events']} events, "
        f"{seconds:.0f} s, {rate:.1f} seeds/s, {len(sweep.failures)} failing"
    )
    lines = [
        head,
        f"  {'what happened':<66} {'in total':>10} {'in seeds':>9}",
    ]
    lines.extend(
        f"  {name:<66} {count:>10} {sweep.seeds_with[name] / sweep.seeds:>9.1%}"
        for name, count in sorted(sweep.totals.items())
    )
    return "\n".join(lines)


def ranges(numbers: list[int]) -> str:
    """Return numbers as ``3,5-9``."""
    parts: list[str] = []
    start = 0
    for position, number in enumerate(numbers):
        if position + 1 == len(numbers) or numbers[position + 1] != number + 1:
            first = numbers[start]
            parts.append(str(first) if first == number else f"{first}-{number}")
            start = position + 1
    return ",".join(parts)


def numbers_of(text: str) -> list[int]:
    """Return the numbers that ``ranges`` wrote."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def command(plan: Plan, steps: int, mutation: str | None) -> str:
    """Return the command that plays a plan again."""
    parts = [PROGRAM, f"--engine {plan.engine} --seed {plan.seed} --steps {steps}"]
    if len(plan.actions) < steps:
        parts.append(f"--only {ranges(plan.numbers)}")
    if mutation is not None:
        parts.append(f"--mutation {mutation}")
    return " ".join(parts)


def story(plan: Plan) -> str:
    """Return what happens in a plan: each action, and the replicas that it changed."""
    lines = [str(plan.setup)]
    kinds = {number: action[0] for number, action in plan.actions}
    last: dict[int, str] = {}

    def tell(number: int, world: World) -> None:
        present = {item.peer_id: _state(item) for item in world.replicas.values()}
        changed = [text for peer_id, text in present.items() if last.get(peer_id) != text]
        last.update(present)
        lines.append(
            f"{world.now_ms:>6} ms  #{number:<4} {kinds[number].value:<32} {'; '.join(changed)}"
        )

    outcome = play(plan, tell=tell)
    lines.append(str(outcome.violation or "nothing is violated"))
    return "\n".join(lines)


def _state(replica: Replica) -> str:
    if replica.life in (Life.DOWN, Life.LOST):
        return f"{replica.peer_id} {replica.life.value}"
    status = replica.node.status
    life = "" if replica.life is Life.RUNNING else f" {replica.life.value}"
    role = status.role.value.removeprefix("State")
    return (
        f"{replica.peer_id}{life} {role} t{status.term} "
        f"{replica.machine.index}/{status.commit_index}/{status.last_index}"
    )
