"""Names that the application gives its topics and tables, for those who look at it from outside."""

from __future__ import annotations

from onceflow.ids import Partition

APP_ID = "flights"
"""The application's id, which is its consumer group's as well."""

PARTITIONS = 4
"""Partitions of every topic."""

FLIGHTS = "flights"
WEATHER = "weather"
REPORTS = "reports"

HOURLY_TABLE = "hourly"
"""Of the SQLite file ``STATISTICS`` in the sinks' directory."""

STATISTICS = "statistics.sqlite"
REPORT_FILES = "reports"
"""Directory of files with a JSON line for each flight, in the sinks' directory."""

REPARTITIONED = "aircraft-totals-flights-tail-repartition"
"""Faust names what ``group_by`` writes to: agent, topic, name of the grouping."""


def changelog(table: str) -> str:
    """The changelog topic of a table, as Faust names it."""
    return f"{APP_ID}-{table}-changelog"


def partitions_of(topic: str) -> list[Partition]:
    """All partitions of one of these topics."""
    return [Partition(topic, number) for number in range(PARTITIONS)]
