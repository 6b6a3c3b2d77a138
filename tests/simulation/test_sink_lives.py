"""Whole epochs with two-phase sinks, simulated from seeds: a portion of `make sim`.

Each life has two or three workers, two sinks, crashes between any two calls, late PREPAREs, unknown
outcomes, duplicated EndTxn, zombies and scans. Broken variants must be caught, each within some
lives, else that nothing is found means nothing.
"""

from __future__ import annotations

import pytest

from harness.epoch_worker import PARTITIONS, Fault, ViolationError
from harness.sink_sweep import HAPPENINGS, catch, sweep, tally
from harness.sink_variants import CAUGHT_FROM, DESIGNED, RARE, ScansByOldMarkers
from harness.sink_world import SinkWorker, SinkWorld, run_sinks
from onceflow.decisions import branch_steps as bs
from onceflow.decisions import epoch_events as ev
from simulation.epochs import main

SEEDS = 200
LIVES_MAX = 150


def test_a_portion_of_the_seeds_violates_nothing_and_nothing_is_rare():
    result = sweep(range(SEEDS))
    assert result.failures == {}
    assert [name for name in HAPPENINGS if not result.counts[name]] == []


@pytest.mark.parametrize("rule", [rule for rule in DESIGNED if rule not in RARE])
def test_a_broken_rule_is_caught(rule: str):
    """From a seed that showed it on: a rule that is broken rarely would take minutes otherwise."""
    first = CAUGHT_FROM.get(rule, 0)
    assert catch(rule, range(first, first + LIVES_MAX)) is not None


def test_seeds_that_showed_a_violation_once_show_none():
    """19480: a worker left a partition unreleased, and prepared its first branch after that."""
    assert sweep(range(19480, 19481)).failures == {}


def test_a_life_repeats_itself():
    first, second = run_sinks(7), run_sinks(7)
    assert first.story() == second.story()
    assert tally(first) == tally(second)


def test_the_long_variant_counts_what_happened(capsys: pytest.CaptureFixture[str]):
    assert main(["--first", "5", "--seeds", "8", "--processes", "1"]) == 0
    assert "8 lives" in capsys.readouterr().out


def test_a_violation_tells_its_seed_and_its_story(capsys: pytest.CaptureFixture[str]):
    arguments = ["--first", "3", "--seeds", "3", "--processes", "1"]
    assert main([*arguments, "--broken", "prepare over an unfinished branch"]) == 1
    text = capsys.readouterr().out
    assert "INV-2PC-" in text
    assert "Prepare" in text


def released_with_a_late_branch(worker_class: type[SinkWorker]) -> SinkWorld:
    """Worker 0 released everything, then a PREPARE of an aborted attempt of its arrived."""
    world = SinkWorld(worker_class, 2)
    for slot in (0, 1):
        world.start(slot)
    owner = world.workers[0]
    assert isinstance(owner, SinkWorker)
    world.assign(0, frozenset([PARTITIONS[0]]))
    come_to_rest(owner)
    owner.begin_record(PARTITIONS[0])
    owner.finish_record(0)
    owner.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    while owner.job is not None and owner.job[0] != "prepare":
        owner.step_job()
    owner.step_job(Fault.DELAYED)
    while owner.step_job() or owner.step_branch():
        world.check()
    world.revoke(0, frozenset(PARTITIONS))
    come_to_rest(owner)
    assert world.owned(owner) == frozenset()
    world.sinks["a"].arrive(0)
    assert world.sinks["a"].prepared
    return world


def come_to_rest(worker: SinkWorker) -> None:
    while worker.step_by_itself():
        worker.world.check()


def scan_while_the_owner_claims_again(world: SinkWorld) -> None:
    owner, scanner = world.workers
    assert isinstance(owner, SinkWorker)
    assert isinstance(scanner, SinkWorker)
    scanner.begin_scan()
    for _ in range(3):
        scanner.step_scan()
    assert isinstance(scanner.scan_job, bs.ListBranches)
    # Behind the fence, before the list: the owner comes back and commits an epoch with rows.
    world.assign(0, frozenset([PARTITIONS[0]]))
    come_to_rest(owner)
    owner.begin_record(PARTITIONS[0])
    owner.finish_record(0)
    owner.handle(ev.CommitDue(ev.CommitReason.INTERVAL))
    while not world.broker.committed_offset(PARTITIONS[0]):
        assert owner.step_job() or owner.step_branch()
    while scanner.step_scan():
        world.check()
    world.settle()


def test_a_scan_leaves_alone_who_claims_again_behind_its_fence():
    scan_while_the_owner_claims_again(released_with_a_late_branch(SinkWorker))


def test_a_scan_by_markers_read_before_its_fence_is_caught():
    with pytest.raises(ViolationError, match="INV-2PC-2"):
        scan_while_the_owner_claims_again(released_with_a_late_branch(ScansByOldMarkers))
