"""What happens to messages: loss, delay, duplication, reordering, replay, cuts and clogged links.

A message is under way until its time comes. A cut link drops what arrives, a clogged one holds it
back. Cuts are one-way: to cut both ways, cut twice. Everything ever sent may come again.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.testing.simulator.plan import Setup

_REMEMBERED_MESSAGES = 512

Link = tuple["PeerId", "PeerId"]
"""From whom, to whom."""


class Network:
    """Decides the fate of each message. ``arrive`` lets one arrive after some milliseconds.

    loss, duplication, extra_delay_ms: as they are at present; ``calm`` restores the setup's.
    cuts, clogs: until when a link is cut or clogged.
    """

    def __init__(
        self,
        setup: Setup,
        choice: Random,
        counts: Counter[str],
        arrive: Callable[[PeerMessage, int], None],
    ) -> None:
        self._setup = setup
        self._choice = choice
        self._counts = counts
        self._arrive = arrive
        self._sent: deque[PeerMessage] = deque(maxlen=_REMEMBERED_MESSAGES)
        self._delays_ms = setup.delays_ms
        self.cuts: dict[Link, int] = {}
        self.clogs: dict[Link, int] = {}
        self.calm()

    def calm(self) -> None:
        """End a storm."""
        self.loss = self._setup.loss
        self.duplication = self._setup.duplication
        self.extra_delay_ms = 0
        self._has_losses = bool(self.loss or self.duplication)

    def rage(self, loss: float, duplication: float, extra_delay_ms: int) -> None:
        """Begin a storm: more is lost, doubled and delayed."""
        self.loss, self.duplication, self.extra_delay_ms = loss, duplication, extra_delay_ms
        self._has_losses = True

    def heal(self) -> None:
        """End all cuts, clogs and storms."""
        self.cuts.clear()
        self.clogs.clear()
        self.calm()

    def become_perfect(self) -> None:
        """Heal, and lose, double and delay nothing more."""
        self.heal()
        self.loss = self.duplication = 0.0
        self._has_losses = False
        self._delays_ms = (1,)

    def send(self, messages: Iterable[PeerMessage]) -> list[PeerMessage]:
        """Let messages go; return those that are lost at once."""
        lost: list[PeerMessage] = []
        draw = self._choice.random
        delays = self._delays_ms
        for message in messages:
            self._sent.append(message)
            if self._has_losses:
                fate = draw()
                if fate < self.loss:
                    self._counts["messages lost"] += 1
                    lost.append(message)
                    continue
                if fate > 1 - self.duplication:
                    self._counts["messages doubled"] += 1
                    self._arrive(message, delays[int(draw() * len(delays))] * 3)
            delay_ms = delays[int(draw() * len(delays))] + self.extra_delay_ms
            self._arrive(message, delay_ms)
        return lost

    def replay(self, count: int) -> None:
        """Let messages of the past arrive again."""
        for _ in range(min(count, len(self._sent))):
            self._counts["messages replayed"] += 1
            self._arrive(self._choice.choice(self._sent), 1)

    def obstacle(self, link: Link, now_ms: int) -> int | None:
        """Return how a link hinders what arrives: held back for so many ms, zero if dropped."""
        if self.cuts and self.cuts.get(link, 0) > now_ms:
            self._counts["messages cut off"] += 1
            return 0
        if self.clogs and (until := self.clogs.get(link, 0)) > now_ms:
            self._counts["messages held back"] += 1
            return until - now_ms + self._choice.randrange(3)
        return None
