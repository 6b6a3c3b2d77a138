"""The benchmarks' verifier finds what is wrong, and their table counts only what was right."""

from __future__ import annotations

import pytest

from bench.contestants import SMALL_HUNDREDTH
from bench.latency import _quantile
from bench.restore import row
from bench.table import goals, medians, render
from bench.verify import last_counts, last_results, windows_of, wrong_rows

EVENTS = [
    ([b"1"] * 3, [b'{"k":"1","v":1.5,"ts":10000}', b'{"k":"1","v":2.5,"ts":19999}',
                  b'{"k":"1","v":4.5,"ts":20000}']),
    ([b"2"], [b'{"k":"2","v":7.5,"ts":10500}']),
]  # fmt: skip
RESULTS = {
    b"1@10000": b'{"n":2,"sum":4.0}',
    b"1@20000": b'{"n":1,"sum":4.5}',
    b"2@10000": b'{"n":1,"sum":7.5}',
}


def wrong(results):
    seen, _ = last_results([([*results], [*results.values()])])
    return wrong_rows(windows_of(EVENTS), seen, ["k", "w"])


def test_right_windows_are_right():
    assert wrong(RESULTS) == 0


@pytest.mark.parametrize(
    "change",
    [
        {b"1@10000": b'{"n":3,"sum":4.0}'},
        {b"1@10000": b'{"n":2,"sum":4.5}'},
        {b"9@10000": b'{"n":1,"sum":1.0}'},
        {b"2@10000": b'{"n":1,"sum":null}'},
    ],
    ids=["doubled", "wrong sum", "too many", "no sum"],
)
def test_a_wrong_window_is_found(change):
    assert wrong(RESULTS | change) == 1


def test_a_missing_window_is_found():
    assert wrong({b"1@10000": RESULTS[b"1@10000"], b"2@10000": RESULTS[b"2@10000"]}) == 1


def test_only_the_last_result_counts_and_a_start_may_stand_in_the_value():
    seen, count = last_results(
        [
            ([b"1", b"1"], [b'{"n":1,"sum":1.5,"w":10000}', b'{"n":2,"sum":4.0,"w":10000}']),
            ([b"1", b"2"], [b'{"n":1,"sum":4.5,"w":20000}', b'{"n":1,"sum":7.5,"w":10000}']),
        ]
    )
    assert count == 4
    assert wrong_rows(windows_of(EVENTS), seen, ["k", "w"]) == 0


def test_counts_come_from_the_last_changelog_record():
    seen = last_counts([([b'"1"', b'"1"', b'"2"'], [b"1", b"2", b"1"])])
    assert dict(seen.iter_rows()) == {"1": 2, "2": 1}


def test_a_run_that_is_not_verified_has_no_figure():
    lines = [
        {"name": "restore", "verified": True, "per_wall_s": 10},
        {"name": "restore", "verified": True, "per_wall_s": 30},
        {"name": "restore", "verified": True, "per_wall_s": 20},
        {"name": "restore", "verified": False, "per_wall_s": 99, "failed": "gone"},
    ]
    assert medians(lines) == {"restore": {"per_wall_s": 20}}
    assert "3/4 FAILED: gone" in render(lines, [("restore", "a table")])


def test_a_peer_that_did_not_run_is_in_the_table_with_its_reason():
    lines = [{"name": "quix-1k", "verified": False, "not_run": "pip is missing"}]
    assert "0/1 not run: pip is missing" in render(lines, [("quix-1k", "Quix")])


def test_goals_are_ratios_within_the_run_and_say_what_was_missed():
    found = {
        "batch-1k": {"per_cpu_s": 300_000, "per_wall_s": 350_000},
        "streams-1k": {"per_cpu_s": 100_000},
        "restore": {"peak_rss_mb": 601},
    }
    holds = {each["goal"]: each["holds"] for each in goals(found)}
    assert holds == {
        "batch-1k: per_cpu_s": False,
        "batch-1k: per_wall_s": True,
        "batch-1k / streams-1k: per_cpu_s": True,
        "restore: peak_rss_mb": False,
    }


def test_a_short_run_gives_figures_and_no_verdict():
    lines = [{"name": "restore", "verified": True, "peak_rss_mb": 601}]
    assert [each["holds"] for each in goals(medians(lines), full=False)] == [None]
    assert "MISSED" in render(lines, [("restore", "")])
    assert "MISSED" not in render(lines, [("restore", "")], full=False)


def test_a_quantile_of_few_is_one_of_them():
    assert _quantile([], 0.5) is None
    assert [_quantile([1.0, 2.0, 3.0], share) for share in (0.5, 0.99, 1.0)] == [2.0, 3.0, 3.0]


def test_sizes_are_as_announced():
    assert len(row(123)["key"]) + len(row(123)["value"]) == 60
    assert SMALL_HUNDREDTH.events(4_000_000) == 40_000
    assert SMALL_HUNDREDTH.events(400_000) == 20_000
    assert SMALL_HUNDREDTH.events(5_000) == 5_000
