"""What ``onceflow txn`` shows: documents for machines, whose fields are an interface, and tables.

A transaction's id is ``EPOCH@INCARNATION``, as in ``7@cGF5bWVudHM``. Ages compare the clock of this
machine with that of the worker which told.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from onceflow.errors import ConfigError
from onceflow.ids import BranchId, CommitEpoch, Incarnation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.coordinator.vocabulary import Alarm, HeuristicNote, TransactionRow
    from onceflow.engine.by_hand import Evidence

NOT_RECORDED = "not_recorded"
"""State of a transaction that a sink lists and the record does not know."""


def read_id(text: str) -> BranchId:
    """Read ``EPOCH@INCARNATION``.

    Raises:
        ConfigError: it is something else.
    """
    number, at, incarnation = text.partition("@")
    if not at or not incarnation or not (number.isascii() and number.isdigit()):
        raise ConfigError(
            f"{text!r} is no transaction: EPOCH@INCARNATION, as 'onceflow txn list' shows them. "
            "Nothing was done."
        )
    return BranchId(Incarnation(incarnation), CommitEpoch(int(number)))


def shown_id(branch: BranchId) -> str:
    """Return the id of a transaction."""
    return f"{branch.commit_epoch}@{branch.incarnation}"


def now_ms() -> int:
    """Return the wall clock in ms."""
    return int(time.time() * 1000)  # noqa: TID251 - an edge: what people are shown


def summary_of(
    row: TransactionRow, now_unix_ms: int, prepared: list[str] | None, *, is_proven: bool | None
) -> dict[str, Any]:
    """Return the document of a transaction in a list.

    Args:
        row: as it is recorded.
        now_unix_ms: what its age is measured by.
        prepared: sinks that list a branch of it; None if they were not asked.
        is_proven: whether a marker in Kafka names it as committed; None if that was not looked at.
    """
    recorded = row.transaction
    branch = BranchId(Incarnation(recorded.incarnation), CommitEpoch(recorded.commit_epoch))
    return {
        "id": shown_id(branch),
        "app": row.app,
        "scope": row.scope,
        "incarnation": recorded.incarnation,
        "commit_epoch": recorded.commit_epoch,
        "standing": row.standing.name.lower(),
        "state": recorded.state.name.lower(),
        "decision": recorded.decision.name.lower(),
        "age_s": _age_s(recorded.begun_unix_ms, now_unix_ms),
        "participants": recorded.participants,
        "heuristics": [_heuristic(note) for note in recorded.heuristics],
        "prepared_in": prepared,
        "is_proven": is_proven,
    }


def unrecorded(
    branch: BranchId, app: str, scope: str, prepared: list[str], *, is_proven: bool
) -> dict[str, Any]:
    """Return the document of a transaction that only sinks know."""
    return {
        "id": shown_id(branch),
        "app": app,
        "scope": scope,
        "incarnation": branch.incarnation,
        "commit_epoch": branch.commit_epoch,
        "standing": "open",
        "state": NOT_RECORDED,
        "decision": "none",
        "age_s": None,
        "participants": prepared,
        "heuristics": [],
        "prepared_in": prepared,
        "is_proven": is_proven,
    }


def whole(row: TransactionRow, now_unix_ms: int) -> dict[str, Any]:
    """Return the document of everything that is recorded of a transaction."""
    recorded = row.transaction
    return summary_of(row, now_unix_ms, None, is_proven=None) | {
        "partitions": [
            {"topic": topic, "partitions": numbers} for topic, numbers in recorded.partitions
        ],
        "branches": [{"participant": name, "gid": gid} for name, gid in recorded.branches],
        "marker": recorded.marker,
        "decided_by": recorded.decided_by,
        "begun_unix_ms": recorded.begun_unix_ms,
        "decided_unix_ms": recorded.decided_unix_ms,
        "log_index": recorded.index,
    }


def evidence_of(evidence: Evidence) -> dict[str, Any]:
    """Return the document of what Kafka and the sinks show."""
    return {
        "markers": [
            {
                "topic": partition.topic,
                "partition": partition.number,
                "commit_epoch": marker.commit_epoch,
                "with_participants": marker.with_participants,
                "released": marker.released.name == "RELEASED",
            }
            for partition, marker in sorted(evidence.markers.items(), key=lambda item: item[0])
        ],
        "prepared_in": sorted(evidence.prepared_in),
        "marker_rows": {
            name: None
            if row is None
            else {"commit_epoch": row.commit_epoch, "standing": row.raised.value}
            for name, row in sorted(evidence.rows.items())
        },
        "proofs": evidence.proofs,
        "verdict": evidence.verdict.value,
    }


def alarm_of(alarm: Alarm) -> dict[str, Any]:
    """Return the document of a contradicted decision."""
    return {
        "id": f"{alarm.commit_epoch}@{alarm.incarnation}",
        "app": alarm.app,
        "recorded": alarm.recorded.name.lower(),
        "refused": alarm.refused.name.lower(),
        "by": alarm.by,
        "told_unix_ms": alarm.told_unix_ms,
    }


def _heuristic(note: HeuristicNote) -> dict[str, Any]:
    return {
        "participant": note.participant,
        "finding": note.finding.name.lower(),
        "detail": note.detail,
        "by": note.by,
        "told_unix_ms": note.told_unix_ms,
    }


def _age_s(begun_unix_ms: int, now_unix_ms: int) -> float | None:
    return round(max(0, now_unix_ms - begun_unix_ms) / 1000, 1) if begun_unix_ms else None


def print_transactions(rows: Iterable[dict[str, Any]]) -> None:
    """Print transactions as a table."""
    table = Table("id", "app", "age", "state", "decision", "sinks", "prepared in", "heuristic")
    for row in rows:
        prepared = row["prepared_in"]
        table.add_row(
            row["id"],
            row["app"],
            "?" if row["age_s"] is None else f"{row['age_s']:g} s",
            row["state"],
            f"{row['decision']} (proven)" if row["is_proven"] else row["decision"],
            ", ".join(row["participants"]),
            "" if prepared is None else ", ".join(prepared) or "-",
            ", ".join(note["finding"] for note in row["heuristics"]),
        )
    Console(width=None if Console().is_terminal else 200).print(table)


def print_document(document: dict[str, Any], indent: str = "") -> None:
    """Print a document, a line for each field."""
    for name, value in document.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}:")
            print_document(value, indent + "  ")  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, list):
            typer.echo(f"{indent}{name}:")
            for each in value:  # pyright: ignore[reportUnknownVariableType]
                _print_item(each, indent + "  ")  # pyright: ignore[reportUnknownArgumentType]
        else:
            typer.echo(f"{indent}{name}: {value}")


def _print_item(item: object, indent: str) -> None:
    """Print an item of a list, on one line if it holds no lists itself."""
    if isinstance(item, dict) and any(isinstance(each, list) for each in item.values()):  # pyright: ignore[reportUnknownVariableType]
        typer.echo(f"{indent}-")
        print_document(item, indent + "  ")  # pyright: ignore[reportUnknownArgumentType]
    else:
        typer.echo(f"{indent}- {_line(item)}")  # pyright: ignore[reportUnknownArgumentType]


def _line(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())  # pyright: ignore[reportUnknownVariableType]
    return str(value)
