"""The guides and the README against the code."""

from __future__ import annotations

import ast
import re

from codebase.sources import ROOT, expect_none
from onceflow import cli, errors
from onceflow.settings import Settings
from onceflow.supervisor.policy import REACTIONS

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "app" / "ARCHITECTURE.md",
    *sorted((ROOT / "app" / "docs").rglob("*.md")),
]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_guide_lists_every_setting_with_its_default_and_meaning():
    guide = (ROOT / "app" / "docs" / "settings.md").read_text("utf-8")
    for row in Settings.load({}, {}).explain():
        shown = f"`{row.value}`" if row.value else ""
        assert f"| `{row.name}` | {shown} | {row.doc} |" in guide


def test_commands_in_documents_exist():
    named = {
        (document.name, noun)
        for document in DOCUMENTS
        for block in blocks(document.read_text("utf-8"), "console")
        for noun in re.findall(r"^\$ (?:\.venv/bin/)?onceflow (\w+)", block, re.MULTILINE)
    }
    assert named
    expect_none(
        f"{place}: onceflow {noun} does not exist" for place, noun in named if noun not in cli.NOUNS
    )


def test_make_targets_in_documents_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for block in blocks(document.read_text("utf-8"), "console")
        for target in re.findall(r"^\$ make ([a-z-]+)", block, re.MULTILINE)
    }
    assert {"run", "test", "check", "setup", "help"} <= targets
    assert named <= targets


def test_python_in_documents_is_python():
    for document in DOCUMENTS:
        for block in blocks(document.read_text("utf-8"), "python"):
            ast.parse(block, str(document))


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{document.relative_to(ROOT)}: {link}"
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8"))
        if "://" not in link and not (document.parent / link).exists()
    ]
    expect_none(broken)


def test_exit_codes_are_those_of_the_documents():
    for name in ("README.md", "app/docs/running.md"):
        text = (ROOT / name).read_text("utf-8")
        codes = {
            error.exit_code
            for error in vars(errors).values()
            if isinstance(error, type) and issubclass(error, errors.OnceflowError)
        }
        assert all(re.search(rf"^\| {code} \|", text, re.MULTILINE) for code in {0, *codes})
    assert set(REACTIONS) <= {0, *codes}
