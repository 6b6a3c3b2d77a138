"""How a process runs that serves a member and does nothing else.

Not done by the server itself, because a library does not change its host. The loop is uvloop's:
with three members and a client on two cores it spends a quarter to a third less processor time for
each command than asyncio's own. The only importer of that library.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

_SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter while the log's writer wants to report a sync. With
Python's 5 ms a durable write would wait longer for its announcement than for the disk."""

_GC_THRESHOLDS = (50_000, 20, 100)
"""Collections are rare: the loop makes hardly any cycles, and each collection is a pause."""


def tune_process() -> None:
    """Prepare this process for serving a member. Call it once, before the loop runs."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_GC_THRESHOLDS)


def run_process(main: Coroutine[object, object, None]) -> None:
    """Run ``main`` in this process, which is prepared for it, until it ends."""
    tune_process()
    uvloop.run(main)
