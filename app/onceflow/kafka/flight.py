"""How much has been handed to the event loop and is not finished: the measure of back-pressure.

Decides when the poll thread must stop fetching and when it may go on. Two threads share it without
a lock: *handed over* is only added to by the poll thread, *finished* only by the event loop, and
what is in flight is their difference. ``Bounds`` are the sizes and times that the thread keeps to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from onceflow import limits


class Flow(Enum):
    """State of the back-pressure.

    OPEN -> HELD (too much in flight) -> OPEN (half done) or PAUSED (it lasts) -> OPEN (half done).
    """

    OPEN = "open"
    HELD = "held"
    PAUSED = "paused"


class Flight:
    """Records and bytes in flight, with a high mark and its half as the low one."""

    __slots__ = (
        "_bytes_max",
        "_finished_bytes",
        "_finished_records",
        "_posted_bytes",
        "_posted_records",
        "_records_max",
    )

    def __init__(self, records_max: int, bytes_max: int) -> None:
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._posted_records = self._posted_bytes = 0
        self._finished_records = self._finished_bytes = 0

    def post(self, records: int, size_bytes: int) -> None:
        """Count what is handed over. Poll thread only."""
        self._posted_records += records
        self._posted_bytes += size_bytes

    def finish(self, records: int, size_bytes: int) -> None:
        """Count what is finished or dropped. Event loop only."""
        self._finished_records += records
        self._finished_bytes += size_bytes

    @property
    def records(self) -> int:
        """Records in flight."""
        return self._posted_records - self._finished_records

    @property
    def size_bytes(self) -> int:
        """Bytes of keys and values in flight."""
        return self._posted_bytes - self._finished_bytes

    def is_full(self) -> bool:
        """Whether the high mark is reached."""
        return self.records >= self._records_max or self.size_bytes >= self._bytes_max

    def is_half_done(self) -> bool:
        """Whether there is room again: both measures at or below half of their mark."""
        return self.records * 2 <= self._records_max and self.size_bytes * 2 <= self._bytes_max


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes and times of the poll thread; the reasons of the defaults stand in ``limits``."""

    run_records_max: int = limits.RUN_RECORDS_MAX
    poll_records_max: int = limits.POLL_RECORDS_MAX
    poll_linger_s: float = limits.POLL_LINGER_S
    poll_idle_s: float = limits.POLL_IDLE_S
    flight_records_max: int = limits.FLIGHT_RECORDS_MAX
    flight_bytes_max: int = limits.FLIGHT_BYTES_MAX
    hold_s: float = limits.HOLD_S
    revoke_s: float = limits.REVOKE_S_MAX
    lost_s: float = limits.LOST_S_MAX


DEFAULT_BOUNDS = Bounds()
