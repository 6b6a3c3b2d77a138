"""Opening task stores in tests: one identity, two tables, a small budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import StoreIdentity, TaskStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLES = ("counts", "totals")
IDENTITY = StoreIdentity("shop", "cluster-1", {"counts": "id-counts", "totals": "id-totals"})
TRUSTED_FOR_MS = 1_000_000
BUDGET_BYTES = 32 * 1024 * 1024


def open_store(
    path: Path,
    *,
    now_ms: int = 1_000,
    identity: StoreIdentity = IDENTITY,
    tables: Sequence[str] = TABLES,
    budget: MemoryBudget | None = None,
) -> TaskStore:
    return TaskStore.open(
        path,
        identity,
        tables,
        budget or MemoryBudget(BUDGET_BYTES),
        now_ms=now_ms,
        trusted_for_ms=TRUSTED_FOR_MS,
    )
