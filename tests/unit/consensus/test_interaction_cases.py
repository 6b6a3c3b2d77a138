"""Our own interaction cases, and what the runner refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from onceflow_consensus.testing import casefile, interaction

CASES = sorted((Path(__file__).parent / "interaction_cases").glob("*.txt"))
ETCD_CASES = Path(__file__).parents[2] / "scenarios/etcd_raft/interaction"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_case_goes_as_it_is_written(path):
    differences = casefile.run_text(interaction.KIND, path.read_text(encoding="utf-8"))
    assert [difference for _, difference in differences] == []


def test_the_cases_use_every_directive():
    used = {
        directive.command
        for path in [*CASES, *ETCD_CASES.glob("*.txt")]
        for directive in casefile.parse(path.read_text(encoding="utf-8"))
    }
    assert used == set(interaction.DIRECTIVES)


TWO = "add-nodes 2 voters=(1,2) index=2\n----\nok\n\n"


@pytest.mark.parametrize(
    "header",
    [
        "conjure 1",
        "campaign",
        "campaign 1 2",
        "campaign x",
        "campaign 3",
        "campaign 1 force=true",
        "add-nodes 1 colour=red",
        "add-nodes 1 prevote=maybe",
        "add-nodes 1 index=(1,2)",
        "add-nodes 1 read-only=never",
        "add-nodes 1 voters=(a)",
        "log-level loud",
        "deliver-msgs 1 type=MsgUnheard",
        "deliver-msgs 1 drop=(1)",
        "process-ready",
        "propose 1",
        "propose-conf-change 1 transition=sideways",
        "propose-conf-change 1 v1=perhaps",
        "set-randomized-election-timeout 1",
        "set-randomized-election-timeout 1 timeout=soon",
        "transfer-leadership from=1",
        "transfer-leadership from=1 to=9",
        "report-unreachable 1",
        "stabilize 9",
        "stabilize log-level=loud",
        "raft-state 1",
    ],
)
def test_an_unknown_directive_argument_value_or_replica_is_unreadable(header):
    with pytest.raises(casefile.CaseUnreadable, match="line 5"):
        casefile.run_text(interaction.KIND, f"{TWO}{header}\n----\nok\n")


def test_an_unknown_change_is_unreadable():
    with pytest.raises(casefile.CaseUnreadable, match="unknown change"):
        casefile.run_text(interaction.KIND, f"{TWO}propose-conf-change 1\nx3\n----\nok\n")


V1_REFUSAL = "v1 conf change can only have one operation and no transition"
NO_BOOTSTRAP = "index must be specified as > 1 due to bootstrap"
ALL_OPTIONS = (
    "add-nodes 1 voters=(3) index=2 inflight=4 content=abc read-only=lease-based "
    "checkquorum=true step-down-on-removal=true"
)
STATES = "1: StateFollower (Voter) Term:0 Lead:0\n2: StateFollower (Voter) Term:0 Lead:0"


@pytest.mark.parametrize(
    ("header", "output"),
    [
        ("propose 1 x", "raft proposal dropped"),
        ("propose-conf-change 1 v1=true\nv3 v4", V1_REFUSAL),
        ("propose-conf-change 1 v1=true transition=explicit\nv3", V1_REFUSAL),
        ("deliver-msgs 1", "no messages"),
        ("raft-log 1", "log is empty: first index=3, last index=2"),
        ("compact 1 2", "requested index is unavailable due to compaction"),
        ("process-append-thread 1", "no append work to perform"),
        ("process-apply-thread 1", "no apply work to perform"),
        ("add-nodes 1 voters=(1) index=1", NO_BOOTSTRAP),
        ("add-nodes 1", "ok"),
        (ALL_OPTIONS, "ok"),
        ("status 1", "ok"),
        ("raft-state", STATES),
    ],
)
def test_what_a_directive_answers(header, output):
    text = f"{TWO}{header}\n----\n{output}\n"
    assert casefile.run_text(interaction.KIND, text) == []
    assert casefile.run_text(interaction.KIND, text.replace(output, output + " not")) != []


def test_refusals_are_told_even_while_the_rest_is_quiet():
    text = f"{TWO}log-level none\n----\nok\n\npropose 1 x\n----\nraft proposal dropped\n"
    assert casefile.run_text(interaction.KIND, text) == []


def test_options_that_cannot_work_and_impossible_steps_are_differences():
    for header in ("add-nodes 1 read-only=lease-based", "compact 1 9"):
        ((_, difference),) = casefile.run_text(interaction.KIND, f"{TWO}{header}\n----\nok\n")
        assert difference.startswith("the engine stopped")


def test_an_answer_of_a_stranger_is_refused_in_the_words_of_the_cases():
    text = (
        "add-nodes 1 voters=(1,2) index=2\n----\nok\n\n"
        "add-nodes 1 voters=(2) index=3\n----\nok\n\n"
        "log-level none\n----\nok\n\nsend-snapshot 2 1\n----\nok\n\n"
        "stabilize 1\n----\nok\n\nlog-level info\n----\nok\n\n"
        "deliver-msgs 2\n----\n"
        "1->2 MsgAppResp Term:0 Log:0/2\nraft: cannot step as peer not found\n"
    )
    assert casefile.run_text(interaction.KIND, text) == []
