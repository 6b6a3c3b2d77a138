"""Performs the effects of the commit protocol, each in one place.

`decisions.commit_epoch` decides; this module closes and opens the gate, seals tables and outputs,
runs the blocking transaction calls on their thread, applies to the stores, and hands the results
back as events. Events are taken one after another by a single task, so that effects keep their
order. It decides nothing about the protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.commit_epoch import CommitEpochs, EpochState
from onceflow.decisions.crash_points import CrashPoint
from onceflow.engine.holding import Holding
from onceflow.engine.takeover import TakeoverDriver
from onceflow.engine.transactions import Transactions
from onceflow.engine.two_phase import TwoPhase
from onceflow.engine.unassigned import UnassignedSends
from onceflow.engine.work import EpochWork
from onceflow.errors import (
    DataAtRisk,
    Fenced,
    OutcomeUnknown,
    RecordError,
    StaleAttempt,
    TransactionAborted,
    Unreachable,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import TransactionOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from onceflow.engine.runtime import Runtime
    from onceflow.ids import Incarnation, Offset, Partition
    from onceflow.kafka.poll import Assignment

log = get_logger(__name__)

_OPEN_SHARE_MIN = 0.25
"""Least share of the commit interval in which the gate is open."""

_DROPPED = (EpochState.ABORTING, EpochState.RESOLVING)
"""States in which an attempt may be dropped whose rewind is still to come."""

_CANCEL_S = 0.5
"""How long callbacks of an aborted epoch get to end when they are cancelled."""


class Epochs:
    """Drives one worker's commit epochs.

    Fields:
        offsets: per claimed partition the last drained position; for partitions without a reader
            it stays at the committed one.
        transactions: the jobs that decide the open transaction.
        two_phase: what the epochs do in two-phase sinks.
        holding: partitions that are not read while a sink does not take their rows.
        ready: set while the gate is open for the first time and after each takeover.
    """

    def __init__(self, runtime: Runtime, own: Incarnation) -> None:
        self.runtime = runtime
        self.work = EpochWork(runtime)
        self.machine = CommitEpochs(own, runtime.participants.names)
        self.transactions = Transactions(runtime, self.post, self.work.committed)
        self.holding = Holding(self.wake)
        self.two_phase = TwoPhase(runtime, self.post, self.transactions.phases, self.holding)
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self.opened_s = self.closed_s = time.monotonic()
        self._events: deque[ev.EpochEvent] = deque()
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._revokes: deque[tuple[ev.RevokeRequested, asyncio.Event]] = deque()
        self._revoking: list[asyncio.Event] = []
        self._unassigned = UnassignedSends(runtime, self.wake)
        self._takeover: TakeoverDriver | None = None
        self._drain: asyncio.Task[None] | None = None
        self._sealing: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[Any] | None = None
        self._jobs: set[asyncio.Task[Any]] = set()
        self._closed_at_s = 0.0
        self._loop_task: asyncio.Task[None] | None = None
        self._perform: dict[type[Any], Callable[[Any], Any]] = {
            fx.BeginTakeover: self._begin_takeover,
            fx.CancelTakeover: self._cancel_takeover,
            fx.BeginTransaction: self.transactions.begin,
            fx.OpenGate: self._open_gate,
            fx.CloseGate: self._close_gate,
            fx.Seal: self._seal,
            fx.Flush: self.transactions.add_step,
            fx.SendOffsets: self.transactions.add_step,
            fx.CommitTransaction: self._commit_transaction,
            fx.AbortTransaction: self._beside(self.transactions.abort),
            fx.Prepare: self._beside(self.two_phase.prepare),
            fx.AwaitBranches: self._beside(self.two_phase.await_branches),
            fx.FinishBranch: self._beside(self.two_phase.finish),
            fx.RollBackBranch: self._beside(self.two_phase.roll_back),
            fx.Apply: self._apply,
            fx.DropAttempt: self._drop_attempt,
            fx.Rewind: self._rewind,
            fx.ForgetPartitions: self._forget_partitions,
            fx.FinishRevoke: self._finish_revoke,
            fx.ReplaceProducer: self._replace_producer,
            fx.ReadMarkers: self._read_markers,
            fx.Stop: self._stop,
            fx.Fail: self._fail,
        }

    # -- events --

    def start(self) -> None:
        """Begin to take events."""
        self._loop_task = asyncio.ensure_future(self._run())

    def post(self, event: ev.EpochEvent) -> None:
        """Hand over what happened; it is taken after everything posted before."""
        self._events.append(event)
        self._settled.clear()
        self._wake.set()

    async def _run(self) -> None:
        """Loop root: an error here is a bug or a lost broker, and ends the worker."""
        try:
            while not self.stopped.is_set():
                while self._events:
                    await self._take(self._events.popleft())
                if self.holding.is_due and self.machine.state not in _DROPPED:
                    # Between two events, and never while a rewind is still to come: what was read
                    # again before it would be read twice.
                    self._start_at(self.holding.release(self.machine.committed_offsets))
                if self.machine.state is EpochState.UNASSIGNED and self._unassigned.is_due:
                    await self._unassigned.commit_waiting()
                    continue
                self._wake.clear()
                await self._wake.wait()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - loop root
            self.runtime.fail(error)

    async def _take(self, event: ev.EpochEvent) -> None:
        while self._revokes and self._revokes[0][0] is event:
            # From here on an answer to revokes is one to this one too.
            self._revoking.append(self._revokes.popleft()[1])
        for effect in self.machine.handle(event):
            done = self._perform[type(effect)](effect)
            if done is not None:
                await done

    def wake(self) -> None:
        """Let a send be looked at that waits for a transaction."""
        self._wake.set()

    def _beside(self, job: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
        """Return what performs an effect beside the event loop."""

        def perform(effect: Any) -> None:
            self._spawn(job(effect))

        return perform

    def _spawn(self, job: Any) -> asyncio.Task[Any]:
        """Run a reporting effect beside the event loop; an error in it ends the worker."""
        task: asyncio.Task[Any] = asyncio.ensure_future(job)
        self._jobs.add(task)
        task.add_done_callback(self._job_done)
        return task

    def _job_done(self, task: asyncio.Task[Any]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.runtime.fail(task.exception())

    # -- what the consumer group says --

    def assigned(self, assignment: Assignment, added: frozenset[Partition]) -> None:
        """Take a new assignment; its group metadata belongs to it alone.

        Args:
            assignment: everything that is assigned, and the group metadata.
            added: partitions of complete tasks that are not claimed yet.
        """
        memberships = self.transactions.memberships
        memberships[assignment.number] = assignment.group_metadata
        for number in [n for n in memberships if n < self.machine.membership]:
            del memberships[number]
        self.post(ev.Assigned(added, assignment.number))

    async def revoke(self, partitions: frozenset[Partition], bound_s: float) -> None:
        """Commit and release, or abort, within the bound; returns when they may go.

        Several may wait: the poll thread gives one up after its own bound, and others may follow.
        """
        if self.stopped.is_set():
            return
        requested, revoked = ev.RevokeRequested(partitions), asyncio.Event()
        self._revokes.append((requested, revoked))
        self.post(requested)
        timer = asyncio.get_running_loop().call_later(
            bound_s, lambda: self.post(ev.RevokeTimedOut())
        )
        try:
            await revoked.wait()
        finally:
            timer.cancel()

    async def stop(self, bound_s: float) -> None:
        """Drain, commit and release everything; returns when that is done or given up."""
        if self.stopped.is_set() or self._loop_task is None:
            return
        self.post(ev.StopRequested())
        timer = asyncio.get_running_loop().call_later(
            bound_s, lambda: self.post(ev.RevokeTimedOut())
        )
        await self.stopped.wait()
        timer.cancel()

    def due_in_s(self, interval_s: float) -> float:
        """Return how long until the epoch that is open has to end.

        Epochs begin at the interval's pace, measured from closing to closing, but a slow commit
        does not eat up the time in which records are processed.
        """
        due_s = max(self.closed_s + interval_s, self.opened_s + interval_s * _OPEN_SHARE_MIN)
        return due_s - time.monotonic()

    async def wait_settled(self) -> None:
        """Wait until the epoch that is ending has ended (or was found empty)."""
        await self._settled.wait()

    async def replay(self) -> None:
        """Abort the open attempt, so that fresh actors read again what is not committed."""
        while not self.is_open:
            await self.runtime.gate.opened.wait()
        self.post(ev.RecordFailed(self.machine.stamp))
        await self._settled.wait()

    @property
    def is_open(self) -> bool:
        """Whether records are being processed."""
        return self.machine.state is EpochState.OPEN and not self.runtime.gate.closed

    # -- takeover --

    def _begin_takeover(self, effect: fx.BeginTakeover) -> None:
        self.ready.clear()
        self._takeover = TakeoverDriver(self.runtime, effect)
        self._spawn(self._takeover.run())

    async def _cancel_takeover(self, _: fx.CancelTakeover) -> None:
        if self._takeover is not None:
            await self._takeover.cancel()
            self._takeover = None

    # -- the gate --

    def _open_gate(self, effect: fx.OpenGate) -> None:
        self._close_pending_opening()
        if effect.after_s:
            self._opening = self._spawn(self._open_later(effect))
        else:
            self._open_now(effect)

    async def _open_later(self, effect: fx.OpenGate) -> None:
        await asyncio.sleep(effect.after_s)
        self._open_now(effect)

    def _open_now(self, effect: fx.OpenGate) -> None:
        self._opening = None
        self.work.restamp(effect.stamp)
        self.runtime.sender.begin(self.runtime.clients.transaction)
        self.work.opened()
        if self._closed_at_s:
            self.transactions.phases["closed"] = time.monotonic() - self._closed_at_s
            self._closed_at_s = 0.0
        self.opened_s = time.monotonic()
        self.runtime.gate.open()
        self.ready.set()
        self._settled.set()

    def _close_pending_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def _close_gate(self, _: fx.CloseGate) -> None:
        self._close_pending_opening()
        self._closed_at_s = self.closed_s = time.monotonic()
        self.runtime.gate.close(self.machine.committed_offsets)
        if self.runtime.gate.is_drained():
            self._report_drained()
        else:
            self._drain = asyncio.ensure_future(self._wait_drained())

    async def _wait_drained(self) -> None:
        bound_s = self.runtime.settings.record_bound_s
        self.runtime.failures.draining()
        try:
            await asyncio.wait_for(self.runtime.gate.wait_drained(), bound_s)
        except TimeoutError:
            self.runtime.failures.overdue(self.machine.commit_epoch)
            return
        self._report_drained()

    def _report_drained(self) -> None:
        self._drain = None
        offsets: dict[Partition, Offset] = dict(self.machine.committed_offsets)
        for partition, position in self.runtime.gate.committable().items():
            offsets[partition] = max(offsets[partition], position)  # pyright: ignore[reportArgumentType]
        has_effects = self.work.has_effects()
        if not has_effects:
            # The begun transaction may carry a claim or a release next. A send from outside that
            # joined it there would be neither resolved with it nor repeated.
            self.runtime.sender.close()
        self.post(ev.Drained(self.machine.commit_epoch, offsets, has_effects))

    def _cancel_drain(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None

    # -- the end of an epoch --

    def _seal(self, effect: fx.Seal) -> Coroutine[Any, Any, None] | None:
        """Seal at once; beside the events where callbacks run, so that a revoke ends the wait."""
        if not self.work.tells_windows():
            return self._sealed(effect)
        self._sealing = self._spawn(self._sealed(effect))
        return None

    async def _cancel_seal(self) -> None:
        """End callbacks of an epoch that is aborted; one that runs on all the same is a ghost."""
        sealing, self._sealing = self._sealing, None
        if sealing is not None and not sealing.done():
            sealing.cancel()
            await asyncio.wait({sealing}, timeout=_CANCEL_S)

    async def _sealed(self, effect: fx.Seal) -> None:
        started_s = time.monotonic()
        self.transactions.phases["process"] = started_s - self.opened_s
        self.runtime.crash(CrashPoint.BEFORE_PRODUCE)
        try:
            await self.work.seal()
        except StaleAttempt:
            return
        except RecordError as error:
            self.runtime.failures.seal_failed(error)
            self.post(ev.SendFailed(effect.commit_epoch, ev.SendFailure.ABORTABLE))
            return
        except TransactionAborted:
            self.post(ev.SendFailed(effect.commit_epoch, ev.SendFailure.ABORTABLE))
            return
        except (Fenced, OutcomeUnknown) as error:
            # Only the markers tell whether somebody else took over; the producer is of no use.
            if isinstance(error, Fenced):
                self.transactions.fenced(effect.commit_epoch, error)
            log.warning(LogEvent.EPOCH_ABORTED, error=str(error), kind=ev.SendFailure.FATAL.value)
            self.post(ev.SendFailed(effect.commit_epoch, ev.SendFailure.FATAL))
            return
        self.runtime.sender.close()
        self.runtime.crash(CrashPoint.AFTER_PRODUCE)
        self.transactions.phases["seal"] = time.monotonic() - started_s
        self.post(ev.Sealed(effect.commit_epoch, self.two_phase.rows))

    def _commit_transaction(self, effect: fx.CommitTransaction) -> None:
        self._spawn(self.transactions.finish(effect, self.machine.on_the_way))

    def _replace_producer(self, _: fx.ReplaceProducer) -> None:
        self._spawn(self.transactions.replace())

    def _read_markers(self, effect: fx.ReadMarkers) -> None:
        self._spawn(self.transactions.read_markers(effect.partitions))

    def _apply(self, effect: fx.Apply) -> None:
        self.runtime.crash(CrashPoint.BEFORE_APPLY)
        self.work.apply(effect.partitions)
        self.runtime.crash(CrashPoint.AFTER_APPLY)
        self.transactions.count_end(TransactionOutcome.COMMITTED)
        self.post(ev.Applied(effect.commit_epoch))

    # -- aborts, rewinds, leaving partitions --

    async def _drop_attempt(self, effect: fx.DropAttempt) -> None:
        if effect.sends is fx.SendsFate.UNKNOWN:
            self.runtime.sender.unknown()
        self._cancel_drain()
        self._close_pending_opening()
        await self._cancel_seal()
        self.transactions.count_abort()
        await self.work.drop_attempt(effect.stamp)

    def _rewind(self, effect: fx.Rewind) -> None:
        self._start_at(self.work.position(effect.offsets, self.holding.partitions))

    def _start_at(self, offsets: Mapping[Partition, Offset]) -> None:
        # Not waited for: the poll thread may be inside a revocation, which waits for the events
        # that come after this one.
        if offsets:
            self._spawn(self._positioned(self.runtime.inflow.start_at(offsets)))

    async def _positioned(self, started: Coroutine[Any, Any, int]) -> None:
        try:
            await started
        except Unreachable:
            # Once the worker has left the group, the poll thread answers nothing any more.
            if not self.stopped.is_set():
                raise

    async def _forget_partitions(self, effect: fx.ForgetPartitions) -> None:
        self._cancel_drain()
        await self.work.forget(effect.partitions)
        self.work.restamp(effect.stamp)

    def _finish_revoke(self, _: fx.FinishRevoke) -> None:
        for revoked in self._revoking:
            revoked.set()
        self._revoking.clear()

    # -- the end --

    def _stop(self, _: fx.Stop) -> None:
        self.stopped.set()
        for revoked in [*self._revoking, *(each for _, each in self._revokes)]:
            revoked.set()

    def _fail(self, effect: fx.Fail) -> None:
        error = DataAtRisk(effect.message)
        error.exit_code = effect.exit_code
        self.runtime.fail(error)
