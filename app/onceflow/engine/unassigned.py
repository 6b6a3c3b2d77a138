"""Commits sends of timers, tasks and views while no partition is ours.

There are no offsets to commit with them, so these transactions are outside of the protocol of
`epochs`, which runs them between its events: no epoch can begin beside one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from onceflow.errors import OnceflowError
from onceflow.kafka.producer import EndOutcome
from onceflow.limits import COMMIT_S_MAX, FLUSH_S_MAX, REFUSED_BACKOFF_S
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.engine.runtime import Runtime
    from onceflow.kafka.producer import EndResult, TransactionalProducer

log = get_logger(__name__)


class UnassignedSends:
    """Sends without a record in a worker without partitions.

    Args:
        runtime: whose outbox and producer.
        wake: called when the wait after a failure is over.
    """

    def __init__(self, runtime: Runtime, wake: Callable[[], None]) -> None:
        self.runtime = runtime
        self.wake = wake
        self._not_before_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether some wait and may be sent at this moment."""
        return bool(self.runtime.sender.waiting) and time.monotonic() >= self._not_before_s

    async def commit_waiting(self) -> None:
        """Commit what waits in a transaction of its own; after a failure the next one waits."""
        clients, sender = self.runtime.clients, self.runtime.sender
        transaction = clients.transaction
        transaction.begin()
        sender.begin(transaction)
        sender.close()
        committing = clients.transaction_thread.run(
            _flush_and_commit, transaction, timeout_s=FLUSH_S_MAX + COMMIT_S_MAX
        )
        result = await committing
        if result is not None and result.outcome is EndOutcome.COMMITTED:
            sender.committed()
            if result.spent:
                await clients.replace_producer()
            return
        if result is not None and result.outcome in {EndOutcome.UNKNOWN, EndOutcome.FENCED}:
            sender.unknown()
        else:
            await clients.transaction_thread.run(
                transaction.abort_transaction, COMMIT_S_MAX, timeout_s=COMMIT_S_MAX * 2
            )
            sender.aborted()
        await clients.replace_producer()
        self._not_before_s = time.monotonic() + REFUSED_BACKOFF_S
        asyncio.get_running_loop().call_later(REFUSED_BACKOFF_S, self.wake)


def _flush_and_commit(transaction: TransactionalProducer) -> EndResult | None:
    """Return how it ended, None if it did not come to a commit."""
    try:
        transaction.flush(FLUSH_S_MAX)
    except OnceflowError as error:
        log.warning(LogEvent.EPOCH_ABORTED, error=str(error))
        return None
    return transaction.commit_transaction(COMMIT_S_MAX)
