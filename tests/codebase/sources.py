"""The production sources as syntax trees, for the tests about the code itself.

Detectors take trees and yield findings as strings ``path:line: text``; each has a test of its own
that it finds what it is meant to find.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = ("app/onceflow", "consensus/onceflow_consensus")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its dotted name, path from the root, text and tree."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The part of the package below its top: ``engine`` of ``onceflow.engine.gate``."""
        return self.name.split(".")[1] if "." in self.name else ""


@dataclass(frozen=True, slots=True)
class Function:
    """A function with its qualified name and the class that holds it, if any."""

    module: Module
    qualname: str
    node: FunctionNode
    owner: ast.ClassDef | None

    @property
    def where(self) -> str:
        return f"{self.module.path}:{self.node.lineno}: {self.qualname}"

    @property
    def may_override(self) -> bool:
        """Whether a base class may dictate this method's name and parameters."""
        return self.owner is not None and bool(self.owner.bases)


def expect_none(findings: Iterable[str]) -> None:
    """Fail with one finding a line, so that the reader sees places and not a stack."""
    found = sorted(findings)
    if found:
        pytest.fail("\n".join(["", *found]), pytrace=False)


def parse(text: str, name: str = "onceflow.sample", path: str = "sample.py") -> Module:
    return Module(name, path, text, ast.parse(text))


def _read(path: Path) -> Module:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts[1:]
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return parse(path.read_text(encoding="utf-8"), name, str(relative))


@functools.cache
def production() -> tuple[Module, ...]:
    """Every module of both packages."""
    return tuple(
        _read(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    )


@functools.cache
def suite() -> tuple[Module, ...]:
    """Every module of the tests except those about the code itself."""
    folder = ROOT / "tests"
    return tuple(
        _read(path)
        for path in sorted(folder.rglob("*.py"))
        if "codebase" not in path.relative_to(folder).parts
    )


@functools.cache
def suite_text() -> str:
    """All test code in one string, to look names up in."""
    return "\n".join(module.text for module in suite())


@functools.cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """Every node of a module's tree, walked once for all checks."""
    return tuple(ast.walk(module.tree))


@functools.cache
def functions(module: Module) -> tuple[Function, ...]:
    """Every function and method of a module, nested ones as well."""

    def walk(node: ast.AST, prefix: str, owner: ast.ClassDef | None) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                yield Function(module, prefix + child.name, child, owner)
                yield from walk(child, f"{prefix}{child.name}.", None)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", child)
            else:
                yield from walk(child, prefix, owner)

    return tuple(walk(module.tree, "", None))


def body_without_docstring(node: FunctionNode | ast.ClassDef | ast.Module) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def parameters(node: FunctionNode) -> list[ast.arg]:
    """All parameters but ``self`` and ``cls``."""
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    every.extend(arg for arg in (args.vararg, args.kwarg) if arg is not None)
    return [arg for arg in every if arg.arg not in {"self", "cls"}]


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
