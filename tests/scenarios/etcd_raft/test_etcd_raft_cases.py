"""Every case of etcd-raft that stands beside this file, and proof that a difference is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from onceflow_consensus.testing import casefile, confchange, quorum

HERE = Path(__file__).parent
KINDS = {"quorum": quorum.KIND, "confchange": confchange.KIND}
EXPECTED_DIRECTIVES = {
    "confchange/joint_autoleave.txt": 4,
    "confchange/joint_idempotency.txt": 3,
    "confchange/joint_learners_next.txt": 3,
    "confchange/joint_safety.txt": 15,
    "confchange/simple_idempotency.txt": 11,
    "confchange/simple_promote_demote.txt": 7,
    "confchange/simple_safety.txt": 11,
    "confchange/update.txt": 3,
    "confchange/zero.txt": 1,
    "quorum/joint_commit.txt": 50,
    "quorum/joint_vote.txt": 39,
    "quorum/majority_commit.txt": 16,
    "quorum/majority_vote.txt": 22,
}


def case_files():
    return sorted(
        str(path.relative_to(HERE)) for kind in KINDS for path in (HERE / kind).glob("*.txt")
    )


def test_the_cases_that_are_expected_are_there_and_no_others():
    assert case_files() == sorted(EXPECTED_DIRECTIVES)


@pytest.mark.parametrize("name", sorted(EXPECTED_DIRECTIVES))
def test_every_directive_of_the_case_gives_what_etcd_gives(name):
    text = (HERE / name).read_text(encoding="utf-8")
    assert len(casefile.parse(text)) == EXPECTED_DIRECTIVES[name]
    kind = KINDS[name.partition("/")[0]]
    differences = casefile.run_text(kind, text)
    assert [difference for _, difference in differences] == []


def run_command(kind, *paths):
    return subprocess.run(
        [sys.executable, "-m", f"onceflow_consensus.testing.{kind}", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_passes_on_the_unchanged_files(kind):
    files = sorted((HERE / kind).glob("*.txt"))
    done = run_command(kind, *files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("pass ") == sum(
        count for name, count in EXPECTED_DIRECTIVES.items() if name.startswith(kind)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_refuses_an_unknown_directive_and_argument_and_a_missing_file(kind, tmp_path):
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("conjure 1\n----\nok\n", encoding="utf-8")
    assert run_command(kind, unknown).returncode == 2
    assert run_command(kind, tmp_path / "absent.txt").returncode == 2
    assert run_command(kind).returncode == 2
    known = {"quorum": "vote", "confchange": "simple", "interaction": "stabilize"}[kind]
    unknown.write_text(f"{known} surprise=1\n----\nok\n", encoding="utf-8")
    assert run_command(kind, unknown).returncode == 2


def test_a_changed_quorum_value_is_reported(tmp_path):
    original = (HERE / "quorum/joint_commit.txt").read_text(encoding="utf-8")
    changed = original.replace("x>    100    (id=1)\n", "x>    101    (id=1)\n", 1)
    assert changed != original
    case = tmp_path / "changed.txt"
    case.write_text(changed, encoding="utf-8")
    done = run_command("quorum", case)
    assert done.returncode == 1
    assert done.stdout.count("difference ") == 1
    assert "+x>    100    (id=1)" in done.stdout


def test_a_changed_configuration_is_reported(tmp_path):
    original = (HERE / "confchange/joint_autoleave.txt").read_text(encoding="utf-8")
    changed = original.replace("voters=(1 2 3)&&(1) autoleave", "voters=(1 2 3)&&(1)")
    assert changed != original
    case = tmp_path / "changed.txt"
    case.write_text(changed, encoding="utf-8")
    done = run_command("confchange", case)
    assert done.returncode == 1
    assert done.stdout.count("difference ") == 1
    assert "+voters=(1 2 3)&&(1) autoleave" in done.stdout
