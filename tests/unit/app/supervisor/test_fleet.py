"""The supervisor with real processes: small scripts stand where the worker's program would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 20.0

SUPERVISOR = """
import os, sys
from onceflow.settings import Settings
from onceflow.supervisor.child import Fleet
from onceflow.supervisor.fleet import supervise
settings = Settings.load({"record_bound_s": float(sys.argv[2]), "processes": 2}, {})
program = (sys.executable, sys.argv[1])
sys.exit(supervise(Fleet("shop:app", "info", settings, os.environ, program)))
"""

WORKER = """
import os, pathlib, signal, sys, threading
arguments = dict(a[2:].split("=") for a in sys.argv[2:])
part = arguments["part"]
here = pathlib.Path(__file__).parent
starts = here / f"starts-{part}"
def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")
"""

LIVES = (
    WORKER
    + """
from onceflow.supervisor.lifeline import watch_lifeline
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
watch_lifeline(int(arguments["lifeline"]), 1.0)
note(starts, str(os.getpid()))
while not stopped.wait(0.05):
    pass
note(here / f"drained-{part}", "yes")
"""
)


class Supervised:
    """A supervisor process over two workers that run ``script``."""

    def __init__(self, folder: Path, script: str, record_bound_s: float = 10.0) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(textwrap.dedent(script))
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(folder / "worker.py"), str(record_bound_s)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self, part: int) -> list[int]:
        path = self.folder / f"starts-{part}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_starts(self, count: int = 1) -> list[int]:
        until(lambda: all(len(self.pids(part)) >= count for part in (0, 1)))
        return [self.pids(part)[-1] for part in (0, 1)]

    def end(self) -> tuple[int, str]:
        _, told = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, told


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def make(script: str, **options: float) -> Supervised:
        made.append(Supervised(tmp_path, script, **options))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.communicate()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_worker_and_ends_with_0(
    supervised: Callable[..., Supervised], tmp_path: Path, number: signal.Signals
):
    run = supervised(LIVES)
    pids = run.wait_for_starts()
    run.process.send_signal(number)
    code, told = run.end()
    assert code == 0, told
    assert {path.name for path in tmp_path.glob("drained-*")} == {"drained-0", "drained-1"}
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_killed_worker_is_restarted_and_the_other_is_left_alone(
    supervised: Callable[..., Supervised],
):
    run = supervised(LIVES)
    first, second = run.wait_for_starts()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(run.pids(0)) == 2)
    assert run.pids(1) == [second]
    run.process.terminate()
    code, told = run.end()
    assert code == 0
    assert "worker 0 ended with code -9; it is restarted in 0.5 s" in told


def test_exit_code_4_stops_all_without_a_restart(
    supervised: Callable[..., Supervised], tmp_path: Path
):
    script = LIVES.replace("while not stopped", 'if part == "1": sys.exit(4)\nwhile not stopped')
    run = supervised(script)
    code, told = run.end()
    assert code == 4, told
    assert len(run.pids(1)) == 1
    assert (tmp_path / "drained-0").exists() or not run.pids(0)


def test_a_worker_that_does_not_drain_is_killed_after_the_bound(
    supervised: Callable[..., Supervised],
):
    deaf = WORKER + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "note(starts, str(os.getpid()))\nthreading.Event().wait()\n"
    )
    run = supervised(deaf, record_bound_s=0.25)
    pids = run.wait_for_starts()
    run.process.terminate()
    code, told = run.end()
    assert code == 1
    assert "killing 2 workers" in told
    assert not [pid for pid in pids if is_alive(pid)]


def test_workers_drain_when_their_supervisor_is_killed(
    supervised: Callable[..., Supervised], tmp_path: Path
):
    run = supervised(LIVES)
    pids = run.wait_for_starts()
    run.process.kill()
    until(lambda: not any(is_alive(pid) for pid in pids))
    assert {path.name for path in tmp_path.glob("drained-*")} == {"drained-0", "drained-1"}


def test_a_stuck_worker_is_killed_when_its_supervisor_is_gone(
    supervised: Callable[..., Supervised],
):
    stuck = LIVES.replace("lambda *_: stopped.set()", "signal.SIG_IGN")
    run = supervised(stuck)
    pids = run.wait_for_starts()
    run.process.kill()
    until(lambda: not any(is_alive(pid) for pid in pids))
