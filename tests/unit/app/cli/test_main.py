"""The command line as a whole: help, exit codes, lazy imports, settings."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import typer

from onceflow import cli, errors
from onceflow.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("rich", "pydantic", "faust", "confluent_kafka", "pyarrow", "rocksdict", "aiohttp")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the command line in an empty directory; return (exit code, output, talk)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return call


def raising(error: BaseException) -> types.ModuleType:
    module = types.ModuleType("raising")
    module.app = typer.Typer()

    @module.app.command()
    def fail() -> None:
        raise error

    return module


Run = "Callable[..., tuple[Any, str, str]]"


def test_help_lists_every_command_and_the_exit_codes(run: Run):
    code, out, _ = run("--help")
    assert code == 0
    for name, noun in cli.NOUNS.items():
        assert name in out
        assert noun.summary in out
    assert "4 fenced or data at risk" in out.replace("\n  ", " ")


def test_no_arguments_show_the_help(run: Run):
    code, out, err = run()
    assert code == 2
    assert "Commands:" in out + err


@pytest.mark.parametrize("noun", list(cli.NOUNS))
def test_every_command_explains_itself(run: Run, noun: str):
    code, out, _ = run(noun, "--help")
    assert code == 0
    assert "--install-completion" not in out


def test_version_is_told(run: Run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("onceflow 0.")


def test_an_unknown_command_is_a_usage_error(run: Run):
    code, _, err = run("wrker")
    assert code == 2
    assert "wrker" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.TopologyError("x"), 2),
        (errors.Unreachable("x"), 3),
        (errors.Fenced("x"), 4),
        (errors.DataAtRisk("x"), 4),
        (errors.ProcessingError("x"), 1),
        (errors.InvariantViolation("x"), 4),
    ],
)
def test_an_error_becomes_the_exit_code_of_its_class(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
):
    monkeypatch.setitem(sys.modules, "raising", raising(error))
    monkeypatch.setitem(cli.NOUNS, "raise", cli.NOUNS["dev"]._replace(module="raising"))
    got, out, err = run("raise")
    assert got == code
    assert out == ""
    assert "x" in err


def test_a_bug_shows_where_it_is(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "raising", raising(errors.InvariantViolation("INV-A-1: x")))
    monkeypatch.setitem(cli.NOUNS, "raise", cli.NOUNS["dev"]._replace(module="raising"))
    _, _, err = run("raise")
    assert "Traceback" in err
    assert "please report" in err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom onceflow.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "[]\n"


def test_config_explains_every_setting_for_machines(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONCEFLOW_COMMIT_INTERVAL_MS", "20")
    code, out, _ = run("config", "--explain", "-o", "json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) >= set(Settings.model_fields) - {"kafka"}
    assert rows["commit_interval_ms"].keys() == {"name", "value", "source", "doc"}
    assert rows["commit_interval_ms"]["value"] == "20"
    assert rows["commit_interval_ms"]["source"] == "environment"


def test_config_reads_the_file_of_the_directory_and_masks_secrets(run: Run, tmp_path: Path):
    (tmp_path / "onceflow.toml").write_text('retries_max = 9\nkafka.sasl.password = "hunter2"\n')
    code, out, _ = run("config", "--explain")
    assert code == 0
    assert "retries_max" in out
    assert "file" in out
    assert "hunter2" not in out


def test_config_without_explain_shows_names_and_values(run: Run):
    _, out, _ = run("config", "--output", "json")
    assert {"name": "retries_max", "value": "3"} in json.loads(out)


def test_a_wrong_setting_ends_with_2_and_says_what_to_correct(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ONCEFLOW_RUN_RECORDS", "many")
    code, out, err = run("config")
    assert (code, out) == (2, "")
    assert "run_records = 'many' (environment)" in err


def test_a_wrong_number_of_processes_is_a_usage_error(run: Run):
    code, _, err = run("worker", "shop:app", "--processes", "0")
    assert code == 2
    assert "--processes" in err
