"""Sinks: rows in foreign systems that match the stream exactly.

Names are resolved when they are first used, so that a driver is loaded only by who uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceflow.sinks.files import Files
    from onceflow.sinks.mysql import MySQL
    from onceflow.sinks.outbox import OutboxSink
    from onceflow.sinks.participant import Participant
    from onceflow.sinks.postgresql import PostgreSQL
    from onceflow.sinks.rows import Delete
    from onceflow.sinks.sqlite import SQLite

__all__ = ["Delete", "Files", "MySQL", "OutboxSink", "Participant", "PostgreSQL", "SQLite"]

_HOMES = {
    "Delete": "onceflow.sinks.rows",
    "Files": "onceflow.sinks.files",
    "MySQL": "onceflow.sinks.mysql",
    "OutboxSink": "onceflow.sinks.outbox",
    "Participant": "onceflow.sinks.participant",
    "PostgreSQL": "onceflow.sinks.postgresql",
    "SQLite": "onceflow.sinks.sqlite",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'onceflow.sinks' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(home), name)
