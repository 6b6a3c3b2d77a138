"""Starts a process so that it dies with the one that wanted it, or so that it outlives it.

Run as a program, by its path, with nothing but the standard library:

    guard.py tied PARENT PIDFILE PURGE COMMAND...      ends when PARENT or the command ends
    guard.py detached PARENT PIDFILE PURGE COMMAND...  starts the command and ends at once

PURGE is a directory to remove when PARENT ended before the command did, or ``-`` for none.

Why a process between: a parent killed by SIGKILL cannot tidy up, and Linux's parent-death signal
is bound to the *thread* that forked, which may end long before its process. Here the command's
parent has one thread, so the signal fits: if the guard is killed, the command is killed by the
kernel; if the guard's parent is killed, the guard sees that it was handed to another parent.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

_LOOK_S = 0.2
"""How often the guard looks after its parent and its command; it bounds how long that
outlives a killed parent."""

_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>."""


class Tie(Enum):
    """Whether the command ends with PARENT; values are the words of the command line."""

    TIED = "tied"
    DETACHED = "detached"


def _start(command: list[str], pid_file: Path, tie: Tie) -> subprocess.Popen[bytes]:
    if tie is Tie.TIED and sys.platform == "linux":
        libc = ctypes.CDLL(None)

        def die_with_guard() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        # Safe here: this process has one thread and has imported nothing that starts others.
        child = subprocess.Popen(command, preexec_fn=die_with_guard)  # noqa: PLW1509
    else:
        child = subprocess.Popen(command, start_new_session=True)
    partial = pid_file.with_suffix(".part")
    partial.write_text(str(child.pid))
    partial.rename(pid_file)
    return child


def main(arguments: list[str]) -> int:
    """Run the command as the module's description says; returns the exit code."""
    mode, parent, pid_file, purge, *command = arguments
    child = _start(command, Path(pid_file), Tie(mode))
    if mode == Tie.DETACHED.value:
        # Popen warns about a child that is still running when it goes; this one is meant to.
        os._exit(0)
    while child.poll() is None:
        if os.getppid() != int(parent):
            child.kill()
            child.wait()
            if purge != "-":
                shutil.rmtree(purge, ignore_errors=True)
            break
        time.sleep(_LOOK_S)
    return abs(child.returncode)


def guarded(command: list[str], pid_file: Path, tie: Tie, purge: Path | None = None) -> list[str]:
    """The command line that runs ``command`` under a guard whose parent is this process.

    The guard should be started in a session of its own, so that a terminal's Ctrl-C reaches only
    the parent, which then ends the command in order.
    """
    program = [sys.executable, "-I", "-S", __file__]
    return [*program, tie.value, str(os.getpid()), str(pid_file), str(purge or "-"), *command]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
