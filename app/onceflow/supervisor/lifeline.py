"""A worker must not outlive its supervisor, however that ended.

The supervisor holds the writing end of a pipe, which nobody else has; each worker holds the
reading end. Nothing is ever written: end of file says that the supervisor is gone, also after
SIGKILL, and on every POSIX system. The worker then drains as on SIGTERM, within the drain bound.
"""

from __future__ import annotations

import os
import signal
import threading
import time


def open_lifeline() -> tuple[int, int]:
    """Return (reading end for the workers, writing end to keep open) of a new lifeline.

    Neither is inherited unless it is passed on by name.
    """
    return os.pipe()


def watch_lifeline(descriptor: int, drain_bound_s: float) -> None:
    """Watch a lifeline's reading end in a thread, and end this process when its writer is gone.

    Returns at once. The process gets SIGTERM, and SIGKILL after ``drain_bound_s`` more.
    """

    def watch() -> None:
        while os.read(descriptor, 1):
            pass  # nothing is ever written; if something is, it does not mean the end
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(drain_bound_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
