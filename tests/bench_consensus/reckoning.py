"""Quantiles, medians over the rounds, the goals as ratios within the run, and tables for people."""

from __future__ import annotations

import statistics

from bench.table import VERDICTS, Goal, _columns, _holds, _number, _trouble

COUNTS = (1, 16, 64, 256, 1_000)
PEER = "-etcd"

LOADS = ("write", "read", "stale", "many", "stable")
LOAD_MEASURES = (
    "per_s",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "cpu_s_per_1000",
    "client_cpu_s_per_1000",
    "load1",
)
OTHER_MEASURES = (
    "term_changes",
    "median_s",
    "max_s",
    "rss_growth",
    "rss_mb",
    "disk_mb",
    "serving_s",
    "caught_up_s",
    "state_mb",
    "trials",
    "crashes",
    "acknowledged",
    "lost",
)
MEASURES = (*LOAD_MEASURES, *OTHER_MEASURES)


def _against_etcd(kind, counts, measure, bound, *, at_most=False):
    return tuple(
        Goal(f"{kind}-{count}", measure, bound, f"{kind}-{count}{PEER}", at_most)
        for count in counts
    )


GOALS = (
    *_against_etcd("write", COUNTS[:2], "per_s", 1.0),
    *_against_etcd("write", COUNTS[2:], "per_s", 1.5),
    *_against_etcd("write", COUNTS[1:], "p99_ms", 1.0, at_most=True),
    *_against_etcd("read", COUNTS[2:], "per_s", 1.0),
    *_against_etcd("stale", COUNTS[2:], "per_s", 1.0),
    Goal("stable-1000", "term_changes", 0, at_most=True),
    Goal("failover", "median_s", 0.4, at_most=True),
    Goal("memory", "rss_growth", 1.3, at_most=True),
    Goal("memory", "disk_mb", 320, at_most=True),
    Goal("recovery", "serving_s", 5.0, at_most=True),
)
"""What the group has to reach. Disk: the log between two snapshots, the tail below, two segments
allocated in advance, two snapshots. Growth: resident memory of the second half over the first."""


def quantile(ordered, share):
    """The value below which ``share`` of ``ordered`` lies; it is one of them, the nearest above."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latency_row(ordered_s, wall_s):
    """Rate and quantiles of the latencies, given in seconds and in ascending order."""
    row = {"count": len(ordered_s), "per_s": round(len(ordered_s) / wall_s) if wall_s else None}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)):
        value = quantile(ordered_s, share)
        row[name] = None if value is None else round(value * 1000, 2)
    return row


def growth(samples):
    """The most of the second half over the most of the first; 1.0 is no growth."""
    half = len(samples) // 2
    if not half or not max(samples[:half]):
        return None
    return round(max(samples[half:]) / max(samples[:half]), 3)


def _whole(lines):
    found = {}
    for line in lines:
        if line.get("verified"):
            found.setdefault(line["name"], []).append(line)
    return found


def medians(lines):
    """Median of each measure by name, over the runs that are whole and verified."""
    return {
        name: {
            measure: statistics.median(values)
            for measure in MEASURES
            if (values := [line[measure] for line in runs if line.get(measure) is not None])
        }
        for name, runs in _whole(lines).items()
    }


def spreads(lines):
    """Lowest and highest rate by name."""
    return {
        name: (min(values), max(values))
        for name, runs in _whole(lines).items()
        if (values := [line["per_s"] for line in runs if line.get("per_s") is not None])
    }


def goals(found, *, full=True):
    """Each goal whose figures were measured; a short run gives the figure and no verdict."""
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
                "value": round(value, 3),
                "holds": _holds(goal, value) if full else None,
            }
        )
    return rows


def render(lines, titles, *, full=True):
    """The tables as text: loads, then the rest, then the goals."""
    found, ranges = medians(lines), spreads(lines)
    loads = [each for each in titles if each[0].split("-")[0] in LOADS]
    others = [each for each in titles if each not in loads]
    text = []
    if loads:
        head = ("", "per s", "min-max", "p50 ms", "p99 ms", "p99.9 ms")
        head += ("CPU s/1000", "client", "load", "runs")
        rows = [_load_row(name, title, found, ranges, lines) for name, title in loads]
        text.append(_columns([head, *rows]))
    if others:
        rows = [_other_row(name, title, found, lines) for name, title in others]
        text.append(_columns([("", "measured", "runs"), *rows]))
    reached = [
        (row["goal"], row["wanted"], f"{row['value']:,.2f}", VERDICTS[row["holds"]])
        for row in goals(found, full=full)
    ]
    if reached:
        text.append(_columns([("goal", "wanted", "measured", ""), *reached]))
    return "\n\n".join(text)


def _load_row(name, title, found, ranges, lines):
    mine = found.get(name, {})
    spread = "-".join(_number(value) for value in ranges[name]) if name in ranges else "-"
    rate, *rest = LOAD_MEASURES
    shown = [_figure(measure, mine.get(measure)) for measure in rest]
    return (f"{name}  {title}", _number(mine.get(rate)), spread, *shown, _runs(name, lines))


def _figure(measure, value):
    if value is None:
        return "-"
    return f"{value:.2f}" if measure.endswith("_ms") else f"{value:.3g}"


def _other_row(name, title, found, lines):
    shown = [
        f"{measure} {value:,.3g}" if value < 1_000 else f"{measure} {value:,.0f}"
        for measure, value in found.get(name, {}).items()
        if measure in OTHER_MEASURES
    ]
    return (f"{name}  {title}", ", ".join(shown) or "-", _runs(name, lines))


def _runs(name, lines):
    mine = [line for line in lines if line["name"] == name]
    bad = [line for line in mine if not line.get("verified")]
    return f"{len(mine) - len(bad)}/{len(mine)}{f' {_trouble(bad[0])}' if bad else ''}"
