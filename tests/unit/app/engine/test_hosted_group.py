"""Which applications get a group that is hosted for them, and what they are made to use."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import onceflow
from harness.sqlite_participant import SqliteParticipant
from onceflow.engine.hosted import GROUP_DIRECTORY, group_directory, needs_group, use_group
from onceflow.engine.runtime import runtime_of
from onceflow.supervisor.hosting import COORDINATOR_PROGRAM, EXIT_NOT_NEEDED
from onceflow.supervisor.lifeline import open_lifeline


def app_with(tmp_path, sinks, **settings):
    app = onceflow.App("hosted", broker="onceflow://127.0.0.1:1", datadir=str(tmp_path), **settings)

    @app.agent(app.topic("in"), sink=sinks)
    async def agent(stream):
        async for value in stream:
            yield value

    return app


def test_an_app_with_two_phase_sinks_that_names_no_group_gets_one(tmp_path):
    sink = SqliteParticipant(tmp_path / "rows", name="rows")
    app = app_with(tmp_path, [sink])
    assert needs_group(app)
    assert group_directory(app) == tmp_path / GROUP_DIRECTORY
    use_group(app, "127.0.0.1:7000")
    settings = runtime_of(app).settings
    assert (settings.coordinator, settings.coordinator_cluster) == ("127.0.0.1:7000", "onceflow")
    assert not needs_group(app)


def test_an_app_without_two_phase_sinks_or_with_a_group_gets_none(tmp_path):
    sink = SqliteParticipant(tmp_path / "rows", name="rows")
    assert not needs_group(app_with(tmp_path, []))
    assert not needs_group(app_with(tmp_path, [sink], coordinator="10.0.0.1:7401"))


@pytest.mark.parametrize("path", ["shop:app", "no_such_module:app"])
def test_the_groups_program_looks_at_the_app_first(tmp_path, path):
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(
            """
            import onceflow
            app = onceflow.App("shop", broker="onceflow://127.0.0.1:1")
            """
        )
    )
    lifeline, _writer = open_lifeline()
    done = subprocess.run(
        [*COORDINATOR_PROGRAM, f"--app={path}", "--port=1", f"--lifeline={lifeline}"],
        cwd=tmp_path,
        pass_fds=(lifeline,),
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (EXIT_NOT_NEEDED, b"")
    assert sys.executable == COORDINATOR_PROGRAM[0]
