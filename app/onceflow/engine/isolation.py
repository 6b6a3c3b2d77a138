"""Performs the plan by which suspect records are tried alone.

While nothing is suspect, runs pass through at once. Otherwise they are held back here and handed on
as far as `decisions.failures` allows within each epoch: everything below the suspect, then nothing
but the suspect, so that its marker pins it and an attempt that kills the process blames only it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from onceflow.decisions import epoch_events as ev
from onceflow.decisions.failures import Ending, Hold, NoteFirst, ReadUpTo, TryAlone
from onceflow.ids import Offset
from onceflow.kafka.records import Run
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from onceflow.decisions.failures import Plan
    from onceflow.engine.gate import Cursor
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Partition

log = get_logger(__name__)


class Isolation:
    """Holds runs back while a record is suspect.

    Fields:
        held: runs not handed on, per partition, in order.
        plan: how the open epoch is read; None is at will.
        performed: whether the plan's part of the suspect partition was handed on.
        waiting: partitions whose suspect is tried later, each with the timer that ends its wait.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.held: dict[Partition, deque[Run]] = {}
        self.plan: Plan | None = None
        self.performed = False
        self.waiting: dict[Partition, asyncio.TimerHandle] = {}

    def wait(self, partition: Partition, after_s: float) -> None:
        """Try the suspect of a partition later; the other partitions are read meanwhile."""
        if after_s > 0:
            self._end_wait(partition)
            self.waiting[partition] = asyncio.get_running_loop().call_later(
                after_s, self._waited, partition
            )

    def _waited(self, partition: Partition) -> None:
        self._end_wait(partition)
        if self.runtime.epochs.is_open:
            self.runtime.epochs.post(ev.CommitDue(ev.CommitReason.ISOLATION))

    def _end_wait(self, partition: Partition) -> None:
        timer = self.waiting.pop(partition, None)
        if timer is not None:
            timer.cancel()

    def arrived(self, run: Run) -> bool:
        """Take a run if it must be held back; returns whether it was taken."""
        if not self.held and self.plan is None and self.runtime.failures.policy.quiet:
            return False
        self.runtime.inflow.lockstep.flush(run.partition)
        self.held.setdefault(run.partition, deque()).append(run)
        if self.runtime.epochs.is_open:
            self._hand_on()
        elif run.topic in self.runtime.gate.asked:
            self._release(run.partition)
        return True

    def opened(self) -> None:
        """Plan the epoch that begins."""
        gate = self.runtime.gate
        gate.targets.clear()
        policy = self.runtime.failures.policy
        if policy.quiet:
            self.plan = None
        else:
            in_hand = {p: Offset(runs[0].offsets[0]) for p, runs in self.held.items() if runs}
            self.plan = policy.plan(
                self.runtime.epochs.machine.committed_offsets, in_hand, frozenset(self.waiting)
            )
        self.performed = False
        match self.plan:
            case TryAlone(partition, _):
                gate.only_read(frozenset({partition}))
            case NoteFirst(partition):
                gate.only_read(frozenset())
                self.runtime.epochs.post(ev.NoteAttempt(partition))
            case _:
                gate.only_read(None)
        self._hand_on()

    def _hand_on(self) -> None:
        """Hand on what the plan allows of what is held."""
        for partition in list(self.held):
            match self.plan:
                case None:
                    self._release(partition)
                case ReadUpTo(suspect, offset) if suspect == partition:
                    self._read_up_to(partition, offset)
                case TryAlone(suspect, records) if suspect == partition:
                    self._try_alone(partition, records)
                case _ if partition in self.waiting:
                    pass
                case TryAlone() | NoteFirst() if partition.topic not in self.runtime.gate.asked:
                    pass
                case Hold(partitions) if partition in partitions:
                    # A record of a suspect partition is there: end the epoch and plan again.
                    self.runtime.epochs.post(ev.CommitDue(ev.CommitReason.ISOLATION))
                case _:
                    self._release(partition)

    def _release(self, partition: Partition) -> None:
        for run in self.held.pop(partition):
            self.runtime.inflow.dispatch(run, ())

    def _read_up_to(self, partition: Partition, offset: int) -> None:
        runs = self.held[partition]
        while runs and runs[0].offsets[0] < offset:
            run = runs.popleft()
            below, rest = split(run, bisect_left(run.offsets, offset))
            if rest is not None:
                runs.appendleft(rest)
            self.runtime.inflow.dispatch(below, ())
        if runs and not self.performed:
            self.performed = True
            for cursor in self.runtime.inflow.cursors(partition):
                if all(batch.partition != partition for batch in cursor.unfinished()):
                    cursor.done[partition] = offset
            self.runtime.gate.targets[partition] = offset
            self.runtime.epochs.post(ev.CommitDue(ev.CommitReason.ISOLATION))

    def _try_alone(self, partition: Partition, records: int) -> None:
        if self.performed:
            return
        runs = self.held[partition]
        run = runs.popleft()
        alone, rest = split(run, records)
        if rest is not None:
            runs.appendleft(rest)
        if not runs:
            del self.held[partition]
        self.performed = True
        skipping = self._endings(alone) if len(alone) == 1 else ()
        if len(skipping) < len(self.runtime.inflow.cursors(partition)):
            self._tell(alone)
        self.runtime.inflow.dispatch(alone, skipping)
        self.runtime.gate.targets[partition] = alone.offsets[-1] + 1
        self.runtime.epochs.post(ev.CommitDue(ev.CommitReason.ISOLATION))

    def _tell(self, run: Run) -> None:
        """Log that suspect records are processed again."""
        offset = Offset(run.offsets[0])
        tried = self.runtime.failures.policy.tried(run.partition, offset)
        if tried is not None:
            log.info(
                LogEvent.RECORD_RETRIED,
                topic=run.topic,
                partition=run.number,
                offset=offset,
                records=len(run),
                failed_alone=tried,
            )

    def _endings(self, run: Run) -> list[Cursor]:
        """End the record for the agents whose attempts are used up; they do not get it again."""
        failures = self.runtime.failures
        skipping: list[Cursor] = []
        dead_lettered = False
        for cursor in self.runtime.inflow.cursors(run.partition):
            ending = failures.policy.ending(run.partition, Offset(run.offsets[0]), cursor.owner)
            if ending is None:
                continue
            skipping.append(cursor)
            if not (ending is Ending.DEAD_LETTER and dead_lettered):
                failures.end(ending, run, 0, cursor.owner)
            dead_lettered = dead_lettered or ending is Ending.DEAD_LETTER
        return skipping

    def drop_all(self) -> list[Run]:
        """Forget everything held; returns it for the accounting."""
        dropped = [run for runs in self.held.values() for run in runs]
        self.held.clear()
        self.plan = None
        self.runtime.gate.targets.clear()
        return dropped

    def forget(self, partitions: frozenset[Partition]) -> list[Run]:
        """Forget what is held of partitions that are not ours any more."""
        for partition in partitions:
            self._end_wait(partition)
        return [run for p in partitions for run in self.held.pop(p, ())]


def split(run: Run, index: int) -> tuple[Run, Run | None]:
    """Return the first ``index`` records of a run and the rest, which may be nothing."""
    if index >= len(run):
        return run, None
    return _part(run, 0, index), _part(run, index, len(run))


def _part(run: Run, start: int, stop: int) -> Run:
    keys, values = run.keys[start:stop], run.values[start:stop]
    size_bytes = sum(len(k) for k in keys if k) + sum(len(v) for v in values if v)
    headers = run.headers[start:stop] if run.headers is not None else None
    return Run(
        run.partition,
        run.offsets[start:stop],
        keys,
        values,
        run.timestamps[start:stop],
        headers,
        size_bytes,
        run.fetch,
    )
