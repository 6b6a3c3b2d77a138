"""Rules of the package that no linter knows: imports, documents, invariants, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onceflow_consensus
from onceflow_consensus.raft.roles import state_diagram

PACKAGE = Path(onceflow_consensus.__file__).parent
README = PACKAGE.parent / "README.md"
TESTS = Path(__file__).parents[2]
MODULES = sorted(PACKAGE.rglob("*.py"))
NO_IO = {
    "asyncio", "threading", "socket", "selectors", "subprocess", "time", "random", "os", "logging",
    "secrets", "io", "pathlib",
}  # fmt: skip


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_do_not_import_the_application(path):
    names = set(imported(path))
    assert not {name for name in names if name.partition(".")[0] == "onceflow"}


@pytest.mark.parametrize("room", ["raft", "paxos", "quorum"])
def test_the_engine_imports_nothing_that_does_io_and_no_tests(room):
    for path in (PACKAGE / room).glob("*.py"):
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not roots & NO_IO, path
        assert not any("onceflow_consensus.testing" in name for name in imported(path)), path


def test_the_engine_loads_with_one_other_package_for_its_values():
    script = (
        "import sys; before = set(sys.modules); import onceflow_consensus.raft.node; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    # msgspec takes what stands in for newer types of the standard library, where it is installed.
    assert {*done.stdout.split()} - {"typing_extensions"} == {"msgspec", "onceflow_consensus"}


def test_the_readme_shows_the_diagram_of_the_table():
    assert f"```mermaid\n{state_diagram()}\n```" in README.read_text(encoding="utf-8")


def test_every_invariant_is_explained_checked_and_tested():
    def ids(text):
        return set(re.findall(r"INV-[A-Z]+-\d+", text))

    code = set().union(*(ids(path.read_text(encoding="utf-8")) for path in MODULES))
    tests = set().union(
        *(
            ids(path.read_text(encoding="utf-8"))
            for path in (TESTS / "unit/consensus").rglob("test_*.py")
        )
    )
    explained = ids(README.read_text(encoding="utf-8"))
    assert code == explained
    assert code <= tests


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 70, node.name
        if isinstance(node, ast.ClassDef):
            public = [
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
            ]
            assert len(public) <= 15, node.name
