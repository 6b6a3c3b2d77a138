"""Starts one broker so that it dies with the process that wanted it, or so that it outlives it.

Run as a program, by its path, with nothing but the standard library:

    guard.py tied PARENT PIDFILE PURGE COMMAND...      ends when PARENT or the broker ends
    guard.py detached PARENT PIDFILE PURGE COMMAND...  starts the broker and ends at once

PURGE is a directory to remove when PARENT ended before the broker did, or ``-`` for none.

Why a process between: a parent killed by SIGKILL cannot tidy up, and Linux's parent-death signal
is bound to the *thread* that forked, which may end long before its process. Here the broker's
parent has one thread, so the signal fits: if the guard is killed, the broker is killed by the
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
from pathlib import Path

_LOOK_S = 0.2
"""How often the guard looks after its parent and its broker; it bounds how long a broker
outlives a killed parent."""

_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>."""


def _start(command: list[str], pid_file: Path, *, tied: bool) -> subprocess.Popen[bytes]:
    if tied and sys.platform == "linux":
        libc = ctypes.CDLL(None)

        def die_with_guard() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        # Safe here: this process has one thread and has imported nothing that starts others.
        broker = subprocess.Popen(command, preexec_fn=die_with_guard)  # noqa: PLW1509
    else:
        broker = subprocess.Popen(command, start_new_session=True)
    partial = pid_file.with_suffix(".part")
    partial.write_text(str(broker.pid))
    partial.rename(pid_file)
    return broker


def main(arguments: list[str]) -> int:
    """Run the broker as the module's description says; returns the exit code."""
    mode, parent, pid_file, purge, *command = arguments
    tied = mode == "tied"
    broker = _start(command, Path(pid_file), tied=tied)
    if not tied:
        # Popen warns about a child that is still running when it goes; this one is meant to.
        os._exit(0)
    while broker.poll() is None:
        if os.getppid() != int(parent):
            broker.kill()
            broker.wait()
            if purge != "-":
                shutil.rmtree(purge, ignore_errors=True)
            break
        time.sleep(_LOOK_S)
    return abs(broker.returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
