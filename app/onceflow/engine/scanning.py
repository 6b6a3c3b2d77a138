"""Looks once a minute for branches in two-phase sinks that no takeover will clear away.

`decisions.scan` decides the order of the steps. An app without two-phase sinks never comes here.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from onceflow.decisions import branch_steps as bs
from onceflow.decisions.scan import BranchScan
from onceflow.engine.resolving import perform_step
from onceflow.limits import SCAN_INTERVAL_S

if TYPE_CHECKING:
    from onceflow.engine.runtime import Runtime


async def scan_branches(runtime: Runtime) -> int:
    """Look once; returns how many branches were rolled back."""
    machine = BranchScan(runtime.incarnation)
    effects = machine.begin()
    while True:
        [effect] = effects
        if isinstance(effect, bs.ScanEnded):
            return effect.rolled_back
        effects = machine.handle(await perform_step(runtime, effect))


async def scan_for_ever(runtime: Runtime) -> None:
    """Look once a minute, until cancelled."""
    while True:
        # Workers that were started together do not all look at the same moment.
        await asyncio.sleep(SCAN_INTERVAL_S * random.uniform(0.75, 1.25))  # noqa: S311 - a pause
        await scan_branches(runtime)
