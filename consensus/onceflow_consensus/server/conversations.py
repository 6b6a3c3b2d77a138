"""A client's connection as the server sees it: how much it waits for, and answers of one turn.

Must never import anything that decides what an answer is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.limits import MAX_CLIENT_QUEUE_BYTES
from onceflow_consensus.transport.requests import Refused, encode

if TYPE_CHECKING:
    from onceflow_consensus.server.counters import Counters
    from onceflow_consensus.transport.connection import FrameLink
    from onceflow_consensus.transport.requests import Answer, Refusal


class Conversation:
    """One client.

    outstanding: commands and queries that were taken and not answered. Kept by whoever takes and
        answers them; bounded by whoever takes them.
    """

    __slots__ = ("_outbox", "link", "outstanding")

    def __init__(self, link: FrameLink, outbox: Outbox) -> None:
        self.link = link
        self.outstanding = 0
        self._outbox = outbox

    def answer(self, answer: Answer, count: int = 0) -> None:
        """Send an answer at the end of the turn; ``count`` commands or queries are answered."""
        self.outstanding -= count
        if self.link.is_open:
            self.link.send(encode(answer))
            self._outbox.unsent.append(self.link)

    def refuse(self, request_id: int, refusal: Refusal, count: int = 0, detail: str = "") -> None:
        """Send a refusal, with the leader's address as far as it is known."""
        self._outbox.count(refusal)
        leader_address = self._outbox.leader_address
        self.answer(Refused(request_id, refusal, leader_address, detail), count)


class Outbox:
    """Answers of the present turn to all clients.

    leader_address: where clients reach the leader, empty if none is known; kept by the driver.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.unsent: list[FrameLink] = []
        self.leader_address = ""

    def count(self, refusal: Refusal) -> None:
        """Count a refusal by its kind."""
        name = refusal.name
        if name == "NOT_LEADER":
            self._counters.refused_not_leader_total += 1
        elif name == "OVERLOADED":
            self._counters.refused_overloaded_total += 1
        else:
            self._counters.refused_other_total += 1

    def flush(self) -> None:
        """Write the answers, all of one client in one piece. Cut off who does not read them."""
        unsent, self.unsent = self.unsent, []
        for link in unsent:
            if link.has_gathered:
                link.flush()
                if link.queued_bytes > MAX_CLIENT_QUEUE_BYTES:
                    link.abort()
