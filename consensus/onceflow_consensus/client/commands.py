"""Commands of one session that are not answered: their numbers, their order, their repetition.

Theory of operation: commands get numbers in the order of ``add`` and are sent in that order. If
anything makes it doubtful whether a member took them in order (another connection, a refusal, a
gap), *all* unanswered ones are sent again from the first, which is safe because the group carries
out each number once. A command whose caller gave up keeps its number and is repeated all the same,
since later ones wait for it.
Sans-IO: futures are set, nothing is sent here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import GroupUnreachable, RequestRefused, SessionLost
from onceflow_consensus.limits import MAX_UNANSWERED_COMMANDS
from onceflow_consensus.sessions import Status
from onceflow_consensus.transport.requests import Submit

if TYPE_CHECKING:
    import asyncio

_FRAME_BYTES = 128 * 1024
"""Commands in one frame, beyond the first. A thousand at once make several frames, so that the
group works on some while the client takes the answers to others."""

_OK = int(Status.OK)
_REPEATED = frozenset({Status.SEQUENCE_GAP, Status.TOO_MANY_UNANSWERED})
_LOST = frozenset({Status.SESSION_EXPIRED, Status.SESSION_UNKNOWN})
_WINDOW = MAX_UNANSWERED_COMMANDS // 2
"""Commands that have a number and no answer: half of what a session keeps, since the group learns
of answers only with the next command."""


@dataclass(slots=True)
class Waiting:
    """A command and who waits for its response until when, by the loop's clock."""

    command: bytes
    future: asyncio.Future[bytes]
    deadline_s: float


class Commands:
    """The commands of a client.

    session: its number in the group, zero while it has none.
    """

    def __init__(self) -> None:
        self.session = 0
        self._next_sequence = 1
        self._unsent_sequence = 1
        self._unanswered: dict[int, Waiting] = {}
        self._beyond: deque[Waiting] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether ``take_unsent`` would return anything."""
        return self._unsent_sequence < self._next_sequence

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for an answer."""
        return not self._unanswered

    def add(self, waiting: Waiting) -> None:
        """Take a command; it gets its number as soon as the window has room."""
        if self._beyond or len(self._unanswered) >= _WINDOW:
            self._beyond.append(waiting)
        else:
            self._number(waiting)

    def _number(self, waiting: Waiting) -> None:
        self._unanswered[self._next_sequence] = waiting
        self._next_sequence += 1

    @property
    def first_unanswered(self) -> int:
        """Return the lowest number without an answer."""
        return next(iter(self._unanswered), self._next_sequence)

    def send_again(self) -> None:
        """Let everything unanswered be sent once more, in order."""
        self._unsent_sequence = self.first_unanswered

    def take_unsent(self, request_id: int) -> Submit | None:
        """Return a request with commands that were not sent, None if there are none."""
        first = self._unsent_sequence
        commands: list[bytes] = []
        size_bytes = 0
        unanswered = self._unanswered
        while self._unsent_sequence < self._next_sequence:
            waiting = unanswered[self._unsent_sequence]
            size_bytes += len(waiting.command)
            if commands and size_bytes > _FRAME_BYTES:
                break
            commands.append(waiting.command)
            self._unsent_sequence += 1
        if not commands:
            return None
        return Submit(request_id, self.session, self.first_unanswered, first, commands)

    def answered(self, first_sequence: int, outcomes: list[bytes]) -> bool:
        """Take outcomes; return False if some have to be sent again.

        Raises:
            SessionLost: the session ended; all that waits is told so.
        """
        unanswered = self._unanswered
        is_whole = True
        for sequence, outcome in enumerate(outcomes, first_sequence):
            if outcome[0] != _OK:
                is_whole = self._take_other(sequence, outcome) and is_whole
                continue
            waiting = unanswered.pop(sequence, None)
            if waiting is not None and not waiting.future.done():
                waiting.future.set_result(outcome[1:])
        self._unsent_sequence = max(self._unsent_sequence, self.first_unanswered)
        while self._beyond and len(unanswered) < _WINDOW:
            self._number(self._beyond.popleft())
        return is_whole

    def _take_other(self, sequence: int, outcome: bytes) -> bool:
        status = Status(outcome[0])
        if status in _LOST:
            lost = SessionLost(
                "the session ended, so that it is not known which of its unanswered commands took "
                "effect; look at the state, then open another session"
            )
            self.fail(lost)
            raise lost
        if status in _REPEATED:
            return False
        waiting = self._unanswered.pop(sequence, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_exception(RequestRefused(f"the group refused a command: {status}"))
        return True

    def give_up_late(self, now_s: float) -> None:
        """Tell those whose time is over; their commands go on being repeated."""
        for waiting in (*self._unanswered.values(), *self._beyond):
            if waiting.deadline_s > now_s:
                break
            if not waiting.future.done():
                waiting.future.set_exception(
                    GroupUnreachable(
                        "no member answered in time; the command may still take effect, once at "
                        "most. Check the addresses and the members."
                    )
                )

    def fail(self, error: Exception) -> None:
        """Tell everyone that waits, and be without a session, whose numbers begin anew."""
        for waiting in (*self._unanswered.values(), *self._beyond):
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._unanswered.clear()
        self._beyond.clear()
        self.session = 0
        self._next_sequence = self._unsent_sequence = 1
