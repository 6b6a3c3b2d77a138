"""The main job in small: it is verified, also under kill, and each breakage is found."""

from __future__ import annotations

import asyncio

import pytest

from onceflow.demo.run import Plan, run_demo
from onceflow.demo.sabotage import Breakage
from onceflow.errors import ConfigError
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.usefixtures("kafka"),
    pytest.mark.timeout(400),
]


@pytest.fixture
def _own_kafka(monkeypatch):
    monkeypatch.delenv("ONCEFLOW_BROKER", raising=False)


@pytest.mark.usefixtures("_own_kafka")
def test_flights_are_verified_though_workers_are_killed():
    outcome = run_demo(Plan(flights=12_000, kills=2))
    assert outcome.findings.examples == []
    assert outcome.verified
    assert outcome.survived == 2
    assert outcome.commits > 2


@pytest.mark.usefixtures("_own_kafka")
@pytest.mark.parametrize(
    ("breakage", "symptom"),
    [(Breakage.DROP, "lost"), (Breakage.DOUBLE, "doubled"), (Breakage.STALE, "wrong")],
)
def test_a_broken_run_fails_with_its_symptom(breakage, symptom):
    outcome = run_demo(Plan(flights=2_500, kills=0, breakage=breakage))
    assert not outcome.verified
    counts = {name: getattr(outcome.findings, name) for name in ("lost", "doubled", "wrong")}
    assert counts[symptom] > 0
    # A lost or doubled flight makes windows wrong as well; a stale row is wrong alone.
    others = {"lost", "doubled"} - {symptom}
    assert [counts[name] for name in others] == [0] * len(others)
    assert outcome.verdict().startswith("FAILED")


async def test_a_kafka_with_topics_of_these_names_is_left_alone(kafka, monkeypatch):
    admin = Admin(ClientConfig(kafka.bootstrap))
    await admin.create_topic("weather", 1)
    monkeypatch.setenv("ONCEFLOW_BROKER", kafka.bootstrap)
    try:
        with pytest.raises(ConfigError, match="weather exist"):
            await asyncio.to_thread(run_demo, Plan(flights=10, kills=0))
    finally:
        await admin.delete_topics(["weather"])
        admin.close()
