"""Settings of a process that serves a member and does nothing else.

Not made by the server itself, because a library does not change its host.
"""

from __future__ import annotations

import gc
import sys

_SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter while the log's writer wants to report a sync. With
Python's 5 ms a durable write would wait longer for its announcement than for the disk."""

_GC_THRESHOLDS = (50_000, 20, 100)
"""Collections are rare: the loop makes hardly any cycles, and each collection is a pause."""


def tune_process() -> None:
    """Prepare this process for serving a member. Call it once, before the loop runs."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_GC_THRESHOLDS)
