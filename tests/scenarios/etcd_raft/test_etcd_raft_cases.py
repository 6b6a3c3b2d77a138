"""Every case of etcd-raft that stands beside this file, and proof that a difference is seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from onceflow_consensus.testing import casefile, confchange, interaction, quorum

HERE = Path(__file__).parent
KINDS = {"quorum": quorum.KIND, "confchange": confchange.KIND, "interaction": interaction.KIND}
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
    "interaction/campaign.txt": 4,
    "interaction/campaign_learner_must_vote.txt": 12,
    "interaction/checkquorum.txt": 15,
    "interaction/confchange_v1_add_single.txt": 6,
    "interaction/confchange_v1_remove_leader.txt": 21,
    "interaction/confchange_v2_add_double_auto.txt": 19,
    "interaction/confchange_v2_add_single_explicit.txt": 11,
    "interaction/heartbeat_resp_recovers_from_probing.txt": 11,
    "interaction/lagging_commit.txt": 17,
    "interaction/prevote.txt": 16,
    "interaction/probe_and_replicate.txt": 74,
    "interaction/replicate_pause.txt": 32,
    "interaction/single_node.txt": 4,
    "interaction/snapshot_succeed_via_app_resp.txt": 18,
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


LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR) ")


def is_compared(kind, line, value):
    """Whether a word of a line counts; only of stories some do not."""
    is_sync = line[: value.start()].endswith("MustSync=")
    return kind != "interaction" or not (LOG_LINE.match(line) or is_sync)


def falsehoods(kind, expected):
    """Every expected output with one word or number changed, and with one line left out."""
    lines = expected.splitlines()
    for number, line in enumerate(lines):
        values = [value for value in re.finditer(r"\w+", line) if is_compared(kind, line, value)]
        for value in values:
            changed = line[: value.end()] + "7" + line[value.end() :]
            yield "\n".join([*lines[:number], changed, *lines[number + 1 :]])
        if values and line.strip() != "ok":
            yield "\n".join([*lines[:number], *lines[number + 1 :]])


@pytest.mark.parametrize("name", sorted(EXPECTED_DIRECTIVES))
def test_any_changed_value_and_any_missing_line_is_reported(name):
    """Each on its own; the engine gives what it gives, and the comparison must differ."""
    kind = KINDS[name.partition("/")[0]]
    runner = kind.new_runner()
    changed_values = 0
    for directive in casefile.parse((HERE / name).read_text(encoding="utf-8")):
        got = kind.project(runner(directive))
        assert kind.project(directive.expected) == got
        for false in falsehoods(kind.name, directive.expected):
            assert kind.project(false) != got, (directive.line, false)
            changed_values += 1
    assert changed_values > 0


def test_log_lines_and_must_sync_are_not_compared_but_lost_and_doubled_messages_are():
    base = "> 1 handling Ready\n  Ready MustSync=true:\n  Messages:\n  1->2 MsgApp Term:1\n"
    assert interaction.project(base) == interaction.project(
        base.replace("true", "false").replace("  Messages", "  INFO 1 said\n  Messages")
    )
    assert interaction.project(base) != interaction.project(base + "  1->2 MsgApp Term:1\n")
    two = base + "  1->3 MsgApp Term:1 Entries:[\n    1/1 EntryNormal\n  ]\n"
    swapped = two.splitlines()
    swapped.append(swapped.pop(3))
    assert interaction.project(two) == interaction.project("\n".join(swapped))
    assert interaction.project("ok") == interaction.project("INFO 1 said") == ""


@pytest.mark.parametrize(
    ("name", "original", "changed"),
    [
        ("campaign.txt", "2->1 MsgVoteResp Term:1", "2->1 MsgVoteResp Term:2"),
        ("replicate_pause.txt", "inflight=3[full]", "inflight=2"),
        ("probe_and_replicate.txt", "1/12 EntryNormal", "2/12 EntryNormal"),
        ("confchange_v2_add_double_auto.txt", "VotersOutgoing:[1]", "VotersOutgoing:[]"),
        ("checkquorum.txt", "StateFollower", "StateLeader"),
    ],
)
def test_the_command_reports_a_changed_value(name, original, changed, tmp_path):
    text = (HERE / "interaction" / name).read_text(encoding="utf-8")
    assert original in text
    case = tmp_path / name
    case.write_text(text.replace(original, changed, 1), encoding="utf-8")
    done = run_command("interaction", case)
    assert done.returncode == 1
    assert done.stdout.count("difference ") == 1
