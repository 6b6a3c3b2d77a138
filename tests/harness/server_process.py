"""Database servers as child processes of tests: their user, their port, and their sudden end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server_user(*candidates: str) -> str | None:
    """Whom a server runs as: None (ourselves), or for root the first user that exists."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in candidates if name in known)


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class ServerProcess:
    """A server with a folder of its own, which may be killed and started again.

    Args:
        name: for the folder.
        users: whom root starts it as, the first that exists; servers refuse to run as root.
    """

    def __init__(self, name: str, *users: str) -> None:
        self.user = server_user(*users)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"onceflow-{name}-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._process: subprocess.Popen | None = None

    def run(self, *command: str) -> None:
        """Run a command as the server's user until it ends."""
        done = subprocess.run(
            command,
            user=self.user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, command: list[str], answers) -> None:
        """Start the server; returns when ``answers()`` is true.

        Call it on the main thread: the server ends together with the thread that started it.
        """
        # The death signal lets it end in order when the tests are killed.
        as_user = ["--reuid", self.user, "--clear-groups"] if self.user else []
        guarded = ["setpriv", "--pdeathsig", "INT", *as_user, "--", *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(guarded, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while not answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server and its children at once, as a power cut does."""
        assert self._process is not None
        pids = family(self._process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        deadline = time.monotonic() + START_S
        while any(map(is_alive, pids[1:])):
            assert time.monotonic() < deadline, "killed processes do not go away"
            time.sleep(0.01)

    @contextlib.contextmanager
    def stopped(self):
        """The server and its sessions stand still, as behind a network that delivers nothing."""
        assert self._process is not None
        pids = family(self._process.pid)
        for pid in pids:
            # Sessions come and go while they are listed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        """End the server for good and delete its data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
