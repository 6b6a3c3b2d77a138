"""The main job's processes: started as a user would, killed as an accident would.

Workers are ``faust -A ... worker``, members of the replicated group ``onceflow meta serve``, each
under a guard, so that it dies with the run, also when the run is killed. It has a data directory of
its own, which it finds again after a kill.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from onceflow.errors import OnceflowError
from onceflow.localkafka.guard import Tie, guarded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STOP_S = 40.0
"""Seconds that a worker may take to drain and commit: its transaction timeout and some more."""

_START_S = 30.0
"""Seconds until the guard must have started the worker; it takes a tenth of one."""

_KILL_S = 10.0
"""Seconds until a killed process must be gone."""

GROUP_SIZE = 3
"""Members of the group that keeps a record of what is in doubt: one may be lost."""

_LOOK_S = 0.05
_TAIL_LINES = 30


class WorkerEnded(OnceflowError):  # noqa: N818 - as all of our errors
    """A process ended though nobody killed it. Reaction: read its log; results are not whole."""


class DemoProcess:
    """One process of the run, started again and again.

    Attributes:
        number: which of its kind, from 1.
        name: in words.
        log_path: what it prints.
    """

    def __init__(
        self,
        name: str,
        number: int,
        command: list[str],
        directory: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.name = f"{name} {number}"
        self.number = number
        self.log_path = directory / f"{name}-{number}.log"
        self._pid_file = directory / f"{name}-{number}.pid"
        self._environ = {**os.environ, **environ}
        self._command = command
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, though nobody waited for its end here."""
        return self._guard is not None and self._guard.poll() is not None

    def start(self, **environ: str) -> None:
        """Start the process; returns when it exists.

        Args:
            environ: variables for this time only.

        Raises:
            WorkerEnded: it could not be started.
        """
        self._pid_file.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._guard = subprocess.Popen(
                guarded(self._command, self._pid_file, Tie.TIED),
                env={**self._environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while not self._pid_file.exists():
            if self._guard.poll() is not None or time.monotonic() > deadline:
                raise WorkerEnded(f"{self.name} was not started:\n{self.log_tail()}")
            time.sleep(_LOOK_S)

    def require_alive(self) -> None:
        """Check that the process runs.

        Raises:
            WorkerEnded: it ended by itself; the message has the end of its log.
        """
        if self._guard is None:
            return
        code = self._guard.poll()
        if code is not None:
            raise WorkerEnded(
                f"{self.name} ended by itself (exit code {code}); what it had not "
                f"committed is not lost, but the run is over. From {self.log_path}:\n"
                f"{self.log_tail()}"
            )

    def kill(self) -> None:
        """End the process by SIGKILL and wait until it is gone."""
        self._end(signal.SIGKILL, _KILL_S)

    def stop(self) -> None:
        """End the process in order: it drains and commits. One that does not is killed."""
        if not self._end(signal.SIGTERM, STOP_S):
            self.kill()

    def log_tail(self) -> str:
        """The end of what it printed."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _end(self, number: signal.Signals, bound_s: float) -> bool:
        """Send a signal; whether the process was gone in time."""
        guard = self._guard
        if guard is None:
            return True
        # While the guard lives the number is the worker's: it is the one that would reap it.
        if guard.poll() is None:
            os.kill(int(self._pid_file.read_text()), number)
        try:
            guard.wait(bound_s)
        except subprocess.TimeoutExpired:
            return False
        self._guard = None
        return True


def worker_process(
    number: int, app_path: str, directory: Path, environ: Mapping[str, str]
) -> DemoProcess:
    """A worker of ``app_path`` (``MODULE:app``)."""
    # Faust's names: where local state is kept, and how wide lines of the log may be.
    settings = {"APP_DATADIR": str(directory / f"worker-{number}"), "COLUMNS": "500"}
    command = [sys.executable, "-m", "faust", "-A", app_path]
    command += ["worker", "-l", "info", "--without-web"]
    return DemoProcess("worker", number, command, directory, {**settings, **environ})


def group_of_three(directory: Path) -> tuple[list[DemoProcess], str]:
    """Members of a replicated group on free ports, and where clients find them."""
    ports = _free_ports(2 * GROUP_SIZE)
    peers, clients = ports[:GROUP_SIZE], ports[GROUP_SIZE:]
    numbers = range(1, GROUP_SIZE + 1)
    listed = [
        f"--member={number}=127.0.0.1:{peer},127.0.0.1:{client}"
        for number, peer, client in zip(numbers, peers, clients, strict=True)
    ]
    members: list[DemoProcess] = []
    for number in numbers:
        options = [f"--id={number}", f"--dir={directory / f'member-{number}'}", "--http=off"]
        command = [sys.executable, "-c", "from onceflow.cli import main; main()", "meta", "serve"]
        members.append(DemoProcess("member", number, [*command, *options, *listed], directory, {}))
    return members, ",".join(f"127.0.0.1:{client}" for client in clients)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
