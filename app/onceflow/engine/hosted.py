"""Whether an application needs a group that is hosted for it, and how it is made to use one.

Two-phase sinks want a record of what is in doubt. An application that names no coordinator gets a
group of one from whoever starts its workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onceflow.coordinator.reaching import DEFAULT_CLUSTER
from onceflow.engine.agent import Agent
from onceflow.engine.runtime import runtime_of

if TYPE_CHECKING:
    from faust.types import AppT

GROUP_DIRECTORY = "coordinator"
"""Where the data of a hosted group lies, in the application's data directory."""


def needs_group(app: AppT) -> bool:
    """Whether an app has two-phase sinks and names no group that keeps a record of them."""
    agents = cast("Any", app).agents.values()
    has_sinks = any(isinstance(agent, Agent) and agent.participants for agent in agents)
    return has_sinks and runtime_of(app).settings.coordinator is None


def use_group(app: AppT, address: str) -> None:
    """Let the app tell a group that is hosted for it, plainly and on this machine."""
    runtime = runtime_of(app)
    runtime.settings = runtime.settings.model_copy(
        update={
            "coordinator": address,
            "coordinator_cluster": DEFAULT_CLUSTER,
            "coordinator_tls": None,
            "coordinator_token_file": None,
        }
    )


def group_directory(app: AppT) -> Path:
    """Return where the data of a group lies that is hosted for the app, all its workers together.

    Not to be asked after ``conf.datadir`` was made that of one worker.
    """
    return Path(app.conf.datadir) / GROUP_DIRECTORY
