"""The simulator: that it repeats itself and shrinks, and a portion of its seeds.

The long sweep is ``make sim``.
"""

from __future__ import annotations

import random

import pytest

from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import Entry, EntryKind, RaftSnapshot
from onceflow_consensus.storage import WriteRequest
from onceflow_consensus.testing.memory_disk import MemoryDisk, PowerCutError
from onceflow_consensus.testing.simulator.__main__ import main
from onceflow_consensus.testing.simulator.disks import new_disk
from onceflow_consensus.testing.simulator.engines import RULES
from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS
from onceflow_consensus.testing.simulator.ledger import Ledger, Property, Violation
from onceflow_consensus.testing.simulator.machine import Machine
from onceflow_consensus.testing.simulator.mutations import mutated
from onceflow_consensus.testing.simulator.plan import DiskKind, draw_plan
from onceflow_consensus.testing.simulator.report import numbers_of, ranges
from onceflow_consensus.testing.simulator.running import play
from onceflow_consensus.testing.simulator.shrinking import shrink
from onceflow_consensus.testing.simulator.surroundings import Observer
from onceflow_consensus.testing.simulator.sweeping import sweep_here

SEEDS = 60
STEPS = 500
COMMON = (
    "elections won",
    "snapshots installed",
    "membership changes applied",
    "torn tails",
    "crashes between write and sync",
    "messages lost",
    "messages doubled",
    "messages replayed",
    "messages held back",
    "messages cut off",
    "pauses",
    "clock jumps",
    "clocks drifting",
    "slow disks",
    "disk failures",
    "disks lost",
    "damage done",
    "reads confirmed",
    "writes acknowledged",
)


@pytest.mark.parametrize("engine", RULES)
def test_a_portion_of_the_seeds_violates_nothing_and_no_fault_is_rare(engine):
    result = sweep_here(engine, STEPS, range(SEEDS))
    assert result.failures == []
    assert result.steps == SEEDS * STEPS
    rare = {name: result.seeds_with[name] for name in COMMON if result.seeds_with[name] < 2}
    assert not rare


@pytest.mark.parametrize("engine", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_seed_repeats_itself(engine, seed):
    first, second = (play(draw_plan(engine, seed, 200)) for _ in range(2))
    assert first.counts == second.counts


def test_a_shorter_plan_is_the_beginning_of_a_longer_one():
    assert draw_plan("raft", 3, 100).actions == draw_plan("raft", 3, 500).actions[:100]


def test_a_failure_shrinks_to_few_actions_that_still_fail(capsys):
    with mutated(KNOWN_BUGS["vote-not-written"]):
        plan = draw_plan("raft", 0, STEPS)
        outcome = play(plan)
        smallest = shrink(plan, outcome)
        again = play(smallest)
        assert len(smallest.actions) < 30
        assert again.violation.broken is outcome.violation.broken
        kept = ranges(smallest.numbers)
        assert main(["--engine", "raft", "--seed", "0", "--only", kept]) == 1
    told = capsys.readouterr().out
    assert f"--engine raft --seed 0 --steps 500 --only {kept}" in told
    assert main(["--engine", "raft", "--seed", "0", "--only", kept]) == 0


def test_a_sweep_and_a_seed_are_told_as_tables(capsys):
    assert main(["--engine", "raft", "--seeds", "2", "--steps", "50"]) == 0
    assert main(["--engine", "raft", "--seed", "1", "--steps", "50"]) == 0
    told = capsys.readouterr().out
    assert "raft: 2 seeds, 100 steps" in told
    assert "raft: 1 seeds, 50 steps" in told


def test_numbers_are_written_as_ranges_and_read_back():
    numbers = [1, 2, 3, 7, 9, 10]
    assert ranges(numbers) == "1-3,7,9-10"
    assert numbers_of("1-3,7,9-10") == numbers


def test_an_observer_sees_every_kind_of_event():
    seen = set()

    class Everything(Observer):
        def __getattribute__(self, name):
            seen.add(name)
            return super().__getattribute__(name)

    for seed in range(6):
        plain = play(draw_plan("raft", seed, STEPS))
        assert play(draw_plan("raft", seed, STEPS), Everything()).counts == plain.counts
    events = {name for name in vars(Observer) if not name.startswith("_")}
    assert events <= seen


MEMBERS = configuration_of(frozenset({1, 2, 3}))


def test_the_ledger_names_what_is_violated():
    ledger = Ledger(1)
    ledger.voted(1, 2, 3)
    with pytest.raises(Violation, match="votes once"):
        ledger.voted(1, 2, 4)
    assert ledger.commits(1, 2, Entry(2, 2))
    assert not ledger.commits(3, 2, Entry(2, 2))
    with pytest.raises(Violation, match="never changes"):
        ledger.commits(2, 3, Entry(3, 2))
    ledger.elected(1, 2, lambda index, term: True)
    with pytest.raises(Violation, match="at most one"):
        ledger.elected(2, 2, lambda index, term: True)
    with pytest.raises(Violation, match="earlier terms"):
        ledger.elected(2, 3, lambda index, term: False)
    ledger.read_floors[b"r"] = 5
    ledger.answered(1, b"r", 5)
    with pytest.raises(Violation) as found:
        ledger.answered(1, b"r", 4)
    assert found.value.broken is Property.READ
    ledger.held(1, (Entry(1, 2), Entry(2, 3)), 1)
    with pytest.raises(Violation, match="below it"):
        ledger.held(2, (Entry(2, 3),), 2)
    with pytest.raises(Violation, match="below it"):
        ledger.held(2, (Entry(2, 3, data=b"x"),), 1)


def test_a_machine_refuses_what_does_not_follow():
    begun = RaftSnapshot(1, 1, MEMBERS, bytes(4))
    machine = Machine(1, Ledger(1), lambda entry: MEMBERS, begun)
    machine.apply((Entry(1, 2, data=b"a"),))
    with pytest.raises(Violation, match="in order, once"):
        machine.apply((Entry(1, 2, data=b"a"),))
    with pytest.raises(Violation, match="in order, once"):
        machine.apply((Entry(1, 4),))
    with pytest.raises(Violation, match="in order, once"):
        Machine(1, Ledger(1), lambda entry: MEMBERS, begun).apply((Entry(1, 1),))


def test_a_machine_skips_what_a_snapshot_brought():
    machine = Machine(1, Ledger(1), lambda entry: MEMBERS, RaftSnapshot())
    machine.restore(RaftSnapshot(3, 1, MEMBERS, bytes(4)))
    machine.apply((Entry(1, 2), Entry(1, 3), Entry(1, 4)))
    assert machine.state().index == 4


def test_a_machine_that_a_snapshot_overtook_waits_for_it():
    machine = Machine(1, Ledger(1), lambda entry: None, RaftSnapshot(1, 1, MEMBERS, bytes(4)))
    machine.apply((Entry(1, 2, EntryKind.CONF_CHANGE_V2), Entry(1, 3)))
    machine.apply((Entry(1, 4),))
    assert machine.state().index == 1
    machine.restore(RaftSnapshot(5, 1, MEMBERS, bytes(4)))
    machine.apply((Entry(1, 6),))
    assert machine.state().index == 6


@pytest.mark.parametrize("kind", DiskKind)
def test_a_disk_keeps_what_was_synced_and_perhaps_what_was_not(kind):
    kept = set()
    for seed in range(40):
        disk = new_disk(kind, RaftSnapshot(1, 1, MEMBERS))
        disk.persist([WriteRequest((Entry(1, 2),))])
        disk.crash([WriteRequest((Entry(1, 3),))], random.Random(seed))
        kept.add(disk.log.last_index)
        with pytest.raises(StorageFailed):
            disk.fail([WriteRequest((Entry(1, 4),))], random.Random(seed))
    assert kept == {2, 3}


def test_a_failed_sync_loses_the_pages_for_good():
    disk = MemoryDisk({"a": b"....."})
    disk.write("a", 0, b"x")
    disk.fail_next = "sync"
    with pytest.raises(StorageFailed):
        disk.sync("a")
    disk.fail_next = None
    disk.write("a", 2, b"y")
    disk.sync("a")
    assert disk.read("a") == b"x.y.."
    assert disk.crash(random.Random(0)).read("a") == b"..y.."


def test_power_is_cut_at_the_operation_named():
    disk = MemoryDisk({"a": b"."})
    disk.cut_power_after = 1
    disk.write("a", 0, b"x")
    with pytest.raises(PowerCutError):
        disk.sync("a")
