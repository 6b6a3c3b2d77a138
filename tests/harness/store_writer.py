"""A process that applies epochs to a store until it is killed, and the model of what it wrote.

The changes of an epoch are a function of its number alone, so that a reader can fold them up to any
position. Run as ``python -m harness.store_writer PATH NOW_MS``; prints each applied epoch's number.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from harness.task_stores import TABLES, open_store
from onceflow.limits import STORE_MEMORY_BYTES_MIN
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import Changes

EPOCH_MS = 250
"""Time that passes per epoch: flushes by age come every 20 epochs, others by memory."""


def epoch_changes(number: int) -> dict[str, Changes]:
    chance = random.Random(number)
    changes = {}
    for table in TABLES:
        rows = {}
        for _ in range(chance.randrange(60)):
            key = b"%04d" % chance.randrange(400)
            rows[key] = None if chance.random() < 0.3 else chance.randbytes(chance.randrange(2_000))
        ranges = []
        if chance.random() < 0.15:
            start = chance.randrange(400)
            ranges.append((b"%04d" % start, b"%04d" % (start + chance.randrange(60))))
        changes[table] = Changes(list(rows.items()), ranges, number + 1)
    return changes


def fold(end: int) -> dict[str, dict[bytes, bytes]]:
    """What each table must hold after the epochs below ``end``."""
    tables: dict[str, dict[bytes, bytes]] = {table: {} for table in TABLES}
    for number in range(end):
        for table, change in epoch_changes(number).items():
            rows = tables[table]
            for start, stop in change.deleted_ranges:
                for key in [key for key in rows if start <= key < stop]:
                    del rows[key]
            for key, value in change.rows:
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
    return tables


def main(path: Path, now_ms: int) -> None:
    store = open_store(path, now_ms=now_ms, budget=MemoryBudget(STORE_MEMORY_BYTES_MIN))
    number = store.changelog_position(TABLES[0]) or 0
    while True:
        now_ms += EPOCH_MS
        store.apply(epoch_changes(number), now_ms=now_ms)
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
