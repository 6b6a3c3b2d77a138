"""Public helpers for tests: the topology driver, which runs an app without a broker.

Names are resolved when they are first used, so that the model of the broker loads no Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceflow.testing.driver import TopologyDriver, WorkerFailed
    from onceflow.testing.memory_log import Record

__all__ = ["Record", "TopologyDriver", "WorkerFailed"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module 'onceflow.testing' has no attribute {name!r}"
        raise AttributeError(message)
    from onceflow.testing import driver, memory_log  # noqa: PLC0415 - only drivers load the engine

    return {
        "Record": memory_log.Record,
        "TopologyDriver": driver.TopologyDriver,
        "WorkerFailed": driver.WorkerFailed,
    }[name]
