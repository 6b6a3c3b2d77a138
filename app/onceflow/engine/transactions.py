"""The calls that decide a transaction, and what is counted of its end.

Each job runs the blocking calls of one effect on the transaction thread and reports its end as an
event. `epochs` gives the jobs out in order, so that at most one is on its way. It decides nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.crash_points import CrashPoint
from onceflow.decisions.epoch_positions import EpochKind
from onceflow.decisions.marker import Handover
from onceflow.errors import (
    Fenced,
    OnceflowError,
    SerializationError,
    TransactionAborted,
    Unreachable,
)
from onceflow.kafka.offsets import Pending, Stability
from onceflow.kafka.producer import EndOutcome
from onceflow.limits import COMMIT_S_MAX, FLUSH_S_MAX, SEND_OFFSETS_S_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import TransactionOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceflow.decisions.epoch_positions import PendingTransaction
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import CommitEpoch, Partition
    from onceflow.kafka.producer import EndResult

log = get_logger(__name__)


class Transactions:
    """The transaction that is open, and the jobs that end it.

    Fields:
        memberships: group metadata by number, taken once per assignment.
        phases: seconds that the epoch has spent in each of its phases so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        post: Callable[[ev.EpochEvent], None],
        count: Callable[[TransactionOutcome, Mapping[str, float]], None],
    ) -> None:
        """Make the jobs' room.

        Args:
            runtime: the engine of the app.
            post: takes what happened.
            count: measures the end of an epoch.
        """
        self.runtime = runtime
        self.memberships: dict[int, object] = {}
        self.phases: dict[str, float] = {}
        self._post = post
        self._count = count
        self._steps: list[fx.EpochEffect] = []
        self._fenced = False
        self._counted = False

    # -- what is known of the open one --

    def begin(self, _: fx.BeginTransaction) -> None:
        """Begin a transaction on the producer whose turn it is."""
        self.count_end(TransactionOutcome.FENCED if self._fenced else None)
        self._counted = self._fenced = False
        self.runtime.clients.take_turns()
        self.runtime.clients.transaction.begin()
        self.runtime.metrics.transaction_begun()

    def fenced(self, commit_epoch: CommitEpoch, error: BaseException) -> None:
        """Note that somebody took over the id of the open transaction; markers tell who."""
        self._fenced = True
        log.warning(
            LogEvent.FENCED,
            commit_epoch=commit_epoch,
            error=str(error),
            meaning="another process may own these partitions, or the broker gave this producer "
            "up; what was committed is read from Kafka before anything else happens",
        )

    def count_end(self, outcome: TransactionOutcome | None) -> None:
        """Count the end of a transaction, once."""
        if outcome is not None and not self._counted:
            self._counted = True
            self._count(outcome, self.phases)
            self.phases.clear()

    def count_abort(self) -> None:
        """Count the end of a transaction that was not committed, once."""
        self.count_end(TransactionOutcome.FENCED if self._fenced else TransactionOutcome.ABORTED)

    # -- commit --

    def add_step(self, effect: fx.Flush | fx.SendOffsets) -> None:
        """Take a step that `finish` performs together with the commit."""
        self._steps.append(effect)

    async def finish(
        self, effect: fx.CommitTransaction, pending: PendingTransaction | None
    ) -> None:
        """Perform the steps taken, then commit; reports how that ended."""
        steps, self._steps = self._steps, []
        offsets = next((s for s in steps if isinstance(s, fx.SendOffsets)), None)
        before, after = _handover_points(pending)
        if before is not None:
            self.runtime.crash(before)
        thread, answer = self.runtime.clients.transaction_thread, None
        if offsets is not None:
            # With a bound of its own: this call alone may never come back.
            answer = await thread.run(
                self.send_offsets, effect, offsets, timeout_s=SEND_OFFSETS_S_MAX
            )
        if answer is None:
            bound_s = FLUSH_S_MAX + COMMIT_S_MAX
            answer = await thread.run(self.decide, effect, timeout_s=bound_s)
        if after is not None:
            self.runtime.crash(after)
        self._post(answer)

    def send_offsets(
        self, effect: fx.CommitTransaction, offsets: fx.SendOffsets
    ) -> ev.EpochEvent | None:
        """Send the offsets, on the transaction thread; None if they are in."""
        started_s = time.monotonic()
        try:
            self.runtime.crash(CrashPoint.BEFORE_SEND_OFFSETS)
            self.runtime.clients.transaction.send_offsets(
                [(p, at.offset, at.metadata) for p, at in offsets.offsets.items()],
                self.memberships[offsets.membership],
            )
            self.runtime.crash(CrashPoint.AFTER_SEND_OFFSETS)
        except TransactionAborted:
            return ev.OffsetsRefused(effect.commit_epoch)
        except OnceflowError as error:
            return self._send_failed(effect, error)
        self.phases["offsets"] = time.monotonic() - started_s
        return None

    def decide(self, effect: fx.CommitTransaction) -> ev.EpochEvent:
        """Flush and commit, on the transaction thread; the first failure ends it."""
        transaction, crash = self.runtime.clients.transaction, self.runtime.crash
        started_s = time.monotonic()
        try:
            crash(CrashPoint.BEFORE_FLUSH)
            transaction.flush(FLUSH_S_MAX)
            crash(CrashPoint.AFTER_FLUSH)
        except OnceflowError as error:
            return self._send_failed(effect, error)
        self.phases["flush"] = time.monotonic() - started_s
        crash(CrashPoint.BEFORE_COMMIT)
        started_s = time.monotonic()
        result = transaction.commit_transaction(COMMIT_S_MAX)
        crash(CrashPoint.AFTER_COMMIT)
        self.phases["commit"] = time.monotonic() - started_s
        self._tell_end(effect, result)
        return ev.TransactionEnded(effect.commit_epoch, _outcome(result), result.spent)

    def _tell_end(self, effect: fx.CommitTransaction, result: EndResult) -> None:
        """Log an end that leaves open what became of the transaction."""
        if result.outcome is EndOutcome.FENCED:
            error = result.error or Fenced("the producer was fenced at its commit")
            self.fenced(effect.commit_epoch, error)
        elif result.outcome is EndOutcome.UNKNOWN:
            log.warning(
                LogEvent.OUTCOME_UNKNOWN,
                commit_epoch=effect.commit_epoch,
                elapsed_s=result.elapsed_s,
                error=str(result.error),
                meaning="the answer to a commit was lost; the producer is replaced and the "
                "markers tell whether it was committed",
            )

    def _send_failed(self, effect: fx.CommitTransaction, error: OnceflowError) -> ev.SendFailed:
        kind = (
            ev.SendFailure.ABORTABLE
            if isinstance(error, (TransactionAborted, SerializationError))
            else ev.SendFailure.FATAL
        )
        if isinstance(error, Fenced):
            self.fenced(effect.commit_epoch, error)
        log.warning(LogEvent.EPOCH_ABORTED, error=str(error), kind=kind.value)
        return ev.SendFailed(effect.commit_epoch, kind)

    # -- abort, and a spent producer --

    async def abort(self, effect: fx.AbortTransaction) -> None:
        """Abort the open transaction; reports ``Aborted``."""
        result: EndResult = await self.runtime.clients.transaction_thread.run(
            self.runtime.clients.transaction.abort_transaction,
            COMMIT_S_MAX,
            timeout_s=COMMIT_S_MAX * 2,
        )
        if result.outcome is EndOutcome.FENCED:
            error = result.error or Fenced("the producer was fenced at its abort")
            self.fenced(effect.commit_epoch, error)
        self.count_abort()
        is_spent = result.spent or result.outcome is not EndOutcome.ABORTED
        self._post(ev.Aborted(effect.commit_epoch, is_spent))

    async def replace(self) -> None:
        """Replace the spent producer; reports ``ProducerReady``."""
        try:
            await self.runtime.clients.replace_producer()
        except Unreachable as error:
            log.warning(LogEvent.PRODUCER_SPENT, error=str(error))
            self._post(ev.Failed(str(error), exit_code=3))
            return
        self._post(ev.ProducerReady())

    async def read_markers(self, partitions: frozenset[Partition]) -> None:
        """Read markers, stable, within a bound; reports ``MarkersRead``."""
        deadline_s = time.monotonic() + self.runtime.settings.transaction_timeout_ms / 1000 * 2
        while True:
            try:
                markers = await self.runtime.clients.read_offsets(partitions, Stability.STABLE)
            except (Pending, Unreachable) as error:
                if time.monotonic() > deadline_s:
                    self._post(ev.Failed(str(error), exit_code=3))
                    return
                log.warning(LogEvent.OFFSETS_PENDING, error=str(error))
                continue
            self._post(ev.MarkersRead(markers))
            return


def _handover_points(
    pending: PendingTransaction | None,
) -> tuple[CrashPoint | None, CrashPoint | None]:
    """Crash points around a claim or a release, besides those that every epoch passes."""
    if pending is None:
        return None, None
    if pending.kind is EpochKind.CLAIM:
        return None, CrashPoint.AFTER_CLAIM
    if any(at.released is Handover.RELEASED for at in pending.positions.values()):
        return CrashPoint.BEFORE_RELEASE, CrashPoint.AFTER_RELEASE
    return None, None


def _outcome(result: EndResult) -> ev.Outcome:
    if result.outcome is EndOutcome.COMMITTED:
        return ev.Outcome.COMMITTED
    if result.outcome in {EndOutcome.ABORTABLE, EndOutcome.ABORTED}:
        return ev.Outcome.NOT_COMMITTED
    return ev.Outcome.UNKNOWN
