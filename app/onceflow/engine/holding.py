"""Holds back the partitions whose rows a two-phase sink does not take at the moment.

A sink that is down aborts every epoch that has rows for it. Without this, those epochs would abort
the work of all other partitions again and again. So the partitions that had such rows are not read
after the rewind, the others go on, and what is held back is read again when the sink has answered
and a growing wait is over. Runs on the event loop only.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from onceflow.limits import PARTICIPANT_RETRY_S, PARTICIPANT_RETRY_S_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceflow.ids import Offset, Partition

log = get_logger(__name__)


class Holding:
    """The partitions that are held back.

    Fields:
        partitions: not read after a rewind. Invariant: emptied as a whole, by `release`.
        is_due: whether they may be read again, as soon as nothing is being aborted.
    """

    def __init__(self, due: Callable[[], None]) -> None:
        """Make it; ``due`` is called when ``is_due`` becomes true."""
        self.partitions: frozenset[Partition] = frozenset()
        self.is_due = False
        self._due = due
        self._wait_s = PARTICIPANT_RETRY_S
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, partitions: frozenset[Partition]) -> None:
        """Hold partitions back from the coming rewind on, until the sinks answer.

        Only for an epoch that is about to be aborted: what is read at the moment must be dropped
        before it can be read again.
        """
        if not partitions:
            return
        self.partitions |= partitions
        self.is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        log.error(
            LogEvent.PARTITIONS_HELD_BACK,
            partitions=sorted(f"{each.topic}-{each.number}" for each in self.partitions),
            meaning="a sink does not take their rows; the other partitions go on",
        )

    def answered(self) -> None:
        """All sinks have answered: read on after the wait."""
        if self.partitions and self._timer is None and not self.is_due:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._waited)
            self._wait_s = min(self._wait_s * 2, PARTICIPANT_RETRY_S_MAX)

    def prepared(self) -> None:
        """The sinks took an epoch: the next trouble begins with a short wait."""
        self._wait_s = PARTICIPANT_RETRY_S

    def _waited(self) -> None:
        self._timer = None
        self.is_due = True
        self._due()

    def release(self, committed: Mapping[Partition, Offset]) -> dict[Partition, Offset]:
        """Hold nothing back any more.

        Args:
            committed: committed offset of every claimed partition.

        Returns:
            Where to read what was held back, as far as it is still ours.
        """
        held, self.partitions, self.is_due = self.partitions, frozenset(), False
        return {partition: at for partition, at in committed.items() if partition in held}
