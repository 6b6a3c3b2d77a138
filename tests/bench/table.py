"""Medians over the rounds, the ratios within the run, and both as a table for people."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

MEASURES = (
    "per_wall_s",
    "per_cpu_s",
    "peak_rss_mb",
    "p50_ms",
    "p99_ms",
    "max_ms",
    "ready_s",
)


@dataclass(frozen=True)
class Goal:
    """A figure to reach: a measure of ``name``, divided by that of ``peer`` if there is one."""

    name: str
    measure: str
    bound: float
    peer: str | None = None
    at_most: bool = False


GOALS = (
    Goal("batch-1k", "per_cpu_s", 400_000),
    Goal("batch-1k", "per_wall_s", 350_000),
    Goal("batch-100k", "per_cpu_s", 90_000),
    Goal("record", "per_cpu_s", 80_000),
    Goal("batch-1k", "per_cpu_s", 2, "streams-1k"),
    Goal("batch-100k", "per_cpu_s", 2, "streams-100k"),
    Goal("batch-1k", "per_cpu_s", 12, "quix-1k"),
    Goal("batch-100k", "per_cpu_s", 7, "quix-100k"),
    Goal("windowed", "per_cpu_s", 20, "windowed-faust"),
    Goal("latency-batch-100", "p99_ms", 1, "latency-streams-100", at_most=True),
    Goal("latency-batch-20", "p99_ms", 1, "latency-streams-20", at_most=True),
    Goal("restore", "per_wall_s", 300_000),
    Goal("restore", "peak_rss_mb", 600, at_most=True),
)


VERDICTS = {True: "holds", False: "MISSED", None: "(too short a run to tell)"}


def medians(lines):
    """Median of each measure by contestant, over the runs that are whole and verified."""
    by_name = {}
    for line in lines:
        if line.get("verified"):
            by_name.setdefault(line["name"], []).append(line)
    return {
        name: {
            measure: statistics.median(values)
            for measure in MEASURES
            if (values := [line[measure] for line in runs if line.get(measure) is not None])
        }
        for name, runs in by_name.items()
    }


def goals(found, *, full=True):
    """Each goal whose figures were measured: what was asked, the figure, and whether it holds.

    A run that is not full gives no verdict: it is over before a virtual machine is warm, and most
    of what we read ahead was read before the count begins.
    """
    rows = []
    for goal in GOALS:
        value = found.get(goal.name, {}).get(goal.measure)
        if value is not None and goal.peer is not None:
            peer = found.get(goal.peer, {}).get(goal.measure)
            value = value / peer if peer else None
        if value is None:
            continue
        over = f" / {goal.peer}" if goal.peer else ""
        rows.append(
            {
                "goal": f"{goal.name}{over}: {goal.measure}",
                "wanted": f"{'<=' if goal.at_most else '>='} {goal.bound:g}",
                "bound": goal.bound,
                "value": round(value, 2),
                "holds": _holds(goal, value) if full else None,
            }
        )
    return rows


def _holds(goal, value):
    return value <= goal.bound if goal.at_most else value >= goal.bound


def render(lines, titles, *, full=True):
    """The tables as text: medians by contestant, then the goals."""
    found, text = medians(lines), []
    head = ("", "events/s wall", "events/s CPU", "peak MB", "p50 ms", "p99 ms", "runs")
    text.append(_columns([head, *(_row(name, title, found, lines) for name, title in titles)]))
    reached = [
        (row["goal"], row["wanted"], _number(row["value"]), VERDICTS[row["holds"]])
        for row in goals(found, full=full)
    ]
    if reached:
        text.append(_columns([("goal", "wanted", "measured", ""), *reached]))
    return "\n\n".join(text)


def _row(name, title, found, lines):
    mine = [line for line in lines if line["name"] == name]
    shown = [_number(found.get(name, {}).get(measure)) for measure in MEASURES[:5]]
    bad = [line for line in mine if not line.get("verified")]
    state = f" {_trouble(bad[0])}" if bad else ""
    return (f"{name}  {title}", *shown, f"{len(mine) - len(bad)}/{len(mine)}{state}")


def _trouble(line):
    """Why a run does not count, in a few words; the JSON line has all."""
    for field, words in (("not_run", "not run"), ("failed", "FAILED")):
        if field in line:
            return f"{words}: {line[field].splitlines()[0][:70]}"
    return "WRONG OUTPUT"


def _number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _columns(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
