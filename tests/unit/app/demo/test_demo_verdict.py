"""The verdict must be able to fail: each kind of difference is found, counted and shown."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from onceflow.cli import demo as command
from onceflow.demo import run as demo_run
from onceflow.demo.run import Outcome, Plan, highlights
from onceflow.demo.sabotage import Breakage, break_agent
from onceflow.demo.truth import Truth
from onceflow.demo.verify import (
    Findings,
    aircraft_row,
    compare_reports,
    compare_rows,
    delays_row,
    window_key,
)
from onceflow.demo.watch import Kill, Watch
from onceflow.demo.workers import WorkerEnded, worker_process
from onceflow.errors import Unreachable
from onceflow.ids import Partition

EXPECTED = {1: ("fair", 5), 2: ("windy", None)}
CLEAN = Outcome(Findings(rows=7), 2, 1, 1, 40, 2.0, (1.5,))


def test_one_right_report_for_each_flight_is_clean():
    findings = Findings()
    compare_reports(findings, EXPECTED, iter(EXPECTED.items()))
    assert findings.is_clean


@pytest.mark.parametrize(
    ("reports", "lost", "doubled", "wrong"),
    [
        ([(1, ("fair", 5))], 1, 0, 0),
        ([*EXPECTED.items(), (1, ("fair", 5))], 0, 1, 0),
        ([(1, ("fair", 6)), (2, ("windy", None))], 0, 0, 1),
        ([*EXPECTED.items(), (3, ("fair", 1))], 0, 0, 1),
        ([], 2, 0, 0),
    ],
)
def test_reports_that_are_absent_repeated_or_false_are_counted(reports, lost, doubled, wrong):
    findings = Findings()
    compare_reports(findings, EXPECTED, iter(reports))
    assert (findings.lost, findings.doubled, findings.wrong) == (lost, doubled, wrong)
    assert not findings.is_clean
    assert findings.examples


@pytest.mark.parametrize("found", [{"a": 1}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 0}])
def test_rows_that_are_absent_false_or_too_many_are_counted(found):
    findings = Findings()
    compare_rows(findings, "table", {"a": 1, "b": 2}, found)
    assert findings.wrong == 1
    assert findings.rows == 2


def test_keys_and_values_are_read_as_faust_writes_them():
    assert window_key(b'["EWR-UA",[1357027200.0,1357030799.9]]') == ("EWR-UA", 376_952)
    assert delays_row(b'{"departures":2,"minutes":7,"longest":9}') == (2, 7, 9)
    assert aircraft_row(b'{"flights":2,"miles":7,"cancelled":1}') == (2, 7, 1)


def test_the_verdict_is_verified_only_if_nothing_differs_and_every_kill_was_survived():
    assert CLEAN.verdict() == ("VERIFIED lost=0 doubled=0 wrong=0 flights=2 results=7 kills=1")
    assert replace(CLEAN, survived=0).verdict().startswith("FAILED")
    for broken in (Findings(lost=1), Findings(doubled=1), Findings(wrong=1)):
        assert replace(CLEAN, findings=broken).verdict().startswith("FAILED")


@pytest.mark.parametrize(("findings", "code"), [(Findings(), 0), (Findings(lost=1), 1)])
def test_the_command_ends_with_the_verdict_and_its_exit_code(monkeypatch, findings, code):
    plans = []

    def run_demo(plan):
        plans.append(plan)
        return replace(CLEAN, findings=findings)

    monkeypatch.setattr(demo_run, "run_demo", run_demo)
    options = ["--break", "double", "--flights", "9", "--kills", "1"]
    outcome = CliRunner().invoke(command.app, options)
    assert outcome.exit_code == code
    assert outcome.stdout.splitlines()[-1].split()[0] == ("FAILED" if code else "VERIFIED")
    assert plans == [Plan(flights=9, kills=1, breakage=Breakage.DOUBLE)]


def test_a_run_that_does_not_come_to_its_end_is_failed_as_well(monkeypatch):
    def run_demo(plan):
        raise Unreachable("Kafka is gone")

    monkeypatch.setattr(demo_run, "run_demo", run_demo)
    outcome = CliRunner().invoke(command.app, [])
    assert outcome.exit_code == Unreachable.exit_code
    assert outcome.stdout.splitlines()[-1].startswith("FAILED")
    assert "Kafka is gone" in outcome.stderr


def test_the_command_offers_every_breakage():
    assert [each.value for each in command.Break] == [each.value for each in Breakage]


@pytest.mark.parametrize(
    ("breakage", "expected"), [(Breakage.DROP, [1, 2]), (Breakage.DOUBLE, [0, 0, 1, 2])]
)
async def test_a_broken_agent_sees_few_flights_too_rarely_or_too_often(breakage, expected):
    async def work(flights):
        async for flight in flights:
            yield flight.id

    async def flights():
        for number in range(3):
            yield SimpleNamespace(id=number)

    agent = SimpleNamespace(fun=work)
    break_agent(agent, breakage)
    assert [number async for number in agent.fun(flights())] == expected


def test_a_kill_is_survived_when_all_partitions_with_input_have_moved():
    first, second = Partition("flights", 0), Partition("flights", 1)
    watch = Watch(None, None)
    watch.ends = {first: 100, second: 50}
    watch.committed = {first: 10, second: 50}
    watch.kills.append(Kill(0.0, {first: 10, second: 50}))
    watch._note_recoveries()
    assert watch.is_recovering(), "the first partition stands where it stood"
    watch.committed[first] = 11
    watch._note_recoveries()
    assert not watch.is_recovering()
    assert watch.survived == 1


def test_a_worker_that_ends_by_itself_is_told_with_its_last_words(tmp_path):
    worker = worker_process(1, "no_such_module_here:app", tmp_path, {})
    worker.start()
    worker._guard.wait(60)
    with pytest.raises(WorkerEnded, match="no_such_module_here"):
        worker.require_alive()
    worker.stop()


def test_a_worker_is_killed_and_started_again(tmp_path):
    worker = worker_process(1, "unused:app", tmp_path, {})
    worker._command = [sys.executable, "-c", "import time; time.sleep(60)"]
    worker.start()
    worker.require_alive()
    worker.kill()
    worker.start()
    worker.require_alive()
    worker.stop()
    worker.require_alive()


def test_highlights_come_from_the_results():
    truth = Truth(
        hourly={("EWR-UA", 1): (2, 10, 9), ("JFK-B6", 1): (1, 90, 90)},
        aircraft={"N102UW": (1, 500, 0), "N14228": (1, 400, 0)},
        reports={1: ("fair", 5), 2: ("fair", 5), 3: ("windy", 90), 4: ("windy", None)},
    )
    found = highlights(truth, demo_run.data_directory())
    assert found["worst weather"] == "windy, 90.0 min mean delay"
    assert found["latest airline"].startswith("JetBlue")
    assert found["furthest flown"] == "N102UW (AIRBUS INDUSTRIE A320-214), 500 miles"
