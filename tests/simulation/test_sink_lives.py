"""Whole epochs with two-phase sinks, simulated from seeds: a portion of `make sim`.

Each life has two or three workers, two sinks, crashes between any two calls, late PREPAREs, unknown
outcomes, duplicated EndTxn, zombies and scans. Broken variants must be caught, each within some
lives, else that nothing is found means nothing.
"""

from __future__ import annotations

import pytest

from harness.sink_sweep import HAPPENINGS, catch, sweep, tally
from harness.sink_variants import CAUGHT_FROM, DESIGNED, RARE
from harness.sink_world import run_sinks
from simulation.epochs import main

SEEDS = 300
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


def test_a_life_repeats_itself():
    first, second = run_sinks(7), run_sinks(7)
    assert first.story() == second.story()
    assert tally(first) == tally(second)


def test_the_long_variant_counts_what_happened(capsys: pytest.CaptureFixture[str]):
    assert main(["--first", "5", "--seeds", "8", "--processes", "1"]) == 0
    assert "8 lives" in capsys.readouterr().out


def test_a_violation_tells_its_seed_and_its_story(capsys: pytest.CaptureFixture[str]):
    arguments = ["--first", "0", "--seeds", "3", "--processes", "1"]
    assert main([*arguments, "--broken", "prepare over an unfinished branch"]) == 1
    text = capsys.readouterr().out
    assert "INV-2PC-" in text
    assert "Prepare" in text
