"""``onceflow txn`` without servers: help, ids, and what is shown of a record."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from onceflow.cli import main
from onceflow.cli.txn_shown import (
    print_document,
    print_transactions,
    read_id,
    shown_id,
    summary_of,
    unrecorded,
    whole,
)
from onceflow.coordinator.vocabulary import (
    Decision,
    Finding,
    HeuristicNote,
    Standing,
    Transaction,
    TransactionRow,
    TxnState,
)
from onceflow.errors import ConfigError
from onceflow.ids import BranchId

BRANCH = BranchId("-w", 7)
RECORDED = Transaction(
    3,
    "-w",
    7,
    TxnState.COMMITTED,
    Decision.COMMIT,
    [("t", [0, 1])],
    ["pg"],
    [("pg", "of1.x")],
    "m",
    "v",
    [HeuristicNote("pg", Finding.BRANCH_MISSING, "gone", "v", 9)],
    1_000,
    2_000,
    4,
)
ROW = TransactionRow("scope", "orders", Standing.OPEN, RECORDED)


@pytest.mark.parametrize("command", [(), ("list",), ("show",), ("resolve",)])
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as left:
        main(["txn", *command, "--help"])
    assert left.value.code == 0
    assert not command or "Example: onceflow txn" in " ".join(capsys.readouterr().out.split())


def test_help_loads_neither_engine_nor_group():
    code = (
        "import sys, onceflow.cli.txn; "
        "sys.exit(any(name.split('.')[0] in ('faust', 'onceflow_consensus')"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_ids_are_read_as_they_are_shown():
    assert read_id(shown_id(BRANCH)) == BRANCH
    for wrong in ("7", "7@", "@w", "x@w", "-7@w", "7:w"):
        with pytest.raises(ConfigError, match="EPOCH@INCARNATION"):
            read_id(wrong)


def test_documents_have_the_same_fields_wherever_a_transaction_comes_from():
    recorded = summary_of(ROW, 61_000, ["pg"], is_proven=True)
    found = unrecorded(BRANCH, "orders", "scope", ["pg"], is_proven=False)
    assert list(recorded) == list(found)
    assert (recorded["id"], recorded["state"], recorded["age_s"]) == ("7@-w", "committed", 60.0)
    assert (found["id"], found["state"], found["age_s"]) == ("7@-w", "not_recorded", None)
    assert json.loads(json.dumps(whole(ROW, 61_000))) == recorded | {
        "prepared_in": None,
        "is_proven": None,
        "partitions": [{"topic": "t", "partitions": [0, 1]}],
        "branches": [{"participant": "pg", "gid": "of1.x"}],
        "marker": "m",
        "decided_by": "v",
        "begun_unix_ms": 1_000,
        "decided_unix_ms": 2_000,
        "log_index": 4,
    }


def test_tables_and_documents_are_readable(capsys):
    print_transactions([summary_of(ROW, 61_000, [], is_proven=True)])
    table = capsys.readouterr().out
    for word in ("7@-w", "60 s", "commit (proven)", "branch_missing"):
        assert word in table
    print_document({"id": "7@-w", "evidence": {"proofs": ["a marker"]}, "recorded": [{"x": 1}]})
    assert capsys.readouterr().out.splitlines() == [
        "id: 7@-w",
        "evidence:",
        "  proofs:",
        "    - a marker",
        "recorded:",
        "  - x 1",
    ]
    print_document({"recorded": [{"x": 1, "y": [2]}]})
    assert capsys.readouterr().out.splitlines() == [
        "recorded:",
        "  -",
        "    x: 1",
        "    y:",
        "      - 2",
    ]
