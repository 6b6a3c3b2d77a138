"""One broker: its directory, its process, and the signals that reach it.

Rules of this file: a broker's process is known by its pid file *and* by its command line, so that
a number that the system has given to another process is never signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.errors import Unreachable
from onceflow.localkafka.guard import Tie, guarded
from onceflow.localkafka.wire import Address

if TYPE_CHECKING:
    from onceflow.localkafka.properties import Node

_PID_S = 20.0
"""Seconds until the guard must have started Java; it takes a tenth of one."""

_LOOK_S = 0.05
"""Pause between two looks at a process that is about to start or to end."""

_PAUSE_S = 10.0
"""Seconds until all threads must have seen SIGSTOP; milliseconds, unless the machine is loaded."""

_TAIL_LINES = 15
"""Lines of a dead broker's log that its error shows; Kafka's last words are about ten."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to run a broker.

    Fields: the ``java`` program, its class path, the bound of the heap, the tie to this process,
    and a directory that the guard removes when this process is killed (None: nothing).
    """

    java: Path
    classpath: str
    heap_mb: int
    tie: Tie
    purge: Path | None = None


class Broker:
    """The broker ``node`` of the cluster in ``directory``, running or not."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.address = Address("127.0.0.1", node.port)
        self.directory = directory / f"broker-{node.node}"
        self.data = self.directory / "data"
        self.log_path = self.directory / "broker.log"
        self._properties = self.directory / "server.properties"
        self._pid_file = self.directory / "pid"
        self._guard: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    def configure(self, properties: str) -> None:
        """Write the configuration; takes effect at the next start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(properties)

    def format_storage(self, launch: Launch, cluster_id: str) -> subprocess.Popen[bytes] | None:
        """Begin to prepare an empty data directory; the caller waits for it. None: is prepared."""
        if (self.data / "meta.properties").exists():
            return None
        command = [str(launch.java), "-Xmx128m", "-XX:TieredStopAtLevel=1"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", launch.classpath]
        command += ["kafka.tools.StorageTool", "format", "-t", cluster_id]
        command += ["-c", str(self._properties)]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start(self, launch: Launch) -> None:
        """Start the process; returns when it exists, which is long before it answers.

        Raises:
            Unreachable: Java could not be started; the message has its last words.
        """
        self._pid_file.unlink(missing_ok=True)
        command = guarded(self._java_command(launch), self._pid_file, launch.tie, launch.purge)
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            guard = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _PID_S
        while not self._pid_file.exists():
            if guard.poll() not in (None, 0) or time.monotonic() > deadline:
                guard.kill()
                guard.wait()
                raise Unreachable(f"broker {self.node.node} was not started: {self.log_tail()}")
            time.sleep(_LOOK_S)
        if launch.tie is Tie.TIED:
            self._guard = guard
        else:
            guard.wait()

    def pid(self) -> int | None:
        """The process id of the running broker, None while it does not run."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self._properties) in _command_line(pid) else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the broker, if it runs."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)

    def pause(self) -> None:
        """Freeze the broker; returns when none of its threads runs any more.

        Raises:
            Unreachable: it does not run, or did not freeze.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + _PAUSE_S
        while True:
            pid = self.pid()
            if pid is None:
                raise Unreachable(f"broker {self.node.node} does not run, so it was not paused")
            if _is_stopped(pid):
                return
            if time.monotonic() > deadline:
                raise Unreachable(f"broker {self.node.node} still runs {_PAUSE_S} s after SIGSTOP")
            time.sleep(_LOOK_S)

    def terminate(self) -> None:
        """Ask the broker to stop in order, also when it is paused."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until the process is gone; False if it still runs after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        if self._guard is not None:
            # It notices within its own interval, and must be gone before this process ends.
            self._guard.wait()
            self._guard = None
        return True

    def log_tail(self) -> str:
        """The last lines that the broker wrote since its latest start."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_start_bytes)
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return "(no log)"
        # Stack traces hide the cause, which stands in the lines between them.
        spoken = [line for line in lines if not line.startswith("\tat ")]
        return "\n".join(spoken[-_TAIL_LINES:])

    def _java_command(self, launch: Launch) -> list[str]:
        return [
            str(launch.java),
            f"-Xmx{launch.heap_mb}m",
            f"-Xms{min(launch.heap_mb, 256)}m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
            "-cp",
            launch.classpath,
            "kafka.Kafka",
            str(self._properties),
        ]


def _is_stopped(pid: int) -> bool:
    if Path("/proc/self").exists():
        # The state of each thread follows the program's name, which stands in parentheses.
        try:
            states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has just ended, so it was not stopped
        return all(text.rpartition(")")[2].split()[0] == "T" for text in states)
    return _listing(pid, "state=").startswith("T")


def _command_line(pid: int) -> str:
    """The command line of a process, empty when it is gone or a zombie."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    return _listing(pid, "command=")


def _listing(pid: int, column: str) -> str:
    """A column of ``ps``, for systems without /proc."""
    command = ["ps", "-ww", "-o", column, "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
