"""What each kind of action does to a world.

Every number an action needs is drawn from the action's own chance, with which the world's was
seeded just before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.errors import StorageCorrupt
from onceflow_consensus.testing.simulator import requests
from onceflow_consensus.testing.simulator.disks import PlainDisk
from onceflow_consensus.testing.simulator.ledger import Property, Violation
from onceflow_consensus.testing.simulator.plan import Action, ActionKind
from onceflow_consensus.testing.simulator.process import CrashPoint, Life
from onceflow_consensus.testing.simulator.surroundings import TICK_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.testing.simulator.process import Process
    from onceflow_consensus.testing.simulator.replica import Replica
    from onceflow_consensus.testing.simulator.world import World

_PASSES_MS = (1, 2, 3, 4, 6, 9)
_TICKS_MS = (4, 6, 15, 25)
_MIN_VOTERS_TO_LOSE_ONE = 3
_POWER_CUT_SHARE = 0.15
_PAUSE_MS = (5, 20, 60, 150, 300)
_READ_SHARE = 0.5
_NEEDED_SHARE = 0.3


def perform(world: World, action: Action) -> None:
    """Let an action happen."""
    kind, number = action
    world.choice.seed(number)
    _EFFECTS[kind](world)


def _pass(world: World) -> None:
    world.pass_time(world.choice.choice(_PASSES_MS))


def _crash(world: World) -> None:
    choice = world.choice
    if choice.random() < _POWER_CUT_SHARE:
        victims = [item for item in world.replicas.values() if item.life is not Life.LOST]
        world.counts["power cuts"] += 1
    else:
        one = world.somebody()
        victims = [] if one is None else [one]
    for replica in victims:
        replica.crash()
        world.schedule(choice.randint(1, 80), replica.restart, replica.incarnation)


def _crash_at(world: World) -> None:
    replica = world.somebody()
    if replica is not None:
        replica.armed = world.choice.choice(list(CrashPoint))


def _pause(world: World) -> None:
    replica = world.somebody(0.6)
    if replica is not None:
        world.counts["pauses"] += 1
        duration_ms = world.choice.choice(_PAUSE_MS)
        _read_in_a_share(world, replica)
        if replica.life is Life.RUNNING:
            replica.life = Life.PAUSED
            world.schedule(duration_ms, partial(_resume, world, replica), replica.incarnation)


def _resume(world: World, replica: Replica, incarnation: int) -> Process | None:
    resumed = replica.resume(incarnation)
    if resumed is not None:
        _read_in_a_share(world, replica)
    return resumed


def _read_in_a_share(world: World, replica: Replica) -> None:
    if world.choice.random() < _READ_SHARE:
        requests.read_at(world, replica)


def _read_before_and_after(world: World, replica: Replica, delay_ms: int) -> None:
    """Let a client read from a replica that is cut off, before it knows what it missed.

    What it asked the others for an earlier read may be answered when it is back.
    """
    _read_in_a_share(world, replica)
    world.schedule(delay_ms, partial(requests.read_at, world), replica)


def _pairs(world: World) -> list[tuple[PeerId, PeerId]]:
    peers = sorted(world.replicas)
    return [(one, other) for one in peers for other in peers if one != other]


def _duration_ms(world: World) -> int:
    return world.choice.choice((20, 80, 150, 300))


def _cut(world: World) -> None:
    """Cut links in one direction: some, or all to or from one replica."""
    choice = world.choice
    pairs = _pairs(world)
    target = world.somebody(0.6)
    shape = choice.randrange(3)
    if shape == 0 or target is None:
        chosen = choice.sample(pairs, choice.randint(1, min(4, len(pairs))))
    else:
        chosen = [pair for pair in pairs if pair[shape - 1] == target.peer_id]
    duration_ms = _duration_ms(world)
    if target is not None:
        _read_before_and_after(world, target, duration_ms)
    until_ms = world.now_ms + duration_ms
    world.counts["one-way cuts"] += 1
    world.network.cuts.update(dict.fromkeys(chosen, until_ms))


def _partition(world: World) -> None:
    """Part the group in two that do not hear each other."""
    choice = world.choice
    target = world.somebody(0.6)
    peers = sorted(world.replicas)
    if target is None or choice.random() < 0.4:  # noqa: PLR2004 - a share
        side = set(choice.sample(peers, choice.randint(1, len(peers) - 1)))
    else:
        side = {target.peer_id}
    duration_ms = _duration_ms(world)
    if target is not None:
        _read_before_and_after(world, target, duration_ms)
    until_ms = world.now_ms + duration_ms
    world.counts["partitions"] += 1
    for link in _pairs(world):
        if (link[0] in side) != (link[1] in side):
            world.network.cuts[link] = until_ms


def _clog(world: World) -> None:
    choice = world.choice
    pairs = _pairs(world)
    for link in choice.sample(pairs, choice.randint(1, min(3, len(pairs)))):
        duration_ms = _duration_ms(world)
        _read_before_and_after(world, world.replicas[link[1]], duration_ms - 1)
        world.network.clogs[link] = world.now_ms + duration_ms
    world.counts["links clogged"] += 1


def _storm(world: World) -> None:
    choice = world.choice
    world.network.rage(choice.choice((0.1, 0.3)), choice.choice((0, 0.3)), choice.choice((0, 10)))
    world.counts["storms"] += 1
    world.schedule(_duration_ms(world), _calm, world)


def _calm(world: World) -> None:
    world.network.calm()


def _heal(world: World) -> None:
    world.network.heal()
    for replica in world.replicas.values():
        replica.tick_ms = TICK_MS
        replica.slow_ms = 0


def _replay(world: World) -> None:
    world.network.replay(world.choice.randint(1, 4))


def _slow_disk(world: World) -> None:
    replica = world.somebody()
    if replica is not None:
        replica.slow_ms = world.choice.choice((3, 10, 40))
        world.counts["slow disks"] += 1


def _fail_disk(world: World) -> None:
    replica = world.somebody()
    if replica is not None:
        replica.is_disk_failing = True


def _spendable(world: World) -> Replica | None:
    """Return a running replica that the group can lose: no committed entry may go with it."""
    members = world.members
    if world.lost_members() or members.is_joint:
        return None
    needed = world.needed()
    replica = needed if world.choice.random() < _NEEDED_SHARE else world.somebody()
    voters = members.voters.incoming
    if replica is None or len(voters) < _MIN_VOTERS_TO_LOSE_ONE:
        return None
    return replica


def _rot(world: World) -> None:
    replica = _spendable(world)
    if replica is None or isinstance(replica.disk, PlainDisk):
        return
    replica.crash()
    place = replica.disk.rot(world.choice)
    world.counts["damage done"] += 1
    try:
        replica.disk.recover()
    except StorageCorrupt:
        replica.life = Life.LOST
        world.counts["disks lost"] += 1
        return
    raise Violation(Property.DAMAGE_SEEN, f"{replica.peer_id} starts with damage in {place}")


def _lose_disk(world: World) -> None:
    replica = _spendable(world)
    if replica is not None:
        replica.crash()
        replica.life = Life.LOST
        world.counts["disks lost"] += 1


def _drift(world: World) -> None:
    replica = world.somebody()
    if replica is not None:
        replica.tick_ms = world.choice.choice(_TICKS_MS)
        world.counts["clocks drifting"] += 1


def _jump(world: World) -> None:
    replica = world.somebody(0.2)
    if replica is not None:
        world.counts["clock jumps"] += 1
        for _ in range(world.choice.randint(2, 2 * world.setup.election_ticks)):
            replica.tick_once()
        replica.turn()


_EFFECTS: dict[ActionKind, Callable[[World], None]] = {
    ActionKind.TIME: _pass,
    ActionKind.WRITE: requests.write,
    ActionKind.READ: requests.read,
    ActionKind.CHANGE_MEMBERS: requests.change_members,
    ActionKind.COMPACT: requests.compact,
    ActionKind.TRANSFER: requests.transfer,
    ActionKind.FORGET: requests.forget,
    ActionKind.CAMPAIGN: requests.campaign,
    ActionKind.CRASH: _crash,
    ActionKind.CRASH_AT: _crash_at,
    ActionKind.PAUSE: _pause,
    ActionKind.CUT: _cut,
    ActionKind.PARTITION: _partition,
    ActionKind.CLOG: _clog,
    ActionKind.STORM: _storm,
    ActionKind.HEAL: _heal,
    ActionKind.REPLAY: _replay,
    ActionKind.SLOW_DISK: _slow_disk,
    ActionKind.FAIL_DISK: _fail_disk,
    ActionKind.ROT: _rot,
    ActionKind.LOSE_DISK: _lose_disk,
    ActionKind.REPLACE: requests.replace,
    ActionKind.DRIFT: _drift,
    ActionKind.JUMP: _jump,
    ActionKind.REPORT: requests.report,
}
