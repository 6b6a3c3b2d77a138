"""The writer's thread: one hand-off per batch, one sync for all that waits.

While a sync runs, requests gather; the next sync covers them all. That is group commit: the more
a replica has to do, the more each sync carries. After a failure nothing is written any more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.limits import MAX_BATCH_BYTES
from onceflow_consensus.raft.messages import payload_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest

_JOIN_S = 30.0
"""Longest wait for the last sync when closing: a disk that takes longer is broken."""


class LogWriter:
    """Persists requests in the order in which they were submitted.

    ``on_written`` gets the requests that one sync made durable, in order; ``on_failed`` the error,
    once. Both are called in the writer's thread and hand over to the engine's.
    """

    def __init__(
        self,
        log: DurableLog,
        on_written: Callable[[list[WriteRequest]], None],
        on_failed: Callable[[StorageFailed], None],
    ) -> None:
        self._log = log
        self._on_written = on_written
        self._on_failed = on_failed
        self._waiting: list[WriteRequest] = []
        self._wake = threading.Condition()
        self._is_closing = False
        self._failure: StorageFailed | None = None
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, request: WriteRequest) -> None:
        """Queue a request. Returns at once.

        Raises:
            StorageFailed: the disk failed before, or the writer is closed; stop the replica.
        """
        with self._wake:
            if self._failure is not None:
                raise self._failure
            if self._is_closing:
                raise StorageFailed("the log's writer is closed; nothing more is written")
            self._waiting.append(request)
            self._wake.notify()

    def close(self) -> None:
        """Write what waits, mark the log as closed in order, and end the thread. Idempotent.

        Raises:
            StorageFailed: the last write did not end in time.
        """
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            raise StorageFailed(
                f"the disk did not finish a write within {_JOIN_S} s; what was not acknowledged "
                "may be lost. Check the disk before starting the replica again."
            )

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._log.persist(batch)
                self._on_written(batch)
            self._log.close()
        except StorageFailed as failure:
            with self._wake:
                self._failure = failure
            self._on_failed(failure)

    def _next_batch(self) -> list[WriteRequest]:
        with self._wake:
            while not self._waiting and not self._is_closing:
                self._wake.wait()
            count, size = 0, 0
            for request in self._waiting:
                size += payload_bytes(request.entries)
                if count and size > MAX_BATCH_BYTES:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            return batch
