"""What clients and operators ask of a group: writes, reads, members, snapshots, leadership.

What is asked may make no sense: an engine has to take, drop or refuse it without harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import ConsensusError
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange, Transition
from onceflow_consensus.raft.node import Report
from onceflow_consensus.testing.simulator.process import Life

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.testing.simulator.replica import Replica
    from onceflow_consensus.testing.simulator.world import World

_MAX_PROCESSES = 8
_PADDING_BYTES = (0, 0, 0, 10, 50)


def _attempt(replica: Replica, request: Callable[[], None]) -> bool:
    """Ask a replica for something; return whether it was taken."""
    try:
        request()
    except ConsensusError:
        return False
    finally:
        replica.observe()
    return True


def write(world: World) -> None:
    """Propose one or several writes."""
    replica = _asked(world)
    if replica is None:
        return
    count = world.choice.choice((1, 1, 1, 2, 4))
    padding = bytes(world.choice.choice(_PADDING_BYTES))
    payloads = [b"w%d." % (world.asked + number) + padding for number in range(count)]
    world.asked += count
    if _attempt(replica, lambda: replica.node.propose(*payloads)):
        for payload in payloads:
            world.ledger.asked[payload] = replica.peer_id
    replica.turn()


def read(world: World) -> None:
    """Ask for a linearizable read."""
    read_at(world, _asked(world))


def read_at(world: World, replica: Replica | None) -> None:
    """Ask a replica for a linearizable read."""
    if replica is None or replica.life is not Life.RUNNING:
        return
    world.asked += 1
    context = b"r%d" % world.asked
    world.ledger.read_floors[context] = world.ledger.highest_index
    _attempt(replica, lambda: replica.node.read_index(context))
    replica.turn()


def _asked(world: World) -> Replica | None:
    """Return whom a client asks: mostly who leads, or believes so though it was replaced."""
    return world.choice.choice([*world.all_leading(), world.somebody(0.7)])


def _propose_change(world: World, change: ConfChange) -> None:
    replica = _asked(world)
    if replica is None:
        return
    if _attempt(replica, lambda: replica.node.propose_conf_change(change)):
        world.counts["membership changes proposed"] += 1
    replica.turn()


def change_members(world: World) -> None:
    """Propose a membership change, sensible or not."""
    choice = world.choice
    candidates = [item.peer_id for item in world.replicas.values() if item.life is not Life.LOST]
    if world.members.is_joint and choice.random() < 0.5:  # noqa: PLR2004 - a share
        _propose_change(world, ConfChange())
        return
    singles = tuple(
        SingleChange(choice.choice(_OPERATIONS), choice.choice(candidates))
        for _ in range(choice.choice((1, 1, 1, 2, 3)))
    )
    transition = choice.choice(list(Transition)) if len(singles) > 1 else Transition.AUTO
    _propose_change(world, ConfChange(singles, transition))


_OPERATIONS = (
    ChangeOp.ADD_VOTER,
    ChangeOp.ADD_VOTER,
    ChangeOp.ADD_LEARNER,
    ChangeOp.REMOVE,
    ChangeOp.UPDATE,
)


def replace(world: World) -> None:
    """Do what an operator does for a replica whose disk is lost: another one in its place."""
    lost = world.lost_members()
    members = world.members
    if lost:
        spare = next(
            (item.peer_id for item in world.running if item.peer_id not in members.peer_ids), None
        )
        if spare is None and len(world.replicas) < _MAX_PROCESSES:
            spare = world.add_replica()
        singles = [SingleChange(ChangeOp.REMOVE, lost[0])]
        if spare is not None:
            singles.append(SingleChange(ChangeOp.ADD_LEARNER, spare))
        _propose_change(world, ConfChange(tuple(singles)))
    elif members.learners and world.counts["disks lost"]:
        promoted = min(members.learners)
        _propose_change(world, ConfChange((SingleChange(ChangeOp.ADD_VOTER, promoted),)))


def compact(world: World) -> None:
    """Let a replica save its state and drop what that covers."""
    replica = world.somebody(0.5)
    if replica is not None:
        replica.compact(world.choice.choice((0, 0, 2, 5)))
        replica.turn()


def transfer(world: World) -> None:
    """Ask for a transfer of leadership to anybody."""
    replica = world.somebody(0.7)
    if replica is not None:
        target = world.choice.choice(sorted(world.replicas))
        replica.node.transfer_leadership(target)
        world.counts["transfers asked for"] += 1
        replica.observe()
        replica.turn()


def forget(world: World) -> None:
    """Make a follower forget who leads."""
    replica = world.somebody(0.0)
    if replica is not None:
        world.forget_leader(replica.peer_id)
        replica.turn()


def campaign(world: World) -> None:
    """Call an election."""
    replica = world.somebody(0.0)
    if replica is not None:
        replica.node.campaign()
        replica.observe()
        replica.turn()


def report(world: World) -> None:
    """Tell a replica something about a peer, true or not."""
    replica = world.somebody(0.8)
    if replica is not None:
        peer_id = world.choice.choice(sorted(world.replicas))
        replica.node.report(peer_id, world.choice.choice(list(Report)))
        replica.observe()
        replica.turn()
