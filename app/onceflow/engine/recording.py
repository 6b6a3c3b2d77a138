"""Tells the coordinator's group what this worker does, if the settings name one.

The group is told and never asked, and nobody here waits for it: what Kafka committed decides, with
and without a record of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.coordinator.reaching import client_options
from onceflow.coordinator.records import Records, Teller
from onceflow.engine.tasks import wall_ms
from onceflow.limits import COORDINATOR_TRY_S
from onceflow.sinks.gid import Scope

if TYPE_CHECKING:
    from onceflow.engine.runtime import Runtime


async def start_records(runtime: Runtime) -> Records | None:
    """Begin to tell the group that the settings name; None if they name none.

    Raises:
        ConfigError: an address is malformed, or the token's file cannot be used; exit 2.
    """
    options = client_options(runtime.settings, COORDINATOR_TRY_S)
    if options is None:
        return None
    app_id = runtime.app.conf.id
    scope = Scope.of(await runtime.clients.admin.cluster_id(), app_id)
    teller = Teller(scope.scope, app_id, runtime.incarnation, runtime.settings.worker_id or "")
    records = Records(options, teller, metrics=runtime.metrics, clock_ms=wall_ms)
    records.start()
    return records
