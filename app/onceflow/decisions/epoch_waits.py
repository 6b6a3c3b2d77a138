"""How long a worker waits before it opens the gate, or takes partitions over, again.

Decided by why attempts were given up, so that nothing is tried again in a hot loop. Must never
import clocks: the wait is a number in an effect.
"""

from __future__ import annotations

from typing import Final

from onceflow.limits import PARTICIPANT_RETRY_S, PARTICIPANT_RETRY_S_MAX, REFUSED_BACKOFF_S

_DOUBLINGS_MAX: Final = 10
"""Bound of the exponent; the wait is at its own bound long before."""


class Waits:
    """The wait before the next opening or takeover."""

    def __init__(self) -> None:
        self._wait_s = 0.0
        """Set by failures, used up by ``take``."""
        self._given_up_in_a_row = 0
        """Attempts without a commit in between."""

    def record_failed(self, after_s: float) -> None:
        """The failure policy said how long."""
        self._wait_s = after_s

    def offsets_refused(self) -> None:
        """News of the group is on the way."""
        self._wait_s = REFUSED_BACKOFF_S

    def unasked(self) -> None:
        """The reason may come again at once: from the second time on wait."""
        if self._given_up_in_a_row:
            self._wait_s = REFUSED_BACKOFF_S

    def participant_refused(self) -> None:
        """Participants do not take the epoch: wait longer each time, up to a bound."""
        doubled_s = PARTICIPANT_RETRY_S * 2.0 ** min(self._given_up_in_a_row, _DOUBLINGS_MAX)
        self._wait_s = min(doubled_s, PARTICIPANT_RETRY_S_MAX)

    def given_up(self) -> None:
        """An attempt was dropped."""
        self._given_up_in_a_row += 1

    def committed(self) -> None:
        """A transaction was committed."""
        self._given_up_in_a_row = 0

    def take(self) -> float:
        """The wait in seconds, once."""
        wait_s, self._wait_s = self._wait_s, 0.0
        return wait_s
