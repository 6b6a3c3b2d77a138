"""The work of the epoch that is open: what it changed and sent, and what becomes of it.

`epochs` performs the protocol's effects with these operations; each touches the gate, the state and
the sends together, so that an epoch ends for all of them or for none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from onceflow.engine.closing import close_windows
from onceflow.engine.sealing import Sealed, seal
from onceflow.engine.tasks import wall_ms
from onceflow.observe.health import WorkerState
from onceflow.observe.metrics import RebalanceKind, TransactionOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Offset, Partition, Stamp


class EpochWork:
    """What one worker's open epoch has done so far.

    Fields:
        sealed: the changes of the epoch being decided; None otherwise.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.sealed: Sealed | None = None

    def restamp(self, stamp: Stamp) -> None:
        """Let all live work belong to ``stamp`` from here on."""
        if stamp == self.runtime.gate.stamp:
            return
        self.runtime.gate.stamp = stamp
        for cursor in self.runtime.gate.cursors:
            for batch in [*cursor.unfinished(), *cursor.held()]:
                batch.stamp = stamp

    def opened(self) -> None:
        """Note that records are processed from here on."""
        tasks, inflow = self.runtime.tasks, self.runtime.inflow
        if tasks.claimed or self.runtime.app.rebalancing:
            tasks.run()
            self.runtime.show(WorkerState.RUNNING)
        if inflow.assigned_s:
            took_s, inflow.assigned_s = time.monotonic() - inflow.assigned_s, 0.0
            self.runtime.metrics.rebalance(RebalanceKind.ASSIGNED, took_s)
        if self.runtime.app.rebalancing:
            self.runtime.app.on_rebalance_end()
        self.runtime.inflow.isolation.opened()

    def has_effects(self) -> bool:
        """Return whether the epoch changed state, sent anything or has rows for sinks."""
        runtime = self.runtime
        return (
            runtime.sender.has_effects()
            or runtime.participants.rows.exist()
            or any(s.is_dirty() for s in runtime.sources())
        )

    def held_bytes(self) -> int:
        """Return how many bytes of sends, sink rows and changes the open epoch holds, about."""
        changed_bytes = sum(
            part.changed_bytes for table in self.runtime.tables() for part in table.parts.values()
        )
        rows_bytes = self.runtime.participants.rows.size_bytes
        return self.runtime.sender.sent_bytes + rows_bytes + changed_bytes

    def tells_windows(self) -> bool:
        """Return whether a seal may wait for the app's own callbacks."""
        return any(table.expires and table.closes_windows() for table in self.runtime.tables())

    async def seal(self) -> None:
        """Close expired windows, then produce changelogs and per-commit outputs."""
        await close_windows(self.runtime, self.runtime.tables())
        for aggregate in self.runtime.aggregates:
            emitted = await aggregate.emit(self.runtime.clients.transaction)
            if emitted:
                self.runtime.metrics.produced(aggregate.output.topic.get_topic_name(), emitted)
        self.sealed = await seal(self.runtime.sources(), self.runtime.clients.transaction)

    def apply(self, held: frozenset[Partition]) -> None:
        """Write the committed epoch into the stores, then let its sends resolve."""
        sealed, self.sealed = self.sealed, None
        if sealed is not None:
            sealed.placed()
            self.runtime.tasks.apply(sealed, held)
            for topic, records in sealed.records.items():
                self.runtime.metrics.produced(topic, records)
        for source in self.runtime.sources():
            source.settle()
        self.runtime.participants.rows.drop()
        self.runtime.sender.committed()

    def committed(self, outcome: TransactionOutcome, phases: Mapping[str, float]) -> None:
        """Measure the end of an epoch."""
        for topic, records in self.runtime.sender.take_produced():
            self.runtime.metrics.produced(topic, records)
        durations = {name: s for name, s in phases.items() if name != "closed"}
        self.runtime.metrics.commit_finished(outcome, durations, phases.get("closed", 0.0))
        if outcome is TransactionOutcome.COMMITTED:
            self.runtime.failures.seals_failed = 0
            if not self.runtime.failures.policy.quiet:
                machine = self.runtime.epochs.machine
                self.runtime.failures.policy.committed(
                    machine.committed_offsets, machine.committed_attempts
                )
            if self.runtime.failures.policy.quiet:
                self.runtime.failures.errors.clear()
            self.runtime.health.committed()
            self.runtime.telling.offsets()
            self.runtime.metrics.tasks_committed(self.runtime.tasks.partitions, wall_ms() / 1000)

    async def drop_attempt(self, stamp: Stamp) -> None:
        """Throw the attempt away: overlay, caches, buffers; start fresh actors."""
        # Without limits: those of the aborted epoch would admit the replayed records below them
        # before the gate opens, when there is no transaction for what is sent.
        self.runtime.gate.close(())
        self.runtime.gate.stamp = stamp
        self.sealed = None
        for source in self.runtime.sources():
            source.drop()
        self.runtime.participants.rows.drop()
        self.runtime.sender.aborted()
        self.runtime.inflow.drop_all()
        for cursor in self.runtime.gate.cursors:
            cursor.reset()
        for agent in list(cast("Any", self.runtime.app).agents.values()):
            await agent.replace_actors()

    def position(
        self, offsets: Mapping[Partition, Offset], held: frozenset[Partition]
    ) -> dict[Partition, Offset]:
        """Let the next records come from there; returns what is to be read at once."""
        for partition, offset in offsets.items():
            for cursor in self.runtime.inflow.cursors(partition):
                cursor.done[partition] = offset
        return {partition: offset for partition, offset in offsets.items() if partition not in held}

    async def forget(self, partitions: frozenset[Partition]) -> None:
        """Close the tasks of partitions that are not ours any more; drop what was read of them."""
        self.runtime.inflow.forget(partitions)
        self.runtime.failures.policy.forget(partitions)
        for cursor in self.runtime.gate.cursors:
            cursor.forget(partitions)
        await self.runtime.tasks.close(partitions)
