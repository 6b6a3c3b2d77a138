"""The end of a run: everything is healed, and the group must make progress again.

Lost disks stay lost. If they are too many for a quorum of the present members, nothing is owed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import ConsensusError
from onceflow_consensus.testing.simulator.ledger import Property, Violation
from onceflow_consensus.testing.simulator.process import Life
from onceflow_consensus.testing.simulator.surroundings import TICK_MS

if TYPE_CHECKING:
    from onceflow_consensus.testing.simulator.world import World

_MARKER = b"marker"
_READ = b"last read"
_MAX_TICKS = 300
_ASK_AGAIN_TICKS = 20


def heal_and_check(world: World) -> None:
    """Heal everything and wait for a write and a read to succeed and for all to agree.

    Raises:
        Violation: they did not in time, or an acknowledged write is missing.
    """
    _heal(world)
    world.ledger.read_floors[_READ] = world.ledger.highest_index
    confirmed_before = world.counts["reads confirmed"]
    asked_at: int | None = None
    for tick in range(_MAX_TICKS):
        world.pass_time(TICK_MS)
        if asked_at is None or tick - asked_at > _ASK_AGAIN_TICKS:
            asked_at = tick if _ask(world) else None
        elif world.counts["reads confirmed"] > confirmed_before and _agree(world):
            _check_acknowledged(world)
            return
    if _is_quorum_lost(world):
        world.counts["groups lost with their disks"] += 1
        return
    raise Violation(Property.PROGRESS, f"no progress within {_MAX_TICKS} ticks: {_states(world)}")


def _heal(world: World) -> None:
    world.network.become_perfect()
    for replica in world.replicas.values():
        replica.tick_ms = TICK_MS
        replica.slow_ms = 0
        replica.armed = None
        replica.is_disk_failing = False
        if replica.life is Life.DOWN:
            replica.restart(replica.incarnation)
        elif replica.life is Life.PAUSED:
            replica.resume(replica.incarnation)
        replica.turn()


def _ask(world: World) -> bool:
    """Ask whoever leads to write the marker and to read; return whether it took both."""
    replica = world.leading()
    if replica is None:
        return False
    try:
        replica.node.propose(_MARKER)
        replica.node.read_index(_READ)
    except ConsensusError:
        return False
    finally:
        replica.observe()
        replica.turn()
    return True


def _agree(world: World) -> bool:
    """Whether every member applied the marker and all else, and nothing is left half changed."""
    highest = world.ledger.highest_index
    if world.members.auto_leave:
        return False
    members = world.members.peer_ids
    marked = any(
        world.ledger.committed[index].data == _MARKER
        for index in range(highest, max(highest - 10, world.ledger.first_index), -1)
    )
    return marked and all(
        world.replicas[peer_id].machine.index == highest
        for peer_id in members
        if world.replicas[peer_id].life is not Life.LOST
    )


def _check_acknowledged(world: World) -> None:
    committed = world.ledger.committed
    for payload, index in world.ledger.acknowledged.items():
        if committed[index].data != payload:
            raise Violation(
                Property.ACKNOWLEDGED, f"{payload!r} was acknowledged at {index} and is gone"
            )


def _is_quorum_lost(world: World) -> bool:
    """Whether too many disks are lost for the members in force anywhere."""
    alive = {item.peer_id: 1 for item in world.running}
    configurations = {item.node.status.configuration for item in world.running}
    configurations.add(world.members)
    return any(each.voters.committed_index(alive) < 1 for each in configurations if each.voters)


def _states(world: World) -> str:
    return "; ".join(
        f"{item.peer_id} {item.node.status.role.value} term {item.node.status.term} commits "
        f"{item.node.status.commit_index} applied {item.machine.index}"
        if item.life is Life.RUNNING
        else f"{item.peer_id} {item.life.value}"
        for item in world.replicas.values()
    )
