"""What happens to records that cannot be processed: retried alone, dead-lettered, skipped, or stop.

`decisions.failures` decides; this module tells it what happened and performs what it says: an abort
through the epochs, and the dead letter inside the transaction. Holding records back so that a
suspect one goes alone is `isolation`'s part.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from onceflow.decisions import epoch_events as ev
from onceflow.decisions.failures import (
    Ending,
    EndNow,
    Failure,
    FailureKind,
    FailureOptions,
    FailurePolicy,
    Replay,
    without_retries,
)
from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    Fenced,
    InvariantViolation,
    OnceflowError,
    OutcomeUnknown,
    RecordError,
    RowsRefused,
    SerializationError,
    StaleAttempt,
    TransactionAborted,
    Unreachable,
)
from onceflow.ids import Offset
from onceflow.kafka.errors import ProducerFull
from onceflow.limits import DEAD_LETTER_HEADER_BYTES_MAX, RETRY_BACKOFF_S_MAX, WATCH_S
from onceflow.observe.catalogue import DropReason
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.settings import OnError

if TYPE_CHECKING:
    from onceflow.engine.records import Batch, RecordEvent
    from onceflow.engine.rows import BufferedRows
    from onceflow.engine.runtime import Runtime
    from onceflow.engine.stream import Stream
    from onceflow.engine.topic import Topic
    from onceflow.ids import CommitEpoch, Partition
    from onceflow.kafka.records import Run

log = get_logger(__name__)

_NOT_THE_RECORD = (ConfigError, DataAtRisk, InvariantViolation)
"""Errors that no replay can change and no record is to blame for: the worker leaves."""


class Blamed(NamedTuple):
    """The records that were handed out together when an agent failed."""

    partition: Partition
    offset: int
    end_offset: int
    records: int


class _Watched(NamedTuple):
    event: RecordEvent
    since_s: float


class Failures:
    """Failing records of one worker.

    Fields:
        watched: per stream the record that it was working on when the watch last looked.
        at_closing: records that were being processed when the gate closed last and was not drained.
        seals_failed: seals that failed in a row; 0 again after a commit.
        errors: the last error text and stack per blamed record, for its dead letter.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.watched: dict[int, _Watched] = {}
        self.at_closing: list[RecordEvent] = []
        self.errors: dict[tuple[Partition, int], str] = {}
        self.seals_failed = 0
        self._policy: FailurePolicy | None = None

    @property
    def policy(self) -> FailurePolicy:
        """The policy of this app's agents, made when the first one is needed."""
        if self._policy is None:
            default = self._options(None)
            agents = cast("Any", self.runtime.app).agents
            self._policy = FailurePolicy(
                {name: self._options(a.policy) for name, a in agents.items() if a.policy}, default
            )
        return self._policy

    def _options(self, policy: OnError | None) -> FailureOptions:
        settings = self.runtime.settings
        on_error = policy or settings.on_error
        retrying = FailureOptions(
            ending=Ending(settings.on_retries_exhausted.value),
            retries_max=settings.retries_max,
            backoff_s=settings.retry_backoff_ms / 1000,
            backoff_s_max=RETRY_BACKOFF_S_MAX,
        )
        if on_error is OnError.RETRY:
            return retrying
        return without_retries(
            FailureOptions(ending=Ending(on_error.value), backoff_s=retrying.backoff_s)
        )

    # -- what happened --

    async def undecodable(self, channel: Topic, batch: Batch, index: int, error: Exception) -> None:
        """Deal with a record whose value cannot be decoded; it has had no effects."""
        offset = batch.run.offsets[index]
        agent = channel.cursor.owner
        self._remember(batch.partition, offset, error)
        failure = Failure(
            batch.partition,
            Offset(offset),
            Offset(offset + 1),
            1,
            agent,
            FailureKind.DECODE,
            str(error),
        )
        verdict = self.policy.record_failed(failure)
        if isinstance(verdict, EndNow):
            self.end(verdict.ending, batch.run, index, agent)
        else:
            self._abort(batch, verdict)

    def failed(self, stream: Stream, error: BaseException) -> None:
        """Deal with an agent that raised; the attempt is aborted in any case."""
        if isinstance(error, StaleAttempt):
            return
        if isinstance(error, (TransactionAborted, OutcomeUnknown, Fenced)):
            epochs = self.runtime.epochs
            kind = (
                ev.SendFailure.ABORTABLE
                if isinstance(error, TransactionAborted)
                else ev.SendFailure.FATAL
            )
            if isinstance(error, Fenced):
                epochs.transactions.fenced(epochs.machine.commit_epoch, error)
            epochs.post(ev.SendFailed(epochs.machine.commit_epoch, kind))
            return
        if isinstance(error, _NOT_THE_RECORD):
            self.runtime.fail(error)
            return
        self._blame(stream, error, FailureKind.RAISED)

    def _blame(self, stream: Stream, error: BaseException, kind: FailureKind) -> None:
        blamed = stream.blamed()
        event = stream.current_event
        if blamed is None or event is None:
            log.error(LogEvent.RECORD_FAILED, agent=stream.reader, error=repr(error))
            self.runtime.fail(error)
            return
        self._judge(stream.reader, cast("RecordEvent", event).batch, blamed, error, kind)

    def _judge(
        self, agent: str, batch: Batch, blamed: Blamed, error: BaseException, kind: FailureKind
    ) -> None:
        """Log a failure and abort the attempt as the policy says."""
        if batch.stamp is not self.runtime.gate.stamp:
            return
        self._remember(blamed.partition, blamed.offset, error)
        failure = Failure(
            blamed.partition,
            Offset(blamed.offset),
            Offset(blamed.end_offset),
            blamed.records,
            agent,
            kind,
            repr(error),
        )
        log.error(
            LogEvent.RECORD_FAILED,
            agent=agent,
            topic=blamed.partition.topic,
            partition=blamed.partition.number,
            offset=blamed.offset,
            records=blamed.records,
            error=repr(error),
            stack="".join(traceback.format_exception(error)),
        )
        verdict = self.policy.record_failed(failure)
        if isinstance(verdict, EndNow):
            message = "only undecodable records end at once"
            raise TypeError(message)
        self._abort(batch, verdict)

    def _abort(self, batch: Batch, verdict: Replay) -> None:
        self.runtime.inflow.isolation.wait(batch.partition, verdict.after_s)
        self.runtime.epochs.post(ev.RecordFailed(batch.stamp, 0.0, verdict.stop_message))

    def _remember(self, partition: Partition, offset: int, error: BaseException) -> None:
        self.errors[partition, offset] = "".join(traceback.format_exception(error))

    def draining(self) -> None:
        """Note which records the closing gate waits for."""
        self.at_closing = [event for _, event in self._working()]

    def overdue(self, commit_epoch: CommitEpoch) -> None:
        """Deal with a drain that took longer than the record bound.

        A record that took that long by itself is to blame, or one that its ``noack()`` stream's
        reader has never acknowledged. Otherwise a reader had too much to read until it stood where
        the others did; the attempt is replayed in smaller pieces.
        """
        long_ago_s = time.monotonic() - self.runtime.settings.record_bound_s + WATCH_S
        for stream, event in self._working():
            watched = self.watched.get(id(stream))
            watched_long = (
                watched is not None and watched.event is event and watched.since_s <= long_ago_s
            )
            if watched_long or any(event is each for each in self.at_closing):
                self._blame(stream, self._too_slow(), FailureKind.TOO_SLOW)
                return
        unacknowledged = self.runtime.gate.unacknowledged()
        if unacknowledged is not None:
            cursor, event = unacknowledged
            blamed = Blamed(event.batch.partition, event.offset, event.offset + 1, 1)
            error = self._never_acknowledged()
            self._judge(cursor.owner, event.batch, blamed, error, FailureKind.TOO_SLOW)
            return
        self._tell_overdue()
        self.runtime.inflow.lockstep.too_long()
        self.runtime.epochs.post(ev.DrainTimedOut(commit_epoch))

    def _tell_overdue(self) -> None:
        """Log what a drain waited for in vain, one line per subscription."""
        for waited in self.runtime.gate.waited_for():
            log.warning(
                LogEvent.EPOCH_ABORTED,
                agent=waited.owner,
                records_in_progress=waited.in_progress,
                positions={
                    f"{p.topic}-{p.number}": {"read_up_to": position, "wanted": wanted}
                    for p, (position, wanted) in waited.behind.items()
                },
                error=f"the epoch was not drained within record_bound_s="
                f"{self.runtime.settings.record_bound_s}",
                meaning="nothing of it is committed; its records are processed again, in smaller "
                "pieces where several agents read a topic",
                action="if it repeats, look for what holds these readers up, or raise "
                "record_bound_s",
            )

    def _never_acknowledged(self) -> Exception:
        return TimeoutError(
            "the record was handed out by a noack() stream and was not acknowledged within "
            f"record_bound_s={self.runtime.settings.record_bound_s} after its epoch was to end. "
            "Its epoch is aborted and replayed. Call event.ack() for each record, without waiting "
            "for later ones, which come only in the next epoch."
        )

    def _too_slow(self) -> Exception:
        return TimeoutError(
            f"the record took longer than record_bound_s={self.runtime.settings.record_bound_s}. "
            "Its epoch is aborted and replayed, and what it sent is dropped. Raise the setting "
            "for slow agents, or make the agent faster."
        )

    def abandoned(self, stream: Stream) -> None:
        """Deal with records whose reader ended before it had finished them.

        They are not acknowledged: the attempt is aborted, and they come again, to the reader's
        successor or at the next start. Nothing is left to be done once the epochs have stopped.
        """
        if not self.runtime.is_worker or self.runtime.epochs.stopped.is_set():
            return
        event = cast("RecordEvent | None", stream.current_event)
        at: dict[str, Any] = {}
        if event is not None:
            at = {
                "topic": event.batch.partition.topic,
                "partition": event.batch.partition.number,
                "offset": event.offset,
            }
        log.warning(
            LogEvent.EPOCH_ABORTED,
            agent=stream.reader,
            **at,
            error="a reader failed or was cancelled while it processed a record",
            meaning="nothing of the epoch is committed; the record is processed again",
        )
        stamp = self.runtime.gate.stamp
        self.runtime.epochs.post(ev.RecordFailed(stamp, 0.0, None))

    def seal_failed(self, error: RecordError) -> None:
        """Deal with changes that cannot be sealed; no single record is known to be to blame.

        A row that Kafka cannot take, or a sum beyond 64 bits. Smaller epochs would show the record,
        but the same records fail again at each replay; after a few the worker leaves, so that
        people look and nothing blocks silently.
        """
        log.error(LogEvent.RECORD_FAILED, error=str(error))
        self.seals_failed += 1
        if self.seals_failed > self.runtime.settings.retries_max:
            self.runtime.fail(error)

    def rows_refused(self, rows: list[BufferedRows], error: RowsRefused) -> None:
        """Deal with rows that a sink refused for their data, found when the epoch was prepared.

        Where the sink does not tell which, the records of all rows are tried again in parts.

        Args:
            rows: all rows of the epoch for that sink.
            error: with the index of the culprit, if it is known.
        """
        if error.culprit is not None:
            culprit = rows[error.culprit]
            self._judge(culprit.agent, culprit.batch, culprit.blamed, error, FailureKind.RAISED)
            return
        suspects: dict[Partition, list[BufferedRows]] = {}
        for each in rows:
            suspects.setdefault(each.batch.partition, []).append(each)
        records = sum(each.records for each in {row.blamed for row in rows})
        for found in suspects.values():
            first, last = found[0], found[-1]
            blamed = first.blamed
            if records > 1:
                # Never a single one as long as another may be to blame: it would be given up.
                count = sum(each.records for each in {row.blamed for row in found})
                end_offset = max(row.blamed.end_offset for row in found)
                start = min(row.blamed.offset for row in found)
                blamed = Blamed(blamed.partition, start, end_offset, max(2, count))
            self._judge(last.agent, last.batch, blamed, error, FailureKind.RAISED)

    def watch(self) -> None:
        """Look for records that take longer than the bound; called about once a second."""
        now_s = time.monotonic()
        bound_s = self.runtime.settings.record_bound_s
        seen: dict[int, _Watched] = {}
        for stream, event in self._working():
            before = self.watched.get(id(stream))
            if before is None or before.event is not event:
                seen[id(stream)] = _Watched(event, now_s)
            elif now_s - before.since_s > bound_s:
                self._blame(stream, self._too_slow(), FailureKind.TOO_SLOW)
            else:
                seen[id(stream)] = before
        self.watched = seen

    def _working(self) -> list[tuple[Stream, RecordEvent]]:
        """Return the streams that are processing a record at this moment."""
        working: list[tuple[Stream, RecordEvent]] = []
        for cursor in self.runtime.gate.cursors:
            for stream in cursor.readers:
                event = cast("RecordEvent | None", stream.current_event)
                # A ghost of an aborted attempt may work on; what it waits for holds nobody up.
                if event is None or not event.live or event.batch.stamp is not cursor.gate.stamp:
                    continue
                if (event.batch.partition, event.offset) not in cursor.unacknowledged:
                    working.append((stream, event))
        return working

    def client_failed(self, error: BaseException) -> None:
        """Judge an error of the poll thread: passing ones are logged, others end the worker."""
        if isinstance(error, (Unreachable, TransactionAborted)):
            log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))
        else:
            self.runtime.fail(error)

    # -- what becomes of a record whose attempts are used up --

    def end(self, ending: Ending, run: Run, index: int, agent: str) -> None:
        """Dead-letter, skip or stop, inside the open epoch."""
        partition, offset = run.partition, run.offsets[index]
        error = self.errors.get((partition, offset), "the process died while processing it")
        where = {"topic": partition.topic, "partition": partition.number, "offset": offset}
        if ending is Ending.SKIP:
            self.runtime.metrics.dropped(DropReason.SKIPPED)
            log.warning(LogEvent.RECORD_SKIPPED, agent=agent, error=_last_line(error), **where)
            return
        if ending is Ending.STOP:
            stopped = OnceflowError(
                f"{agent or 'an agent'} killed the process on {partition.topic}"
                f"[{partition.number}] offset {offset} each time it was tried. Nothing of this "
                "record was committed, and it comes first at the next start. Correct the agent or "
                "the record, or choose another on_error."
            )
            self.runtime.fail(stopped)
            return
        try:
            self._dead_letter(run, index, agent, error)
        except ProducerFull as full:
            log.warning(LogEvent.EPOCH_ABORTED, error=str(full), **where)
            epochs = self.runtime.epochs
            epochs.post(ev.SendFailed(epochs.machine.commit_epoch, ev.SendFailure.ABORTABLE))
            return
        self.runtime.metrics.dead_letter(partition.topic)
        log.error(LogEvent.RECORD_DEAD_LETTERED, agent=agent, error=_last_line(error), **where)

    def _dead_letter(self, run: Run, index: int, agent: str, error: str) -> None:
        """Send the original bytes with their provenance into the transaction."""
        headers: list[tuple[str, bytes | None]] = [
            ("onceflow-topic", run.topic.encode()),
            ("onceflow-partition", str(run.number).encode()),
            ("onceflow-offset", str(run.offsets[index]).encode()),
            ("onceflow-timestamp", str(run.timestamps[index]).encode()),
            ("onceflow-agent", agent.encode()),
            ("onceflow-error", _last_line(error).encode()[:1000]),
        ]
        stack = ("onceflow-stack", error.encode()[-DEAD_LETTER_HEADER_BYTES_MAX:])
        original = run.headers[index] if run.headers is not None else None
        topic = self.runtime.dead_letter_topic
        transaction = self.runtime.clients.transaction
        key, value = run.keys[index], run.values[index]
        sender = self.runtime.sender
        try:
            whole = cast("Any", [*(original or []), *headers, stack])
            sender.produce(transaction, topic, value, key, headers=whole)
        except SerializationError:
            # It would not fit with its provenance: the coordinates lead to the original.
            sender.produce(transaction, topic, None, None, headers=cast("Any", headers))
        self.runtime.sender.note_effect(topic, len(key or b"") + len(value or b""))


def _last_line(error: str) -> str:
    """Return the line of a traceback that names the error."""
    return error.strip().rpartition("\n")[2]
