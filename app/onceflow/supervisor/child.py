"""How one worker process is started: its command line and its environment.

Pure: from settings and the supervisor's environment to the child's. Workers of one supervisor
must not share an HTTP port, a static membership or a data directory; the first two come by the
environment, the directory by the worker's number (``worker_process``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.settings import Settings


WORKER_PROGRAM = (sys.executable, "-m", "onceflow.supervisor.worker_process")


@dataclass(frozen=True, slots=True)
class Child:
    """What starts a worker."""

    command: tuple[str, ...]
    environ: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the workers of one supervisor have in common."""

    app_path: str
    """``MODULE:app``, resolved in the working directory."""
    log_level: str
    settings: Settings
    environ: Mapping[str, str]
    """The supervisor's own environment."""
    program: tuple[str, ...] = WORKER_PROGRAM
    """What runs a worker; the arguments of ``plan_child`` follow it."""
    coordinator: str | None = None
    """Address of a group that is hosted for them; used by an application that needs one and names
    none."""

    @property
    def drain_bound_s(self) -> float:
        """Seconds that draining may take: the transaction timeout, after which Kafka aborts."""
        return self.settings.transaction_timeout_ms / 1000


def plan_child(fleet: Fleet, part: int, lifeline: int) -> Child:
    """Return how worker ``part`` is started; ``lifeline`` is a descriptor that it inherits."""
    command = (
        *fleet.program,
        fleet.app_path,
        f"--part={part}",
        f"--lifeline={lifeline}",
        f"--drain-bound-s={fleet.drain_bound_s}",
        f"--log-level={fleet.log_level}",
        *([] if fleet.coordinator is None else [f"--coordinator={fleet.coordinator}"]),
    )
    settings = fleet.settings
    environ = dict(fleet.environ)
    if settings.worker_id is not None:
        environ["ONCEFLOW_WORKER_ID"] = f"{settings.worker_id}-{part}"
    address = settings.http_address
    if settings.is_explicit("http") and address is not None:
        # A default port needs nothing: each worker takes the next one that is free.
        port = address.port and address.port + part
        host = f"[{address.host}]" if ":" in address.host else address.host
        environ["ONCEFLOW_HTTP"] = f"{host}:{port}"
    return Child(command, environ)
