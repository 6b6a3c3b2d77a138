"""onceflow makes Faust exactly-once, and fast: the public API, nothing else.

Names are resolved when they are first used, so that importing a pure part of the package (the
decisions, the stores) does not load Faust.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceflow.columns.batch import RecordBatch
    from onceflow.engine.aggregates import Output, WindowedAggregate, Windows
    from onceflow.engine.app import App

__all__ = ["App", "Output", "RecordBatch", "WindowedAggregate", "Windows"]

_HOMES = {
    "App": "onceflow.engine.app",
    "Output": "onceflow.engine.aggregates",
    "RecordBatch": "onceflow.columns.batch",
    "WindowedAggregate": "onceflow.engine.aggregates",
    "Windows": "onceflow.engine.aggregates",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'onceflow' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(home), name)
