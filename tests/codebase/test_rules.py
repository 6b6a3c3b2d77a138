"""Rules 2 to 4 of CONTRIBUTING and the rule of six lines, each with proof that it can fail."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from codebase.allowances import BORDERS, LOOP_ROOTS, MODE_FLAGS
from codebase.sources import (
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

CATCH_ALL = {"Exception", "BaseException"}
MUTATORS = {"append", "add", "discard", "extend", "remove", "update"}
FACTS = ("is_", "has_", "was_")
IDENTICAL_LINES = 6


def swallowed_errors(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (``module:function``, finding) for what catches everything."""
    owner = {
        id(node): function.qualname
        for function in functions(module)
        for node in ast.walk(function.node)
    }
    for node in nodes(module):
        names: list[str] = []
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = [dotted(kind) if kind else "BaseException" for kind in kinds]
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "suppress":
            names = [dotted(argument) for argument in node.args]
        translates = module.room in BORDERS and isinstance(node, ast.ExceptHandler)
        if translates and isinstance(node.body[-1], ast.Raise):
            continue
        if CATCH_ALL & set(names):
            place = f"{module.name}:{owner.get(id(node), '')}"
            yield place, f"{module.path}:{node.lineno}: catches everything; name the errors"


def silent_fallbacks(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 2:
            yield f"{module.path}:{node.lineno}: getattr with a default hides what is missing"
        imports = isinstance(node, ast.Try) and any(
            isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body
        )
        # An error that names the extra to install hides nothing.
        if imports and not all(isinstance(each.body[-1], ast.Raise) for each in node.handlers):
            yield f"{module.path}:{node.lineno}: an import in try hides what is not installed"


def protocol_methods(modules: tuple[Module, ...]) -> frozenset[str]:
    """Names of methods that some Protocol dictates."""
    return frozenset(
        item.name
        for module in modules
        for node in nodes(module)
        if isinstance(node, ast.ClassDef) and _is_protocol(node)
        for item in node.body
        if isinstance(item, FunctionNode)
    )


def forwarders(module: Module, dictated: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield functions whose body only hands all their parameters on, in order.

    Methods named in ``dictated`` are left out, because a Protocol wants them.
    """
    for function in functions(module):
        own = [argument.arg for argument in parameters(function.node)]
        body = body_without_docstring(function.node)
        if not own or len(body) != 1 or function.may_override or function.node.decorator_list:
            continue
        if function.owner is not None and function.node.name in dictated:
            continue
        value = body[0].value if isinstance(body[0], ast.Return | ast.Expr) else None
        if isinstance(value, ast.Await):
            value = value.value
        if not isinstance(value, ast.Call) or dotted(value.func).startswith("self._"):
            continue  # a method on what the object keeps to itself is encapsulation
        if dotted(value.func).split(".")[-1] in MUTATORS:
            continue  # and so is the one place where a collection is changed
        if _forwarded(value) == own:
            yield f"{function.where}: only forwards its parameters; call {dotted(value.func)}"


def _forwarded(call: ast.Call) -> list[str] | None:
    names: list[str] = []
    for argument in call.args:
        inner = argument.value if isinstance(argument, ast.Starred) else argument
        if not isinstance(inner, ast.Name):
            return None
        names.append(inner.id)
    for keyword in call.keywords:
        if not isinstance(keyword.value, ast.Name):
            return None
        names.append(keyword.value.id)
    return names


def lonely_protocols(
    production_modules: tuple[Module, ...], others: tuple[Module, ...]
) -> list[str]:
    """Return the Protocols that fewer than two classes implement, by name or by shape."""
    classes = [
        node
        for module in (*production_modules, *others)
        for node in nodes(module)
        if isinstance(node, ast.ClassDef)
    ]
    by_name = {node.name: node for node in classes}
    found: list[str] = []
    for module in production_modules:
        for node in nodes(module):
            if not (isinstance(node, ast.ClassDef) and _is_protocol(node)):
                continue
            methods = {item.name for item in node.body if isinstance(item, FunctionNode)}
            wanted = methods or _members(node, by_name)
            count = sum(
                node.name in {dotted(base).split(".")[-1] for base in other.bases}
                or wanted <= _members(other, by_name)
                for other in classes
                if not _is_protocol(other)
            )
            if "__call__" not in wanted and count < 2:
                found.append(f"{module.path}:{node.lineno}: {node.name}: {count} implementations")
    return found


def _is_protocol(node: ast.ClassDef) -> bool:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(dotted(base).split(".")[-1] == "Protocol" for base in bases)


def _members(node: ast.ClassDef, by_name: dict[str, ast.ClassDef]) -> set[str]:
    """Names that a class and its bases define, as far as the bases are ours."""
    members = {item.name for item in node.body if isinstance(item, FunctionNode)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            members.add(inner.target.id)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            members.add(inner.attr)
    for base in node.bases:
        parent = by_name.get(dotted(base).split(".")[-1])
        if parent is not None and parent is not node:
            members |= _members(parent, by_name)
    return members


def mode_flags(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (``module:function.parameter``, finding) for parameters that are booleans."""
    for function in functions(module):
        if function.may_override or _is_command(function):
            continue
        defaults = _defaults(function.node)
        for argument in parameters(function.node):
            default = defaults.get(argument.arg)
            if argument.arg.startswith(FACTS):
                continue  # a statement about the world is data
            is_bool = argument.annotation is not None and dotted(argument.annotation) == "bool"
            if is_bool or (isinstance(default, ast.Constant) and isinstance(default.value, bool)):
                place = f"{module.name}:{function.qualname}.{argument.arg}"
                yield place, f"{function.where}: {argument.arg} is a boolean; use an enum"


def _is_command(function: Function) -> bool:
    """Whether typer calls it: a flag of the command line is a boolean by nature."""
    return function.module.room == "cli" and bool(function.node.decorator_list)


def _defaults(node: FunctionNode) -> dict[str, ast.expr | None]:
    positional = [*node.args.posonlyargs, *node.args.args]
    tail = positional[len(positional) - len(node.args.defaults) :]
    found: dict[str, ast.expr | None] = {
        argument.arg: default for argument, default in zip(tail, node.args.defaults, strict=True)
    }
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return found | {argument.arg: default for argument, default in pairs}


def repeated_lines(modules: tuple[Module, ...]) -> Iterator[str]:
    """Yield where six consecutive lines of code stand that stand elsewhere as well."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    for module in modules:
        lines = _code_lines(module)
        last_reported = 0
        for start in range(len(lines) - IDENTICAL_LINES + 1):
            window = lines[start : start + IDENTICAL_LINES]
            key = tuple(text for _, text in window)
            here = (module.path, window[0][0])
            first = seen.setdefault(key, here)
            if first != here and start >= last_reported:
                yield f"{here[0]}:{here[1]}: the same six lines as {first[0]}:{first[1]}"
                last_reported = start + IDENTICAL_LINES


def _code_lines(module: Module) -> list[tuple[int, str]]:
    """Numbered lines without comments, doc-strings, imports, signatures and blank lines.

    Signatures are left out, because a base class or a protocol dictates them.
    """
    skipped: set[int] = set()
    for node in nodes(module):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, FunctionNode):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            skipped.update(range(first, node.body[0].lineno))
    words: dict[int, list[str]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type != tokenize.COMMENT and token.string.strip():
            words[token.start[0]].append(token.string)
    return [(line, " ".join(words[line])) for line in sorted(words) if line not in skipped]


def test_errors_are_caught_by_name_outside_the_loop_roots():
    found = [pair for module in production() for pair in swallowed_errors(module)]
    expect_none([finding for place, finding in found if place not in LOOP_ROOTS])
    assert not set(LOOP_ROOTS) - {place for place, _ in found}, "allowances that nothing needs"


def test_nothing_falls_back_silently():
    expect_none([finding for module in production() for finding in silent_fallbacks(module)])


def test_no_function_only_forwards():
    dictated = protocol_methods(production())
    expect_none([finding for module in production() for finding in forwarders(module, dictated)])


def test_a_protocol_has_two_implementations():
    expect_none(lonely_protocols(production(), suite()))


def test_no_boolean_selects_a_mode():
    ours = [module for module in production() if module.name.startswith("onceflow.")]
    found = [pair for module in ours for pair in mode_flags(module)]
    expect_none([finding for place, finding in found if place not in MODE_FLAGS])
    assert not set(MODE_FLAGS) - {place for place, _ in found}, "allowances that nothing needs"


def test_no_six_lines_stand_twice():
    expect_none(list(repeated_lines(production())))


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (swallowed_errors, "try: f()\nexcept Exception: pass", "try: f()\nexcept OSError: pass"),
        (swallowed_errors, "try: f()\nexcept (OSError, Exception): pass", "f()"),
        (swallowed_errors, "try: f()\nexcept: pass", "f()"),
        (swallowed_errors, "with suppress(Exception): f()", "with suppress(OSError): f()"),
        (silent_fallbacks, "getattr(x, 'a', None)", "getattr(x, 'a')"),
        (silent_fallbacks, "try:\n    import a\nexcept ImportError:\n    a = 1", "import a"),
        (
            silent_fallbacks,
            "try:\n    import a\nexcept ImportError:\n    pass",
            "try:\n    import a\nexcept ImportError as error:\n    raise ConfigError from error",
        ),
        (forwarders, "def f(a, b): return g(a, b)", "def f(a, b): return g(b, a)"),
        (forwarders, "async def f(*, a): await x.g(a=a)", "def f(a): return g(a, 1)"),
        (forwarders, "def f(a): g(a)", "class A(B):\n    def f(self, a): return self.x.f(a)"),
        (
            forwarders,
            "class A:\n    def f(self, a): self.b.f(a)",
            "class A:\n    def f(self, a): self._b.f(a)",
        ),
        (mode_flags, "def f(*, fast: bool): ...", "def f(*, is_late: bool): ..."),
        (mode_flags, "def f(fast=False): ...", "def f(fast=0): ..."),
    ],
)
def test_detector_finds_a_violation_and_nothing_else(
    check: Callable[[Module], Iterator[object]], bad: str, good: str
):
    assert list(check(parse(bad)))
    assert not list(check(parse(good)))


def test_protocol_detector_counts_by_name_and_by_shape():
    protocol = "class Store(Protocol):\n    def get(self): ...\n"
    one = "class A(Store): ...\n"
    two = "class B:\n    def get(self): ...\n"
    assert lonely_protocols((parse(protocol + one),), ())
    assert not lonely_protocols((parse(protocol + one),), (parse(two),))


def test_repetition_detector_ignores_comments_and_layout():
    lines = "".join(f"x{n} = {n}\n" for n in range(6))
    with_comments = lines.replace("\n", "  # why\n\n")
    found = list(repeated_lines((parse(lines, path="a.py"), parse(with_comments, path="b.py"))))
    assert found == ["b.py:1: the same six lines as a.py:1"]
    assert not list(repeated_lines((parse(lines), parse(lines.replace("x3", "y3")))))
