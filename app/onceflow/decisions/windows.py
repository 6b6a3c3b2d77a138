"""Arithmetic of tumbling and hopping windows, equal to Faust's to the last bit.

Decides which windows a timestamp falls into and when they expire. Ranges are part of the keys in
changelogs that stock Faust wrote and reads, so they must come out exactly as its compiled windows
make them: a window of ``size`` seconds is ``(start, start + size - 0.1)``, as floats. Source:
https://github.com/faust-streaming/faust/blob/v0.15.3/faust/_cython/windows.pyx

Faust's ``ranges`` counts in whole seconds, so a fractional size or step loses windows there or
raises; those are refused here. (It also counts steps in a 32-bit integer, so that one-second steps
overflow in 2038; here they do not.) Times are seconds since 1970, always passed in; never a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Final

from onceflow.errors import ConfigError

WindowRange = tuple[float, float]
"""First and last moment of a window in seconds, both inside it, as Faust writes them."""

_END_GAP_S: Final = 0.1
"""Faust's distance between a window's last moment and the next window's start."""


@dataclass(frozen=True, slots=True)
class HoppingWindows:
    """Windows of ``size_s`` that begin every ``step_s``; tumbling if both are equal.

    ``expires_s`` is 0 for windows that are kept for ever, which is Faust's default.

    Raises:
        ConfigError: a size or step that Faust's arithmetic cannot count in.
    """

    size_s: float
    step_s: float
    expires_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("size", self.size_s), ("step", self.step_s)):
            if value < 1 or value != int(value):
                raise ConfigError(
                    f"a window's {name} of {value} s cannot be used: Faust's windows, whose ranges "
                    f"are the keys of the table's changelog, count in whole seconds, and with a "
                    f"fraction records fall into no window or into one that is never read. Use a "
                    f"whole number of seconds, at least 1."
                )
        if self.expires_s < 0:
            raise ConfigError(
                f"windows cannot expire after {self.expires_s} s: use 0 to keep them for ever."
            )

    def ranges(self, timestamp_s: float) -> list[WindowRange]:
        """All windows that a record at ``timestamp_s`` falls into, oldest first."""
        first = int(self._earliest_start(timestamp_s))
        size_s = self.size_s
        return [
            # Added in Faust's order: the sum of floats depends on it.
            (float(start), start + size_s - _END_GAP_S)
            for start in range(first, int(timestamp_s) + 1, int(self.step_s))
        ]

    def current(self, timestamp_s: float) -> WindowRange:
        """The newest window that holds ``timestamp_s``."""
        start = self._current_start(timestamp_s)
        return (start, start + self.size_s - _END_GAP_S)

    def delta(self, timestamp_s: float, back_s: float) -> WindowRange:
        """The newest window that holds the moment ``back_s`` before ``timestamp_s``."""
        return self.current(timestamp_s - back_s)

    def earliest(self, timestamp_s: float) -> WindowRange:
        """The oldest window that holds ``timestamp_s``."""
        start = self._earliest_start(timestamp_s)
        return (start, start + self.size_s - _END_GAP_S)

    def stale(self, timestamp_s: float, latest_s: float) -> bool:
        """Whether Faust calls a timestamp expired when ``latest_s`` was seen."""
        if not self.expires_s:
            return False
        return timestamp_s <= self._current_start(latest_s - self.expires_s)

    def expired_before(self, stream_time_s: float) -> float | None:
        """Windows with an end at or before this moment are expired; None: none ever is.

        By event time: ``stream_time_s`` is the highest timestamp that the task has processed, so
        that a replay expires what the first run expired.
        """
        return stream_time_s - self.expires_s if self.expires_s else None

    def _earliest_start(self, timestamp_s: float) -> float:
        closest_step = floor(timestamp_s / self.step_s) * self.step_s
        return closest_step - self.size_s + self.step_s

    def _current_start(self, timestamp_s: float) -> float:
        start = self._earliest_start(timestamp_s)
        return start + self.step_s * floor((timestamp_s - start) / self.step_s)


def tumbling(size_s: float, expires_s: float = 0.0) -> HoppingWindows:
    """Windows that do not overlap.

    Raises:
        ConfigError: as ``HoppingWindows``.
    """
    return HoppingWindows(size_s, size_s, expires_s)
