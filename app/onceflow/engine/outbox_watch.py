"""Looks after an outbox topic: how much of it waits, whether it is still the same, and its length.

What is applied is deleted from the topic, up to the progress that the target confirmed. Runs beside
the applier, so that a target that is away shows in the metrics and a topic that was made anew is
noticed also while nothing is read.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from onceflow.errors import DataAtRisk, Unreachable
from onceflow.ids import Partition
from onceflow.limits import OUTBOX_MEASURE_S, TRIM_INTERVAL_S
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from onceflow.engine.applier import Applier
    from onceflow.engine.runtime import Runtime

log = get_logger(__name__)


class OutboxWatch:
    """The watch of one applier."""

    def __init__(self, runtime: Runtime, applier: Applier) -> None:
        self.runtime = runtime
        self.applier = applier
        self._trimmed_s = time.monotonic()

    async def run(self) -> None:
        """Loop root: look every few seconds; brokers that are away are waited for.

        Raises:
            DataAtRisk: the topic is not the one that the target is filled from; exit 4.
        """
        while True:
            await asyncio.sleep(OUTBOX_MEASURE_S)
            try:
                await self._look()
                await self._trim()
            except Unreachable as error:
                log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))

    async def _look(self) -> None:
        applier, admin = self.applier, self.runtime.clients.admin
        read_to = dict(applier.read_to)
        partitions = [Partition(applier.topic, number) for number in read_to]
        if not partitions:
            self.runtime.metrics.outbox_lag(applier.sink.name, 0, 0.0)
            return
        topic = (await admin.topics([applier.topic])).get(applier.topic)
        if topic is None or topic.topic_id != applier.topic_id:
            raise DataAtRisk(
                f"The topic {applier.topic} was deleted while the worker runs. Rows of committed "
                f"epochs that {applier.sink.where} had not applied are lost; nothing more is "
                "applied. Restore the topic, or fill the table anew under a new name of the sink."
            )
        ends = await admin.end_offsets(partitions)
        lag = sum(max(0, end - read_to[p.number]) for p, end in ends.items())
        behind_s = applier.behind_s() if lag else 0.0
        self.runtime.metrics.outbox_lag(applier.sink.name, lag, behind_s)

    async def _trim(self) -> None:
        """Delete what the target has."""
        now_s = time.monotonic()
        if now_s - self._trimmed_s < TRIM_INTERVAL_S:
            return
        self._trimmed_s = now_s
        done = {
            Partition(self.applier.topic, number): at.offset
            for number, at in self.applier.progress.items()
            if at is not None
        }
        if done:
            await self.runtime.clients.admin.delete_records(done)
