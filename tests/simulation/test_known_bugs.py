"""Known bugs put back one by one: each fits the code, and a quick part of them is found.

All of them are looked for by ``make sim ARGS=--mutations``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from onceflow_consensus.testing.simulator.__main__ import main
from onceflow_consensus.testing.simulator.engines import RULES
from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS, UNFOUND
from onceflow_consensus.testing.simulator.mutations import Mutation, MutationStale, mutated
from onceflow_consensus.testing.simulator.plan import draw_plan
from onceflow_consensus.testing.simulator.running import play
from onceflow_consensus.testing.simulator.sweeping import seed_that_kills

QUICK = (
    "majority-minus-one",
    "own-vote-counted-twice",
    "append-acknowledged-before-it-is-durable",
    "vote-not-written",
    "vote-for-a-log-that-is-behind",
    "rejection-counted-as-acknowledgement",
    "delayed-append-cuts-newer-entries",
    "heartbeat-commits-what-the-follower-lacks",
    "read-before-the-first-commit-of-a-term",
    "applied-again-after-a-restart",
    "probing-never-resumed",
    "joint-configuration-never-left",
    "no-sync",
    "torn-tail-taken-for-damage",
    "log-compacted-above-the-snapshot",
    "promises-sent-before-the-write",
    "machine-behind-its-snapshot",
)
"""Bugs that one of the first seeds finds."""
FIRST_SEEDS = range(40)

UNIT = Path(__file__).parents[1] / "unit/consensus"
CASES = {
    "ballot-given-up-never": "test_paxos_preparation.py::"
    "test_a_proposer_gives_up_when_what_it_must_adopt_does_not_come",
    "more-acknowledged-than-proven": "test_raft_paper.py::"
    "test_5_3_an_acknowledgement_names_only_what_its_append_proved",
    "more-committed-than-proven": "test_raft_paper.py::"
    "test_5_3_a_commit_index_beyond_what_an_append_proved_is_not_believed",
    "older-snapshot-installed": "test_paxos_engine.py::"
    "test_snapshots_are_taken_if_they_bring_something_and_know_this_replica",
    "write-report-for-replaced-entries-believed": "raft/test_log.py::"
    "test_a_late_report_of_the_writer_does_not_free_what_replaced_its_entries",
}
"""Which test of an engine finds a bug that no seed is known to find."""

WITH_A_BUG = """
import sys, pytest
from onceflow_consensus.testing.simulator.known_bugs import KNOWN_BUGS
from onceflow_consensus.testing.simulator.mutations import put_in
put_in(KNOWN_BUGS[sys.argv[1]])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]]))
"""


def test_there_are_at_least_twenty_known_bugs():
    assert set(KNOWN_BUGS) > set(UNFOUND)
    found = [bug for name, bug in KNOWN_BUGS.items() if name not in UNFOUND]
    assert sum(bug.engine != "paxos" for bug in found) >= 20
    assert sum(bug.engine != "raft" for bug in found) >= 20


@pytest.mark.parametrize("bug", KNOWN_BUGS.values(), ids=KNOWN_BUGS)
def test_a_bug_fits_the_code_and_is_taken_out_again(bug):
    with mutated(bug):
        pass
    with mutated(bug):
        pass


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_bug_is_found(name):
    bug = KNOWN_BUGS[name]
    engine = bug.engine if bug.engine in RULES else "raft"
    with mutated(bug):
        assert any(play(draw_plan(engine, seed, 500)).violation for seed in FIRST_SEEDS)


@pytest.mark.parametrize("name", sorted(UNFOUND))
def test_a_bug_that_no_seed_is_known_to_find_is_found_by_a_test_of_the_engine(name):
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_BUG, name, str(UNIT / CASES[name])],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=UNIT.parents[2],
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 failed" in done.stdout


def test_a_bug_that_does_not_fit_the_code_is_an_error():
    stale = Mutation("stale", "raft", "raft.matching:is_up_to_date", "no such text", "")
    with pytest.raises(MutationStale, match="stands 0 times"), mutated(stale):
        pass


def test_a_bug_is_found_in_a_process_of_its_own():
    assert seed_that_kills("vote-not-written", "raft", 100, range(3)) is not None
    assert play(draw_plan("raft", 0, 100)).violation is None


def test_a_sweep_with_a_bug_fails_and_tells_the_seed(capsys):
    wanted = ["--engine", "raft", "--seeds", "3", "--steps", "60", "--mutation", "vote-not-written"]
    with mutated(KNOWN_BUGS["vote-not-written"]):
        assert main(wanted) == 1
    assert "FAILED seed 0" in capsys.readouterr().out
