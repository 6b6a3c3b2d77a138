"""Performs the effects of taking over partitions; `decisions.takeover` decides their order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_never

from onceflow.decisions import branch_steps as bs
from onceflow.decisions import epoch_events as ev
from onceflow.decisions import takeover as td
from onceflow.decisions.crash_points import CrashPoint
from onceflow.engine.resolving import perform_step
from onceflow.errors import DataAtRisk, Unreachable
from onceflow.ids import Offset
from onceflow.kafka.offsets import Pending, Stability
from onceflow.limits import TAKEOVER_RETRY_S
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from onceflow.decisions.epoch_effects import BeginTakeover
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Partition

log = get_logger(__name__)


class TakeoverDriver:
    """One takeover of newly assigned partitions; a rebalance cancels it at any point."""

    def __init__(self, runtime: Runtime, effect: BeginTakeover) -> None:
        self.runtime = runtime
        self.effect = effect
        self.machine = td.Takeover(
            effect.partitions,
            td.TakeoverOptions(
                own=runtime.incarnation,
                reset_policy=runtime.reset_policy,
                participants=runtime.participants.configured,
            ),
        )
        self._fenced: list[str] = []
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Run to the end; reports ``TakenOver`` or ``Failed`` to the epochs."""
        self._task = asyncio.current_task()
        try:
            # An aborted claim leaves them open, and others may have written in between.
            await self.runtime.tasks.close(self.effect.partitions)
            self.runtime.tasks.taking_over(self.effect.partitions)
            await asyncio.sleep(self.effect.after_s)
            event: td.TakeoverEvent | None = td.Begin()
            while event is not None:
                following: td.TakeoverEvent | None = None
                for effect in self.machine.handle(event):
                    answer = await self._perform(effect)
                    following = answer if answer is not None else following
                event = following
        except asyncio.CancelledError:
            await self.runtime.tasks.close(self.effect.partitions)

    async def cancel(self) -> None:
        """Stop; stores opened so far are closed, nothing is reported later."""
        self.machine.handle(td.Cancel())
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _perform(self, effect: td.TakeoverEffect) -> td.TakeoverEvent | None:
        match effect:
            case td.ReadLastMarkers(partitions):
                return td.LastMarkersRead(await self._read(partitions, Stability.LATEST))
            case td.ReadStableMarkers(partitions, after_s):
                return await self._read_stable(partitions, after_s)
            case td.ReadLogBounds(partitions):
                return await self._read_bounds(partitions)
            case td.RestoreTasks(partitions):
                self.runtime.tasks.taken_over(partitions, self._fenced)
                await self.runtime.tasks.restore(partitions)
                return td.Restored()
            case td.AlarmPending() | td.ReadyToClaim() | td.TakeoverFailed():
                await self._tell(effect)
            case (
                bs.FenceIncarnations()
                | bs.ListBranches()
                | bs.ReadAllMarkers()
                | bs.FinishBranches()
                | bs.RaiseMarkers()
                | bs.ReadMarkerRows()
            ):
                return await self._step(effect)
            case _:
                assert_never(effect)
        return None

    async def _tell(self, effect: td.AlarmPending | td.ReadyToClaim | td.TakeoverFailed) -> None:
        """Perform an effect that is not answered."""
        match effect:
            case td.AlarmPending(partitions, waited_reads):
                log.error(
                    LogEvent.OFFSETS_PENDING,
                    partitions=sorted(str(p) for p in partitions),
                    waited_reads=waited_reads,
                    meaning="an open transaction of a dead worker holds these offsets back; "
                    "it is waited out until its timeout, nothing is lost",
                )
            case td.ReadyToClaim(starts, settled):
                self.runtime.telling.settled(settled)
                self.runtime.crash(CrashPoint.BEFORE_CLAIM)
                self.runtime.failures.policy.claimed(starts)
                self.runtime.epochs.post(ev.TakenOver(self.effect.assignment, starts))
            case td.TakeoverFailed(message, exit_code, heuristic):
                if heuristic is not None:
                    log.critical(LogEvent.HEURISTIC_OUTCOME, error=message)
                    self.runtime.metrics.heuristic_outcome()
                    await self.runtime.telling.contradicted(heuristic)
                error = DataAtRisk(message)
                error.exit_code = exit_code
                self.runtime.fail(error)

    async def _step(self, effect: bs.BranchEffect) -> td.TakeoverEvent:
        """Perform a step that scans have too."""
        answer = await perform_step(self.runtime, effect)
        if isinstance(effect, bs.FenceIncarnations):
            self._fenced.extend(sorted(effect.incarnations))
            self.runtime.crash(CrashPoint.AFTER_FENCE)
        elif isinstance(answer, bs.BranchesListed) and answer.branches:
            self.runtime.crash(CrashPoint.AFTER_LIST)
        return answer

    async def _read_stable(
        self, partitions: frozenset[Partition], after_s: float
    ) -> td.StableMarkersRead | td.StillPending:
        await asyncio.sleep(after_s)
        try:
            return td.StableMarkersRead(await self._read(partitions, Stability.STABLE))
        except Pending as pending:
            return td.StillPending(pending.partitions)

    async def _read_bounds(self, partitions: frozenset[Partition]) -> td.LogBoundsRead:
        marks = await self.runtime.clients.admin.watermarks(partitions)
        bounds = {p: td.LogBounds(Offset(m.low), Offset(m.high)) for p, m in marks.items()}
        return td.LogBoundsRead(bounds)

    async def _read(
        self, partitions: frozenset[Partition], stability: Stability
    ) -> dict[Partition, Any]:
        """Read offsets; a broker that does not answer is asked again, nothing is at risk."""
        while True:
            try:
                return await self.runtime.clients.read_offsets(partitions, stability)
            except Unreachable as error:
                log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
                await asyncio.sleep(TAKEOVER_RETRY_S)
