"""Sizes, leftovers, banned calls, dead files and overloaded words (CONTRIBUTING, "Tidy")."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from codebase.allowances import TOP_LEVEL
from codebase.sources import (
    ROOT,
    Function,
    FunctionNode,
    Module,
    body_without_docstring,
    dotted,
    expect_none,
    functions,
    nodes,
    parameters,
    parse,
    production,
    suite,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULE_LINES_MAX = 600
TEST_MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 8
NESTING_MAX = 4
PUBLIC_METHODS_MAX = 15

VAGUE_MODULES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
OVERLOADED = {"epoch", "commit", "watermark", "leader", "snapshot", "checkpoint"}
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bbreakpoint\(|\bpdb\b")
MACHINE_PATH = re.compile(r"(?<![\w./*<}-])/(?:home|root|Users|work|mnt)/\w")

PURE = {"decisions", "columns", "settings", "errors", "ids", "limits"}
BANNED: dict[str, tuple[set[str], str]] = {
    "time.time": (PURE | {"state"}, "take a clock as an argument"),
    "time.monotonic": (PURE, "take the time as an argument"),
    "time.sleep": (PURE | {"state", "http", "observe"}, "let the caller wait"),
    "datetime.now": (PURE | {"state"}, "take the time as an argument"),
    "random.random": (PURE | {"state"}, "take a random.Random as an argument"),
    "random.choice": (PURE | {"state"}, "take a random.Random as an argument"),
    "uuid.uuid4": (PURE | {"state"}, "take the identity as an argument"),
    "os.environ": (PURE | {"state", "kafka", "http", "observe"}, "take Settings"),
    "os.getenv": (PURE | {"state", "kafka", "http", "observe"}, "take Settings"),
    "asyncio.get_event_loop": ({"*"}, "asyncio.get_running_loop"),
    "pickle.loads": ({"*"}, "a format that cannot run code"),
    "eval": ({"*"}, "a parser"),
    "exec": ({"*"}, "a function"),
}
"""Calls, the rooms in which they are banned (``*`` is all), and what stands in their place."""


def too_long_modules(modules: tuple[Module, ...], lines_max: int) -> Iterator[str]:
    for module in modules:
        lines = module.text.count("\n")
        if lines > lines_max:
            yield f"{module.path}: {lines} lines, at most {lines_max}"


def oversized(function: Function) -> Iterator[str]:
    body = body_without_docstring(function.node)
    lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
    if lines > FUNCTION_LINES_MAX:
        yield f"{function.where}: body of {lines} lines, at most {FUNCTION_LINES_MAX}"
    count = len(parameters(function.node))
    if count > PARAMETERS_MAX and not function.may_override:
        yield f"{function.where}: {count} parameters, at most {PARAMETERS_MAX}"
    depth = nesting(function.node)
    if depth > NESTING_MAX:
        yield f"{function.where}: nested {depth} deep, at most {NESTING_MAX}"


def nesting(node: ast.AST) -> int:
    """How deep compound statements stand in each other; ``elif`` counts as its ``if``."""
    blocks = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.Try, ast.With, ast.AsyncWith, ast.Match)
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deeper = isinstance(child, blocks) and not is_elif
        deepest = max(deepest, nesting(child) + deeper)
    return deepest


def crowded_classes(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if isinstance(node, ast.ClassDef) and not node.bases:
            public = [
                item.name
                for item in node.body
                if isinstance(item, FunctionNode)
                and not item.name.startswith("_")
                and "property" not in {dotted(each) for each in item.decorator_list}
            ]
            if len(public) > PUBLIC_METHODS_MAX:
                yield (
                    f"{module.path}:{node.lineno}: {node.name} has {len(public)} public methods, "
                    f"at most {PUBLIC_METHODS_MAX}"
                )


def banned_calls(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        name = dotted(node)
        for banned, (rooms, instead) in BANNED.items():
            matches = name == banned or (name.endswith("." + banned) and "." in banned)
            if matches and ("*" in rooms or module.room in rooms):
                yield f"{module.path}:{node.lineno}: {banned} is banned here: {instead}"


def overloaded_words(module: Module) -> Iterator[str]:
    for line, name in _bound_names(module):
        if name.strip("_").lower() in OVERLOADED:
            yield f"{module.path}:{line}: {name} is overloaded; qualify it (commit_epoch, ...)"


def _bound_names(module: Module) -> Iterator[tuple[int, str]]:
    for function in functions(module):
        if not function.may_override:
            yield function.node.lineno, function.node.name
        if not function.may_override:
            yield from ((arg.lineno, arg.arg) for arg in parameters(function.node))
    members = {
        id(target)
        for node in nodes(module)
        if isinstance(node, ast.ClassDef) and any("Enum" in dotted(base) for base in node.bases)
        for item in node.body
        if isinstance(item, ast.Assign)
        for target in item.targets
    }  # a member is qualified by its enum, as in Role.LEADER
    for node in nodes(module):
        if id(node) in members:
            continue
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def imported_names(module: Module) -> Iterator[str]:
    """Every dotted name that a module imports or mentions in a string such as a command."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"onceflow(?:_consensus)?(?:\.\w+)+", node.value)
            if re.fullmatch(r"\w+\.py", node.value):
                yield f"{module.name.rpartition('.')[0]}.{node.value.removesuffix('.py')}"


def dead_modules(
    modules: tuple[Module, ...], entry_points: str, users: tuple[Module, ...] = ()
) -> Iterator[str]:
    """Yield modules that nothing imports; what is made for tests may be used by ``users``."""
    used_by_tests = {name for module in users for name in imported_names(module)}
    used = set(re.findall(r"onceflow(?:_consensus)?(?:\.\w+)+", entry_points))
    for module in modules:
        used.update(name for name in imported_names(module) if name != module.name)
    for module in modules:
        if module.path.endswith("__init__.py") or module.path.endswith("__main__.py"):
            continue
        if ".testing." in module.name and module.name in used_by_tests:
            continue
        if module.name not in used:
            yield f"{module.path}: nothing imports it"


def check_all(check: Callable[[Module], Iterator[str]]) -> list[str]:
    return [finding for module in production() for finding in check(module)]


def test_modules_stay_small():
    expect_none(list(too_long_modules(production(), MODULE_LINES_MAX)))
    expect_none(list(too_long_modules(suite(), TEST_MODULE_LINES_MAX)))


def test_functions_stay_small():
    expect_none(check_all(lambda module: (f for fn in functions(module) for f in oversized(fn))))


def test_classes_stay_small():
    expect_none(check_all(crowded_classes))


def test_no_banned_call_is_made():
    expect_none(check_all(banned_calls))


def test_overloaded_words_are_qualified():
    expect_none(check_all(overloaded_words))


def test_no_module_has_a_vague_name():
    expect_none(
        [
            module.path
            for module in production()
            if VAGUE_MODULES & set(module.name.replace("_", ".").split("."))
        ]
    )


def test_no_module_is_dead():
    entry_points = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[dependency")[0]
    expect_none(list(dead_modules(production(), entry_points, suite())))


def test_no_leftovers():
    expect_none(
        [
            f"{module.path}:{number}: {line.strip()}"
            for module in (*production(), *suite())
            for number, line in enumerate(module.text.splitlines(), 1)
            if LEFTOVER.search(line)
        ]
    )


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so what is tracked is unknown")
    return [name for name in listed.stdout.split("\0") if name]


def test_only_allowed_names_stand_at_the_top():
    top = {name.split("/")[0] for name in _tracked()}
    assert not {name for name in top - TOP_LEVEL if not name.startswith(".")}


def test_source_roots_hold_their_package_and_documents_only():
    entries = {name.split("/")[1] for name in _tracked() if name.startswith("app/")}
    assert entries <= {"onceflow", "docs", "ARCHITECTURE.md"}
    entries = {name.split("/")[1] for name in _tracked() if name.startswith("consensus/")}
    assert entries <= {"onceflow_consensus", "docs", "README.md"}


def test_no_machine_path_is_named():
    found: list[str] = []
    for name in _tracked():
        path = ROOT / name
        if not path.is_file() or path.suffix in {".png", ".gz", ".zip", ".bin", ".lock"}:
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line) and not name.startswith("tests/codebase/"):
                found.append(f"{name}:{number}: {line.strip()}")
    expect_none(found)


LONG = "def f():\n" + "    x = 1\n" * 71
DEEP = "def f(a):\n" + "".join(f"{'    ' * depth}if a:\n" for depth in range(1, 6)) + " " * 24 + "a"


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (oversized, LONG, "def f():\n" + "    x = 1\n" * 70),
        (oversized, "def f(a, b, c, d, e, f, g, h, i): ...", "def f(a, b, c, d, e, f, g, h): ..."),
        (oversized, DEEP, "def f(a):\n    if a:\n        pass\n    elif a:\n        pass\n"),
        (
            crowded_classes,
            "class A:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(16)),
            "class A:\n" + "".join(f"    def _m{n}(self): ...\n" for n in range(16)),
        ),
        (banned_calls, "import asyncio\nasyncio.get_event_loop()", "asyncio.get_running_loop()"),
        (overloaded_words, "def f(epoch): ...", "def f(commit_epoch): ..."),
        (overloaded_words, "class A:\n    leader: str", "class A:\n    raft_leader: str"),
        (overloaded_words, "self.watermark = 1", "producer.commit()"),
        (overloaded_words, "LEADER = 1", "class Role(Enum):\n    LEADER = 1"),
    ],
)
def test_detector_finds_a_violation_and_nothing_else(
    check: Callable[..., Iterator[str]], bad: str, good: str
):
    def run(text: str) -> list[str]:
        module = parse(text)
        if check is oversized:
            return [finding for function in functions(module) for finding in check(function)]
        return list(check(module))

    assert run(bad)
    assert not run(good)


def test_dead_module_detector_follows_imports_and_strings():
    modules = (
        parse("import onceflow.used", "onceflow.main", "main.py"),
        parse("", "onceflow.used", "used.py"),
        parse("", "onceflow.dead", "dead.py"),
        parse("command = ['-m', 'onceflow.child']", "onceflow.parent", "parent.py"),
        parse("", "onceflow.child", "child.py"),
    )
    assert list(dead_modules(modules, 'x = "onceflow.main:f"\ny = "onceflow.parent"')) == [
        "dead.py: nothing imports it"
    ]
