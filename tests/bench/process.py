"""A contestant's process: it dies with the benchmark, also when that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from bench.places import RunFailed
from onceflow.localkafka.guard import Tie, guarded

START_S = 30.0
STOP_S = 45.0
"""A worker may take its transaction timeout to drain; then it is killed."""

TAIL_LINES = 15


class ContestantProcess:
    """One process with its log in ``directory``; use it in ``with``."""

    def __init__(self, command, environ, directory):
        self._command = command
        self._environ = {**os.environ, **environ}
        self._directory = directory
        self._log = directory / "log"
        self.pid = 0
        self._guard = None

    def __enter__(self):
        pid_file = self._directory / "pid"
        pid_file.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._guard = subprocess.Popen(
                guarded(self._command, pid_file, Tie.TIED),
                env=self._environ,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not pid_file.exists():
            if self._guard.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"the process was not started: {self.log_tail()}")
            time.sleep(0.02)
        self.pid = int(pid_file.read_text())
        return self

    def __exit__(self, *_):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive():
                return
            os.kill(self.pid, number)
            try:
                self._guard.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue

    def alive(self):
        """Whether the process runs: the guard ends with it."""
        return self._guard.poll() is None

    def log_tail(self):
        """The end of what it printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
