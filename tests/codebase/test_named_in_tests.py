"""Rule 5: every setting, metric, error and public name is named in some test."""

from __future__ import annotations

import ast
import re

from codebase.sources import Module, expect_none, nodes, parse, production, suite_text

METRIC = re.compile(r"\bonceflow_[a-z0-9_]+\b")


def unnamed(names: set[str], text: str) -> set[str]:
    return {name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)}


def module_named(name: str) -> Module:
    return next(module for module in production() if module.name == name)


def class_fields(module: Module, class_name: str) -> set[str]:
    node = next(
        node for node in nodes(module) if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and item.target.id != "model_config"
    }


def exported(module: Module) -> set[str]:
    """The names in ``__all__``; a module without one exports nothing."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return {
                item.value
                for item in ast.walk(node)
                if isinstance(item, ast.Constant) and isinstance(item.value, str)
            }
    return set()


def metrics(modules: tuple[Module, ...]) -> set[str]:
    """Names of metrics as the catalogue spells them."""
    return {
        name
        for module in modules
        for node in nodes(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in METRIC.findall(node.value)
        if not name.endswith("_") and name != "onceflow_consensus"
    }


def test_each_setting_is_named_in_a_test():
    fields = class_fields(module_named("onceflow.settings"), "Settings")
    assert len(fields) > 15
    expect_none(unnamed(fields, suite_text()))


def test_each_error_is_named_in_a_test():
    module = module_named("onceflow.errors")
    errors = {node.name for node in module.tree.body if isinstance(node, ast.ClassDef)}
    expect_none(unnamed(errors, suite_text()))


def test_each_metric_is_named_in_a_test():
    catalogue = tuple(module for module in production() if module.room == "observe")
    expect_none(unnamed(metrics(catalogue), suite_text()))


def test_each_public_name_is_named_in_a_test():
    packages = [module for module in production() if module.path.endswith("__init__.py")]
    public = {name for module in packages for name in exported(module)}
    expect_none(unnamed(public, suite_text()))


def test_readers_see_fields_exports_and_metrics():
    sample = parse(
        '__all__ = ["App"]\nNAME = "onceflow_tasks"\n'
        "class Settings:\n    model_config = 1\n    a_ms: int = 1\n    _b: int = 2\n"
    )
    assert class_fields(sample, "Settings") == {"a_ms"}
    assert exported(sample) == {"App"}
    assert metrics((sample,)) == {"onceflow_tasks"}
    assert unnamed({"a_ms", "b"}, "x = a_ms") == {"b"}
