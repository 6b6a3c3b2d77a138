"""Compares what a run left in Kafka with the truth: every report, every window, every total.

Rules of this file: what is not committed does not count (``reading``); tables are read from their
changelogs, last value of each key, as any other reader of them would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from onceflow.demo.names import REPORTS, changelog
from onceflow.demo.reading import committed_runs
from onceflow.demo.sink_reading import hourly_rows, report_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from pathlib import Path

    from onceflow.demo.truth import Row, Truth
    from onceflow.ids import Partition
    from onceflow.kafka.configuration import ClientConfig

_EXAMPLES_MAX = 8
"""Differences that are shown; the first ones tell what kind they are of."""

_HOUR_S = 3_600


@dataclass(slots=True)
class Findings:
    """What is not as it must be.

    Fields: flights without a report; reports too many; reports, windows and totals that are absent,
    too many or differ; windows and totals compared; the first differences in words.
    """

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    rows: int = 0
    examples: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return not (self.lost or self.doubled or self.wrong)

    def note(self, example: str) -> None:
        """Keep a difference for people, if there are few yet."""
        if len(self.examples) < _EXAMPLES_MAX:
            self.examples.append(example)


def verify(config: ClientConfig, truth: Truth, sinks: Path) -> Findings:
    """Read all results and compare them. Blocks for some seconds.

    Args:
        config: the Kafka of the run.
        truth: what a correct run comes to.
        sinks: directory that the application's sinks wrote into.

    Raises:
        DataAtRisk: a transaction stays open.
        Unreachable: Kafka does not answer.
    """
    findings = Findings()
    compare_reports(findings, truth.reports, _reports(config))
    windowed: list[tuple[str, Mapping[tuple[str, int], Row]]] = [
        ("hourly", truth.hourly),
        ("by-weather", truth.by_weather),
    ]
    for name, expected in windowed:
        compare_rows(findings, name, expected, _table(config, name, window_key, delays_row))
    never = _table(config, "never-departed", orjson.loads, orjson.loads)
    compare_rows(findings, "never-departed", truth.never_departed, never)
    aircraft = _table(config, "aircraft", orjson.loads, aircraft_row)
    compare_rows(findings, "aircraft", truth.aircraft, aircraft)
    compare_rows(findings, "hourly in SQLite", truth.hourly, hourly_rows(sinks))
    compare_reports(findings, truth.reports, report_lines(sinks), "files")
    return findings


def compare_reports(
    findings: Findings,
    expected: Mapping[int, Row],
    found: Iterator[tuple[int, Row]],
    where: str = REPORTS,
) -> None:
    """Compare the reports of one place, of which there must be one per flight."""
    seen: set[int] = set()
    for number, report in found:
        if number in seen:
            findings.doubled += 1
            findings.note(f"{where}: flight {number} was reported again: {report}")
        elif report != expected.get(number):
            findings.wrong += 1
            findings.note(f"{where}: flight {number}: {report} and not {expected.get(number)}")
        seen.add(number)
    for number in expected.keys() - seen:
        findings.lost += 1
        findings.note(f"{where}: flight {number} was never reported")


def compare_rows(
    findings: Findings,
    table: str,
    expected: Mapping[Any, object],
    found: Mapping[Any, object],
) -> None:
    """Compare a table's rows, absent ones and those too many included."""
    findings.rows += len(expected)
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            findings.wrong += 1
            findings.note(f"{table} {key}: {found.get(key)} and not {expected.get(key)}")


def window_key(key: bytes) -> tuple[str, int]:
    """Read a windowed table's key, ``["EWR-UA",[start,end]]``: name and hours since 1970."""
    name, (start_s, _) = orjson.loads(key)
    return name, int(start_s) // _HOUR_S


def delays_row(value: bytes) -> Row:
    """Read departures, minutes of delay and the longest."""
    row = orjson.loads(value)
    return row["departures"], row["minutes"], row["longest"]


def aircraft_row(value: bytes) -> Row:
    """Read flights, miles and flights cancelled."""
    row = orjson.loads(value)
    return row["flights"], row["miles"], row["cancelled"]


def _reports(config: ClientConfig) -> Iterator[tuple[int, Row]]:
    for run in committed_runs(config, REPORTS):
        for value in run.values:
            row = orjson.loads(value or b"null")
            yield row["id"], (row["weather"], row["delay"])


def _table(
    config: ClientConfig,
    name: str,
    key_of: Callable[[bytes], Hashable],
    row_of: Callable[[bytes], object],
) -> dict[Hashable, object]:
    """Fold a table's changelog; a key that lives in two partitions shows both values."""
    rows: dict[tuple[Partition, bytes], bytes] = {}
    for run in committed_runs(config, changelog(name)):
        for key, value in zip(run.keys, run.values, strict=True):
            if value is None:
                rows.pop((run.partition, key or b""), None)
            else:
                rows[run.partition, key or b""] = value
    folded: dict[Hashable, object] = {}
    for (_, raw_key), value in rows.items():
        key = key_of(raw_key)
        row = row_of(value)
        folded[key] = ("in two partitions", folded[key], row) if key in folded else row
    return folded
