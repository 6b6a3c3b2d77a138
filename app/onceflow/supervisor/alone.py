"""A single worker in this process, and beside it what it needs and nobody else provides."""

from __future__ import annotations

from onceflow.engine.hosted import group_directory, needs_group
from onceflow.engine.worker import find_app, run
from onceflow.supervisor.hosting import hosted_group, in_directory


def run_alone(app_path: str, log_level: str) -> int:
    """Run a worker in this process until it is stopped; return its exit code.

    An application with two-phase sinks that names no coordinator gets a group of one, whose process
    ends with this one.
    """
    app = find_app(app_path)
    if not needs_group(app):
        return run(app_path, loglevel=log_level)
    with hosted_group(in_directory(group_directory(app))) as address:
        return run(app_path, loglevel=log_level, coordinator=address)
