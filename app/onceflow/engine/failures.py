"""What happens to records that cannot be processed: retried alone, dead-lettered, skipped, or stop.

`decisions.failures` decides; this module tells it what happened and performs what it says: an abort
through the epochs, holding records back so that a suspect one goes alone, and the dead letter
inside the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onceflow.decisions import epoch_events as ev
from onceflow.errors import (
    DataAtRisk,
    InvariantViolation,
    OnceflowError,
    ProcessingError,
    SerializationError,
    StaleAttempt,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from onceflow.engine.gate import Cursor
    from onceflow.engine.records import Batch
    from onceflow.engine.runtime import Runtime
    from onceflow.engine.topic import Topic
    from onceflow.ids import CommitEpoch
    from onceflow.kafka.records import Run

log = get_logger(__name__)


class Failures:
    """Failing records of one worker."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def undecodable(
        self, channel: Topic, batch: Batch, index: int, error: Exception
    ) -> None:
        """Deal with a record whose value cannot be decoded; it has had no effects."""
        raise error

    def failed(self, agent: str, event: Any, error: BaseException) -> None:
        """Deal with an agent that raised: the attempt is aborted in any case."""
        log.error(LogEvent.RECORD_FAILED, agent=agent, error=repr(error), exc_info=error)
        self.runtime.epochs.post(ev.RecordFailed(self.runtime.gate.stamp, 0.1, None))

    def overdue(self, commit_epoch: CommitEpoch) -> None:
        """Deal with a drain that took longer than the record bound."""
        self.runtime.epochs.post(ev.DrainTimedOut(commit_epoch))

    def seal_failed(self, error: SerializationError) -> None:
        """Log a row that Kafka cannot take."""
        log.error(LogEvent.RECORD_FAILED, error=str(error))

    def split(self, run: Run) -> tuple[Run | None, Run | None]:
        """Return the part of a run that may go now, and the rest."""
        return run, None

    def skipping(self, run: Run) -> list[Cursor]:
        """Return the subscriptions that must not see this run: it was dead-lettered for them."""
        return []

    def watch(self) -> None:
        """Look for records that take longer than the bound."""

    def client_failed(self, error: BaseException) -> None:
        """Judge an error of the poll thread."""
        if isinstance(error, (DataAtRisk, InvariantViolation)) or not isinstance(
            error, OnceflowError
        ):
            self.runtime.fail(error)
            return
        log.warning(LogEvent.KAFKA_UNREACHABLE, error=str(error))


_ = ProcessingError, StaleAttempt
