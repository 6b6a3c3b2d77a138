"""What ``onceflow kafka`` answers without any broker."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from onceflow.cli.kafka import EXIT_NOT_RUNNING, app
from onceflow.errors import ConfigError


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ONCEFLOW_BROKER", raising=False)


def test_status_of_nothing_is_told_in_words_and_for_machines(tmp_path):
    words = CliRunner().invoke(app, ["status", "--dir", str(tmp_path)])
    assert words.exit_code == EXIT_NOT_RUNNING
    assert "no Kafka was started" in words.stdout
    machines = CliRunner().invoke(app, ["status", "--dir", str(tmp_path), "-o", "json"])
    assert machines.exit_code == EXIT_NOT_RUNNING
    assert json.loads(machines.stdout) == {
        "running": False,
        "bootstrap": "",
        "directory": str(tmp_path),
        "brokers": [],
    }


def test_stopping_nothing_is_fine(tmp_path):
    stopped = CliRunner().invoke(app, ["stop", "--dir", str(tmp_path), "-o", "json"])
    assert stopped.exit_code == 0
    assert json.loads(stopped.stdout) == {"stopped": False}


@pytest.mark.parametrize("options", [["--brokers", "2"], ["--foreground", "--brokers", "2"]])
def test_a_number_of_brokers_that_is_refused_is_an_error_of_configuration(tmp_path, options):
    outcome = CliRunner().invoke(app, ["start", "--dir", str(tmp_path), *options])
    assert isinstance(outcome.exception, ConfigError)
    assert "1 or 3 brokers" in str(outcome.exception)
