"""Keeps a group of one alive beside the workers, for applications that name no coordinator.

It is a process of its own, so that workers may come and go, and a worker that keeps its event loop
busy does not hold it up. Its data lies beside the application's state and outlives it; its port is
chosen once, so that it is found again after it was restarted. It ends with the process that hosts
it, however that ends.

A thread waits for the process and starts it again. Nobody waits for this group: what it lacks is
told later, and what Kafka committed holds without it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onceflow.limits import (
    COORDINATOR_HOST_STOP_S,
    RESTART_BACKOFF_S,
    RESTART_BACKOFF_S_MAX,
    RESTART_WINDOW_S,
)
from onceflow.supervisor.lifeline import open_lifeline
from onceflow.supervisor.policy import EXIT_FAILURE

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

HOST = "127.0.0.1"

COORDINATOR_PROGRAM = (sys.executable, "-m", "onceflow.supervisor.coordinator_process")

ADDRESS_FILE = "address"
"""File in the group's data directory with the address at which it answers, while it does."""

EXIT_NOT_NEEDED = 0
"""What the program ends with by itself if the application needs no group."""


def for_app(app_path: str) -> list[str]:
    """Return the program's arguments for an application that it has to look at first."""
    return [f"--app={app_path}"]


def in_directory(directory: os.PathLike[str]) -> list[str]:
    """Return the program's arguments for a group whose data lies in ``directory``."""
    return [f"--dir={os.fspath(directory)}"]


@contextmanager
def hosted_group(
    arguments: Sequence[str], program: Sequence[str] = COORDINATOR_PROGRAM
) -> Generator[str]:
    """Keep a group of one alive meanwhile; yield the address at which it will answer.

    Args:
        arguments: of ``for_app`` or ``in_directory``.
        program: what is run; a port and a lifeline are added to the arguments.
    """
    port = _free_port()
    lifeline, writer = open_lifeline()
    command = [*program, *arguments, f"--port={port}", f"--lifeline={lifeline}"]
    host = _Host(command, lifeline)
    thread = threading.Thread(target=host.keep, name="coordinator-host", daemon=True)
    thread.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        host.stop()
        thread.join(COORDINATOR_HOST_STOP_S)
        host.kill()
        thread.join()
        os.close(writer)
        os.close(lifeline)


def present_address(directory: Path) -> str | None:
    """Return where the group answers that is hosted in ``directory``, None if none does."""
    file = directory / ADDRESS_FILE
    if not file.is_file():
        return None
    address = file.read_text("utf-8").strip()
    try:
        with socket.create_connection((HOST, int(address.rpartition(":")[2])), timeout=1.0):
            return address
    except OSError:  # its machine stopped before it could take the file away
        return None


class _Host:
    """The process and who starts it again. ``keep`` runs on a thread of its own."""

    def __init__(self, command: list[str], lifeline: int) -> None:
        self._command = command
        self._lifeline = lifeline
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        pause_s = RESTART_BACKOFF_S
        while not self._stopping.is_set():
            started_s = time.monotonic()
            code = self._run()
            if self._stopping.is_set() or code == EXIT_NOT_NEEDED:
                return
            if time.monotonic() - started_s > RESTART_WINDOW_S:
                pause_s = RESTART_BACKOFF_S
            _tell(f"the coordinator ended with code {code}; it is restarted in {pause_s:g} s")
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, RESTART_BACKOFF_S_MAX)

    def _run(self) -> int:
        """Run the process to its end, unless it is not wanted any more; return its exit code."""
        with self._lock:
            if self._stopping.is_set():
                return EXIT_NOT_NEEDED
            try:
                process = self._process = subprocess.Popen(
                    self._command, pass_fds=(self._lifeline,), start_new_session=True
                )
            except OSError as error:
                # No process or memory left is as good a reason for back-off as a crash.
                _tell(f"the coordinator cannot be started: {error}")
                return EXIT_FAILURE
        return process.wait()

    def stop(self) -> None:
        """Ask the process to end, and start no other."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        """End it at once; what it had recorded is on its disk."""
        with self._lock:
            if self._process is not None:
                self._process.kill()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def _tell(text: str) -> None:
    sys.stderr.write(f"onceflow supervisor {os.getpid()}: {text}\n")
    sys.stderr.flush()
