"""Processes that load stores hard: one measures its memory, one fills a disk that is too small.

Run as ``python -m harness.store_load memory|full PATH``; prints what it found as JSON.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import sys
from pathlib import Path

import orjson

from harness.store_writer import EPOCH_MS, epoch_changes
from harness.task_stores import open_store
from onceflow.errors import OnceflowError
from onceflow.limits import STORE_MEMORY_BYTES_MIN
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import Changes

MEMORY_BUDGET_BYTES = 64 * 1024 * 1024
MEMORY_DATA_BYTES = 500 * 1000 * 1000
FILE_BYTES_MAX = 150_000


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fill_memory(path: Path) -> dict[str, object]:
    """Write incompressible rows into four stores, read them all; returns the growth of memory."""
    before_bytes = highest_bytes = resident_bytes()
    budget = MemoryBudget(MEMORY_BUDGET_BYTES)
    stores = [open_store(path / str(number), budget=budget) for number in range(4)]
    chance = random.Random(1)
    noise = chance.randbytes(1 << 20)
    written_bytes = 0
    for step in itertools.count():
        starts = chance.sample(range(len(noise) - 400), 2_000)
        rows = [(b"%020d" % chance.randrange(10**15), noise[at : at + 380]) for at in starts]
        table = ("counts", "totals")[step // 4 % 2]
        stores[step % 4].apply({table: Changes(rows, (), step)}, now_ms=2_000 + step)
        written_bytes += 400 * len(rows)
        highest_bytes = max(highest_bytes, resident_bytes())
        if written_bytes >= MEMORY_DATA_BYTES:
            break
    rows_read = 0
    for store in stores:
        for table in ("counts", "totals"):
            rows_read += sum(1 for _ in store.scan_keys(table))
            highest_bytes = max(highest_bytes, resident_bytes())
    sst_bytes = sum(size.sst_bytes for store in stores for size in store.sizes().values())
    for store in stores:
        store.close()
    return {
        "growth_bytes": highest_bytes - before_bytes,
        "rows_written": written_bytes // 400,
        "rows_read": rows_read,
        "sst_bytes": sst_bytes,
    }


def fill_disk(path: Path) -> dict[str, object]:
    """Apply epochs while no file may grow large, until an apply fails; returns how it failed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    store = open_store(path, budget=MemoryBudget(STORE_MEMORY_BYTES_MIN))
    for number in range(10_000):
        try:
            store.apply(epoch_changes(number), now_ms=1_000 + number * EPOCH_MS)
        except OnceflowError as error:
            return {
                "error": type(error).__name__,
                "text": str(error),
                "exit_code": error.exit_code,
                "applied": number,
            }
    return {"error": None}


if __name__ == "__main__":
    run = {"memory": fill_memory, "full": fill_disk}[sys.argv[1]]
    print(orjson.dumps(run(Path(sys.argv[2]))).decode(), flush=True)
    # What a failing process would still write while it ends must not help it.
    os._exit(0)
