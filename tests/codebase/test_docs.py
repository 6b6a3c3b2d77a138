"""Names in the guides against the code: metrics, log events, variables, headers, public names."""

from __future__ import annotations

import re

import onceflow
from codebase.sources import ROOT, expect_none, production
from onceflow.observe.catalogue import CATALOGUE
from onceflow.observe.events import LogEvent
from onceflow.settings import Settings

GUIDES = ROOT / "app" / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(GUIDES.rglob("*.md"))]
OTHER_VARIABLES = frozenset({"BROKER", "FILE"})
"""Variables with the prefix that are read elsewhere than as settings."""


def guide(name: str) -> str:
    return (GUIDES / name).read_text("utf-8")


def named(pattern: str) -> set[tuple[str, str]]:
    """What a pattern's group finds in all documents, each with the document's name."""
    return {
        (document.name, found)
        for document in DOCUMENTS
        for found in re.findall(pattern, document.read_text("utf-8"))
    }


def unknown_variables(names: set[tuple[str, str]]) -> list[str]:
    """Variables that are neither a setting, nor an option of librdkafka, nor read elsewhere."""
    known = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    return [f"{place}: {name}" for place, name in names if name.split("__")[0] not in known]


def events_in_table() -> dict[str, str]:
    """The events of the guide's table, each with the level that it stands with."""
    table = guide("operating.md").partition("| event | level |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", table, re.MULTILINE)
    return {name: level for names, level in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_guide_lists_every_metric_with_its_kind_labels_and_meaning():
    text = guide("operating.md")
    for spec in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        assert f"| `{spec.name}` | {spec.kind.value} | {labels} | {spec.meaning} |" in text


TABLES = {"onceflow_markers", "onceflow_progress", "onceflow_refused", "onceflow_target"}
"""What sinks make in databases; their names begin as metrics do."""


def test_metrics_in_documents_exist():
    known = {spec.name for spec in CATALOGUE} | TABLES
    found = named(r"`(onceflow_[a-z_]+)(?=[`{])")
    assert len(found) > len(known) // 2
    expect_none(f"{place}: {name}" for place, name in found if name not in known)


def test_log_events_in_documents_exist():
    found = {name for _, name in named(r"log `([a-z_]+)`")} | set(events_in_table())
    assert found
    expect_none(found - {event.value for event in LogEvent})


def test_the_guide_lists_every_event_that_is_logged():
    logged = {
        LogEvent[name].value
        for module in production()
        for name in re.findall(r"LogEvent\.([A-Z_]+)", module.text)
    }
    assert logged
    expect_none(logged - set(events_in_table()))


def test_every_log_event_is_logged_somewhere():
    logged = {name for m in production() for name in re.findall(r"LogEvent\.([A-Z_]+)", m.text)}
    expect_none({event.name for event in LogEvent} - logged)


def test_variables_in_documents_are_read():
    expect_none(unknown_variables(named(r"\bONCEFLOW_([A-Z_]+)\b")))


def test_a_variable_that_nobody_reads_is_recognised():
    assert unknown_variables({("a.md", "HTTP"), ("a.md", "KAFKA__ACKS")}) == []
    assert unknown_variables({("a.md", "HTPP")}) == ["a.md: HTPP"]


def test_headers_of_dead_letters_are_those_of_the_guide():
    (failures,) = [m for m in production() if m.name == "onceflow.engine.failures"]
    sent = set(re.findall(r'"(onceflow-[a-z]+)"', failures.text))
    text = guide("failures.md")
    table = text.partition("| header | content |")[2].partition("\n\n")[0]
    assert sent
    assert set(re.findall(r"`(onceflow-[a-z]+)`", table)) == sent


def test_public_names_in_documents_exist():
    found = named(r"\bonceflow\.([A-Z]\w+)")
    assert {name for _, name in found} >= {"App", "RecordBatch", "WindowedAggregate"}
    expect_none(f"{place}: {name}" for place, name in found if name not in onceflow.__all__)
