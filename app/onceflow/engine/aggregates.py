"""Columnar windowed aggregates for batch agents, as part of the epochs."""

from __future__ import annotations

from typing import Any


class WindowedAggregate:
    """Placeholder of the aggregate's engine side."""

    def __init__(self, app: Any, name: str, **options: Any) -> None:
        self.app, self.name, self.options = app, name, options
