"""What the main job's sinks show, read as any other reader of them would.

Rules of this file: it knows where the rows are and nothing of how they got there; it shares no code
with the sinks, so that a mistake would have to be made twice to go unnoticed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import orjson

from onceflow.demo.names import HOURLY_TABLE, REPORT_FILES, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onceflow.demo.truth import Row


def hourly_rows(sinks: Path) -> dict[tuple[str, int], Row]:
    """Rows of the statistics by route and hour."""
    with closing(sqlite3.connect(sinks / STATISTICS)) as file:
        found = file.execute(
            f"SELECT route, hour, departures, minutes, longest FROM {HOURLY_TABLE}"  # noqa: S608 - a constant
        )
        return {(route, hour): tuple(counts) for route, hour, *counts in found}


def report_lines(sinks: Path) -> Iterator[tuple[int, Row]]:
    """Each report in the files, as often as it is there."""
    for path in sorted((sinks / REPORT_FILES).glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            yield row["id"], (row["weather"], row["delay"])
