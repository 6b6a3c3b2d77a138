"""The environment and command line of supervised workers, from inputs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onceflow.settings import Settings
from onceflow.supervisor.child import WORKER_PROGRAM, Fleet, plan_child


def fleet(environ: dict[str, str]) -> Fleet:
    return Fleet("shop:app", "info", Settings.load({}, environ), environ)


def test_a_worker_is_told_its_number_lifeline_and_drain_bound():
    child = plan_child(fleet({"PATH": "/bin"}), 2, 7)
    assert child.command[: len(WORKER_PROGRAM)] == WORKER_PROGRAM
    assert child.command[len(WORKER_PROGRAM) :] == (
        "shop:app",
        "--part=2",
        "--lifeline=7",
        "--drain-bound-s=30.0",
        "--log-level=info",
    )


def test_a_worker_is_told_of_a_hosted_group():
    hosted = replace(fleet({}), coordinator="127.0.0.1:7000")
    assert plan_child(hosted, 0, 7).command[-1] == "--coordinator=127.0.0.1:7000"


def test_defaults_leave_the_environment_alone():
    assert plan_child(fleet({"PATH": "/bin"}), 1, 3).environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ("0.0.0.0:9000", "0.0.0.0:9003"),
        ("[::1]:9000", "[::1]:9003"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("off", "off"),
    ],
)
def test_an_explicit_http_port_counts_up(http: str, expected: str):
    assert plan_child(fleet({"ONCEFLOW_HTTP": http}), 3, 5).environ["ONCEFLOW_HTTP"] == expected


def test_each_worker_has_a_membership_of_its_own():
    planned = [plan_child(fleet({"ONCEFLOW_WORKER_ID": "pod-1"}), part, 5) for part in range(2)]
    assert [child.environ["ONCEFLOW_WORKER_ID"] for child in planned] == ["pod-1-0", "pod-1-1"]
