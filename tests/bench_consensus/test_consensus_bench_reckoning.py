"""The group's benchmark reckons rightly, counts only what was whole, and asks etcd rightly."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from bench.places import NotRun, RunFailed
from bench_consensus import programs
from bench_consensus.etcd import put_frame, range_frame, read_log, read_result
from bench_consensus.reckoning import goals, growth, latency_row, medians, quantile, render, spreads
from bench_consensus.rounds import Size, once, run, turns
from bench_consensus.usage import Meter, disk_mb, rss_mb

RESULT = """finished in 568.12ms, 880.09 req/s, 81.54KB/s
requests: 500 total, 500 started, 500 done, 499 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 499 2xx, 0 3xx, 0 4xx, 1 5xx
traffic: 46.33KB (47439) total, 1012B (1012) headers (space savings 94.67%), 16.48KB (16875) data
"""


def line(name, **given):
    return {"name": name, "verified": True, **given}


def test_a_quantile_is_one_of_the_values():
    values = [each / 1000 for each in range(1, 1001)]
    assert [quantile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [0.501, 0.991, 1.0, 1]
    assert quantile([0.25], 0.999) == 0.25
    assert quantile([], 0.5) is None


def test_a_load_is_told_in_milliseconds_and_by_the_second():
    assert latency_row([0.001, 0.002, 0.004], 1.5) == {
        "count": 3,
        "per_s": 2,
        "p50_ms": 2.0,
        "p99_ms": 4.0,
        "p999_ms": 4.0,
        "max_ms": 4.0,
    }


def test_growth_compares_the_halves():
    assert growth([10, 40, 40, 30]) == 1.0
    assert growth([10, 20, 30, 40]) == 2.0
    assert growth([10]) is None


def test_the_log_of_h2load_gives_wall_time_and_ordered_latencies():
    lines = ["1000000\t200\t500000\n", "1100000\t200\t100000\n", "900000\t200\t50000\n"]
    assert read_log(lines) == (0.6, [0.05, 0.1, 0.5])


def test_the_result_of_h2load_is_read_or_refused():
    assert read_result(RESULT) == (499, 16_875)
    with pytest.raises(RunFailed, match="not understood"):
        read_result("requests: none")


def test_frames_are_those_of_etcd():
    put = put_frame(b"k" * 8, b"v" * 256)
    assert put[:5] == b"\0" + (2 + 8 + 3 + 256).to_bytes(4, "big")
    assert put[5:] == b"\x0a\x08" + b"k" * 8 + b"\x12\x80\x02" + b"v" * 256
    assert range_frame(b"k") == b"\0\0\0\0\x03\x0a\x01k"
    assert range_frame(b"k", serializable=True) == b"\0\0\0\0\x05\x0a\x01k\x38\x01"


def test_medians_and_spreads_leave_out_what_was_not_whole():
    lines = [
        line("write-1", per_s=10),
        line("write-1", per_s=30),
        line("write-1", per_s=20),
        {"name": "write-1", "verified": False, "per_s": 99, "failed": "gone"},
    ]
    assert medians(lines) == {"write-1": {"per_s": 20}}
    assert spreads(lines) == {"write-1": (10, 30)}
    assert "3/4 FAILED: gone" in render(lines, [("write-1", "ours")])


def test_acknowledged_writes_that_had_no_effect_are_no_figure():
    lines = [{"name": "write-1", "verified": False, "per_s": 9_876}]
    assert "0/1 WRONG OUTPUT" in render(lines, [("write-1", "ours")])
    assert "9,876" not in render(lines, [("write-1", "ours")])


def test_goals_are_ratios_within_the_run_or_bounds():
    found = {
        "write-16": {"per_s": 1_000, "p99_ms": 3.0},
        "write-16-etcd": {"per_s": 1_000, "p99_ms": 2.0},
        "write-64": {"per_s": 1_400, "p99_ms": 2.0},
        "write-64-etcd": {"per_s": 1_000, "p99_ms": 2.0},
        "read-64": {"per_s": 5},
        "failover": {"median_s": 0.4},
        "stable-1000": {"term_changes": 1},
        "memory": {"rss_growth": 1.1, "disk_mb": 321},
    }
    assert {each["goal"]: each["holds"] for each in goals(found)} == {
        "write-16 / write-16-etcd: per_s": True,
        "write-16 / write-16-etcd: p99_ms": False,
        "write-64 / write-64-etcd: per_s": False,
        "write-64 / write-64-etcd: p99_ms": True,
        "failover: median_s": True,
        "stable-1000: term_changes": False,
        "memory: rss_growth": True,
        "memory: disk_mb": False,
    }


def test_a_short_run_gives_figures_and_no_verdict():
    lines = [line("failover", median_s=0.5, max_s=0.9, lost=0)]
    assert [each["holds"] for each in goals(medians(lines), full=False)] == [None]
    assert "MISSED" in render(lines, [("failover", "ours")])
    assert "MISSED" not in render(lines, [("failover", "ours")], full=False)


def test_ours_and_etcd_take_turns_next_to_each_other():
    names = [name for name, _, _ in turns()]
    assert len(names) == len(set(names))
    for count in (1, 16, 64, 256, 1000):
        for kind in ("write", "read", "stale"):
            assert names.index(f"{kind}-{count}-etcd") == names.index(f"{kind}-{count}") + 1


def test_a_peer_that_cannot_run_is_asked_once_and_stands_in_the_table(tmp_path):
    asked = []

    @once
    def fetch():
        asked.append(1)
        raise NotRun("apt-get is missing")

    size = Size(1, 1.0, 1.0, 1.0, 1, 1, 1, 1, programs=fetch)
    take = next(take for name, _, take in turns() if name == "write-1-etcd")
    lines = [run("write-1-etcd", number, take, size, tmp_path) for number in (1, 2)]
    assert asked == [1]
    assert "0/2 not run: apt-get is missing" in render(lines, [("write-1-etcd", "etcd")])
    assert not [*tmp_path.iterdir()]


def test_a_machine_without_packages_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "CACHE", tmp_path)
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    with pytest.raises(NotRun, match="apt-get is missing"):
        programs.fetch()


def test_a_download_that_fails_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    def refuse(command, **_):
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package")

    monkeypatch.setattr(programs, "CACHE", tmp_path)
    monkeypatch.setattr(programs.shutil, "which", lambda name: name)
    monkeypatch.setattr(programs.subprocess, "run", refuse)
    monkeypatch.setattr(programs.os, "geteuid", lambda: 1000)
    with pytest.raises(NotRun, match="Unable to locate"):
        programs.fetch()
    assert not [*tmp_path.iterdir()]


def test_memory_is_no_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "file_system", lambda _: "tmpfs")
    with pytest.raises(NotRun, match="costs nothing"):
        programs.require_disk(tmp_path)


def test_disk_counts_what_is_allocated_of_the_largest(tmp_path):
    for name, size_bytes in (("1", 3 << 20), ("2", 1 << 20)):
        (tmp_path / name / "log").mkdir(parents=True)
        (tmp_path / name / "log" / "segment").write_bytes(b"x" * size_bytes)
    assert 3 <= disk_mb(tmp_path / name for name in ("1", "2")) < 8


def test_what_processes_take_is_told_by_a_thousand_operations():
    meter = Meter([os.getpid()])
    busy_until = time.process_time() + 0.1
    while time.process_time() < busy_until:
        pass
    row = meter.row(100)
    # 0.1 s for 100 operations; the kernel counts in hundredths of a second.
    assert 0.8 <= row["cpu_s_per_1000"] <= 3.0
    assert 0.9 <= row["client_cpu_s_per_1000"] <= 3.0
    assert rss_mb([os.getpid()]) > 5
