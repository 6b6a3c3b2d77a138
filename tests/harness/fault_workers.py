"""Worker processes of the fault tests: started as a user does, ended as faults do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from onceflow.localkafka.guard import Tie, guarded

TESTS = Path(__file__).resolve().parents[1]
KILL_S = 10.0
STOP_S = 30.0
LOOK_S = 0.02
IDLE = re.compile(r"Starting\.\.\.|Stopping\.\.\.|^[|+]")


class Worker:
    """One worker with a data directory of its own, started again and again.

    Args:
        program: the module of its application.
    """

    def __init__(self, name, directory, environ, *, program="harness.faultapp"):
        self.name = name
        self._program = program
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self._environ = environ
        self._guard = None
        self.pid = 0

    def start(self, **environ):
        """Start the process; ``environ`` adds to its environment this time."""
        assert self._guard is None, f"{self.name} runs already"
        self._pid_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "faust", "-A", self._program]
        # Not -D: Faust takes the short form only after it has read the default.
        command += ["--datadir", str(environ.pop("datadir", self.directory))]
        command += ["worker", "-l", "info", "--without-web"]
        with self.log_path.open("ab") as log:
            log.write(f"=== start {environ}\n".encode())
            self._guard = subprocess.Popen(
                guarded(command, self._pid_file, Tie.TIED),
                env={**os.environ, **self._environ, **environ},
                cwd=TESTS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(self._pid_file.exists, 20.0, "a process id")
        self.pid = int(self._pid_file.read_text())
        return self

    @property
    def running(self):
        return self._guard is not None and self._guard.poll() is None

    @property
    def started(self):
        """Whether there is a process, running or ended, that nobody waited for."""
        return self._guard is not None

    def kill(self):
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        return self.wait_ended(KILL_S)

    def freeze(self):
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self):
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def terminate(self):
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    def stop(self):
        """SIGTERM; the process must drain, commit and end by itself, without complaint."""
        self.terminate()
        self.wait_stopped()

    def wait_stopped(self):
        """Wait until a terminated process has ended in order."""
        code = self.wait_ended(STOP_S)
        assert code in (0, signal.SIGTERM), f"{self.name} stopped with exit code {code}"

    def wait_ended(self, timeout_s):
        """Wait until the process is gone; returns its exit code, the number for a signal."""
        self._wait(lambda: not self.running, timeout_s, "its end")
        code = self._guard.returncode
        self._guard = None
        return code

    def wait_killed(self, timeout_s=25.0):
        """Wait until the process died by SIGKILL, at its crash point."""
        code = self.wait_ended(timeout_s)
        assert code == signal.SIGKILL, f"{self.name} ended with {code}:\n{self.tail()}"

    def wait_log(self, pattern, timeout_s=20.0, since=0):
        """Wait until the log has ``pattern`` after position ``since``."""
        self._wait(lambda: re.search(pattern, self.log()[since:]), timeout_s, f"log {pattern!r}")

    def wait_ready(self, timeout_s=60.0):
        """Wait until the process started last works on what it was assigned."""
        self.wait_log(r"\[\^Worker\]: Ready", timeout_s, since=self.log().rindex("=== start"))

    def incarnation(self):
        """Of the process that was started last; "" until it has logged something."""
        last = self.log().rpartition("=== start")[2]
        found = re.search(r"""incarnation['"]: ?['"]([A-Za-z0-9_-]+)""", last)
        return found[1] if found else ""

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines=25):
        """The last lines of the log that tell something."""
        told = [line[:500] for line in self.log().splitlines() if not IDLE.search(line)]
        return "\n".join(told[-lines:])

    def _signal(self, number):
        # While the guard lives, the number is the worker's: it is the one that reaps it. It looks
        # every fifth of a second, so that a process may have ended before it does.
        with suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, number)

    def _wait(self, reached, timeout_s, what):
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < deadline, (
                f"{self.name} (pid {self.pid}): not within {timeout_s} s: {what}\n{self.tail()}"
            )
            time.sleep(LOOK_S)
