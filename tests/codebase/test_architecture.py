"""app/ARCHITECTURE.md against the code: the walk of a record, the invariants, the layers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

import pytest

from codebase.sources import (
    ROOT,
    Module,
    dotted,
    expect_none,
    functions,
    nodes,
    parse,
    production,
    suite_text,
)

HOPS_MAX = 12
ARCHITECTURE = ROOT / "app" / "ARCHITECTURE.md"
INVARIANT_ID = re.compile(r"INV-[A-Z0-9]+(?:-[0-9]+)?\b")
PURE_ROOMS = ("onceflow.decisions", "onceflow.state", "onceflow.settings", "onceflow.columns")


def layers() -> list[str]:
    """The rooms from the highest to the lowest, as import-linter checks them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    ordered = next(item for item in contracts if item["type"] == "layers")["layers"]
    return [str(line) for line in ordered]


def layer_of(module: str, order: list[str]) -> int:
    """Height of the layer of a module: 0 is the lowest."""
    for index, line in enumerate(reversed(order)):
        if any(module == room or module.startswith(room + ".") for room in line.split(" | ")):
            return index
    return -1


def walk_hops(text: str) -> list[str]:
    block = re.search(r"```walk\n(.*?)```", text, re.DOTALL)
    lines = block.group(1).splitlines() if block else []
    return [line.split()[0] for line in lines if line.strip()]


def wrong_hops(hops: list[str], modules: tuple[Module, ...], order: list[str]) -> list[str]:
    """Return what is wrong with a walk: unknown places, and turns back up.

    A record rises once, from the poll thread into the engine; after the first step down it never
    goes up again.
    """
    known = {
        f"{module.name}:{function.qualname}" for module in modules for function in functions(module)
    }
    wrong = [f"{hop} does not exist" for hop in hops if hop not in known]
    heights = [layer_of(hop.split(":")[0], order) for hop in hops]
    descending = False
    for hop, before, after in zip(hops[1:], heights, heights[1:], strict=False):
        if after > before and descending:
            wrong.append(f"{hop} goes back up a layer")
        descending = descending or after < before
    return wrong


def invariant_rows(text: str) -> dict[str, str]:
    """Return id → ``checked`` or ``planned``, by the last cell of its row in a table."""
    rows = re.findall(r"^\| (INV-[A-Z0-9-]+) \|(?:.*\|)? (.*) \|$", text, re.MULTILINE)
    return {name: "planned" if last == "planned" else "checked" for name, last in rows}


def checked_invariants(modules: tuple[Module, ...]) -> set[str]:
    """Return the ids that a call of ``invariant`` begins its message with."""
    found: set[str] = set()
    for module in modules:
        for node in nodes(module):
            if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "invariant":
                for text in ast.walk(node):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        found.update(INVARIANT_ID.findall(text.value))
    return found


@pytest.fixture(scope="module")
def architecture() -> str:
    return ARCHITECTURE.read_text("utf-8")


@pytest.fixture(scope="module")
def invariants() -> dict[str, str]:
    """The tables of both packages together, id → state."""
    documents = [ARCHITECTURE, *(ROOT / "consensus").glob("*.md")]
    tables = [invariant_rows(document.read_text("utf-8")) for document in documents]
    return {name: state for table in tables for name, state in table.items()}


def test_a_record_is_walked_in_at_most_twelve_hops_that_exist(architecture: str):
    hops = walk_hops(architecture)
    assert 0 < len(hops) <= HOPS_MAX
    expect_none(wrong_hops(hops, production(), layers()))


def test_each_invariant_is_checked_in_code_and_named_by_a_test(invariants: dict[str, str]):
    in_code = checked_invariants(production())
    required = {name for name, state in invariants.items() if state == "checked"}
    in_tests = set(INVARIANT_ID.findall(suite_text()))
    assert required
    expect_none(
        [
            *(f"{name} is stated, but no invariant() checks it" for name in required - in_code),
            *(f"{name} is stated, but no test names it" for name in required - in_tests),
            *(f"{name} is checked, but not stated" for name in in_code - set(invariants)),
        ]
    )


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_does_not_load_faust(room: str):
    code = f"import sys, {room}; sys.exit(any(m in sys.modules for m in ('faust', 'mode')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_room_of_the_package_has_a_layer():
    order = layers()
    rooms = {".".join(module.name.split(".")[:2]) for module in production()}
    ours = {room for room in rooms if room.startswith("onceflow.")}
    expect_none({room for room in ours if layer_of(room, order) < 0})


def test_walk_detector_finds_unknown_places_and_turns_back_up():
    order = ["onceflow.engine", "onceflow.kafka | onceflow.http", "onceflow.decisions"]
    modules = tuple(
        parse("def f(): ...", f"onceflow.{room}.m") for room in ("engine", "kafka", "decisions")
    )
    kafka, engine, pure = (f"onceflow.{room}.m:f" for room in ("kafka", "engine", "decisions"))
    assert not wrong_hops([kafka, engine, engine, kafka, pure], modules, order)
    assert wrong_hops([kafka, engine, kafka, engine], modules, order)
    assert wrong_hops([engine, "onceflow.engine.m:g"], modules, order)
    assert walk_hops("```walk\na.b:c   text\n\nd.e:f\n```") == ["a.b:c", "d.e:f"]


def test_invariant_reader_sees_table_and_calls():
    table = (
        "| id | s | state |\n|---|---|---|\n| INV-A-1 | x | checked |\n| INV-A-2 | y | planned |"
    )
    assert invariant_rows(table) == {"INV-A-1": "checked", "INV-A-2": "planned"}
    assert checked_invariants((parse('invariant(x, "INV-A-1: because")\nf("INV-A-2")'),)) == {
        "INV-A-1"
    }
