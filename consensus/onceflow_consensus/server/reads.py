"""Queries of clients: which wait for what, and the rounds that confirm that reads are current.

Theory of operation: a *round* asks the engine for an index at which a read is linearizable. All
reads that came before a round begins share it; those that come meanwhile share the next. When the
round's index is applied here, the state reflects everything that was answered before the round
began. The same rounds bound staleness without comparing clocks: a state that reflects a round which
began at most ``max_age`` ago is no older than that.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow_consensus.errors import ReadDropped
from onceflow_consensus.limits import MAX_COMMAND_BYTES, MAX_OUTSTANDING_COMMANDS
from onceflow_consensus.transport.requests import Consistency, ReadAnswered, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.replica import Replica
    from onceflow_consensus.server.conversations import Conversation
    from onceflow_consensus.server.counters import Counters
    from onceflow_consensus.transport.requests import Read

ROUND_TIMEOUT_S = 0.5
"""After this a round counts as lost, like any message, and its reads are refused: their clients ask
again, at another member if this one is cut off."""

_CONTEXT_BYTES = 8


@dataclass(slots=True)
class _Round:
    number: int
    began_s: float
    reads: list[_Waiting]


@dataclass(slots=True)
class _Waiting:
    conversation: Conversation
    read: Read


@dataclass(order=True, slots=True)
class _Parked:
    """Reads that wait until ``index`` is applied; ``round_began_s`` is set if a round told it."""

    index: int
    parked_s: float
    round_began_s: float = field(compare=False)
    reads: list[_Waiting] = field(compare=False)


class Reads:
    """Reads that were taken and not answered.

    fresh_s: the state reflects a round that began then, by the loop's clock.
    """

    def __init__(
        self, counters: Counters, clock: Callable[[], float], query: Callable[[bytes], bytes]
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._query = query
        self._applied_index = 0
        self._gathered: list[_Waiting] = []
        self._round: _Round | None = None
        self._round_number = 0
        self._parked: list[_Parked] = []
        self._fresh_s = float("-inf")

    def take(self, conversation: Conversation, read: Read) -> None:
        """Take queries: answer them, or let them wait for what their consistency asks for."""
        count = len(read.queries)
        if not count or max(map(len, read.queries)) > MAX_COMMAND_BYTES:
            detail = f"a query must have at most {MAX_COMMAND_BYTES} bytes"
            conversation.refuse(read.request_id, Refusal.BAD_REQUEST, 0, detail)
            return
        if conversation.outstanding + count > MAX_OUTSTANDING_COMMANDS:
            conversation.refuse(read.request_id, Refusal.OVERLOADED)
            return
        conversation.outstanding += count
        waiting = _Waiting(conversation, read)
        if self._needs_round(read):
            self._gathered.append(waiting)
        elif read.min_index > self._applied_index:
            parked = _Parked(read.min_index, self._clock(), float("-inf"), [waiting])
            heapq.heappush(self._parked, parked)
        else:
            self._answer(waiting)

    def _needs_round(self, read: Read) -> bool:
        if read.consistency is Consistency.LINEARIZABLE:
            return True
        if read.consistency is Consistency.SESSION or not read.max_age_ms:
            return False
        return self._clock() - self._fresh_s > read.max_age_ms / 1000

    def begin_round(self, replica: Replica) -> None:
        """Ask for confirmation of the reads that gathered, unless a round is under way."""
        if self._round is not None or not self._gathered:
            return
        self._round_number += 1
        reads, self._gathered = self._gathered, []
        self._round = _Round(self._round_number, self._clock(), reads)
        try:
            replica.read_index(self._round_number.to_bytes(_CONTEXT_BYTES, "big"))
        except ReadDropped:
            self._round = None
            self._refuse(reads)

    def confirmed(self, context: bytes, index: int) -> None:
        """Take the engine's answer to a round; those to rounds that were given up do nothing."""
        current = self._round
        if current is None or int.from_bytes(context, "big") != current.number:
            return
        self._round = None
        self._counters.read_rounds_total += 1
        parked = _Parked(index, current.began_s, current.began_s, current.reads)
        heapq.heappush(self._parked, parked)

    def applied(self, index: int) -> None:
        """Answer the reads that waited for an index up to ``index``."""
        self._applied_index = index
        while self._parked and self._parked[0].index <= index:
            parked = heapq.heappop(self._parked)
            self._fresh_s = max(self._fresh_s, parked.round_began_s)
            for waiting in parked.reads:
                self._answer(waiting)

    def tick(self) -> None:
        """Give up what waits for too long."""
        late_s = self._clock() - ROUND_TIMEOUT_S
        if self._round is not None and self._round.began_s < late_s:
            reads, self._round = self._round.reads, None
            self._refuse(reads)
        if self._parked and min(each.parked_s for each in self._parked) < late_s:
            late = [each for each in self._parked if each.parked_s < late_s]
            self._parked = [each for each in self._parked if each.parked_s >= late_s]
            heapq.heapify(self._parked)
            for each in late:
                self._refuse(each.reads)

    def refuse_all(self, refusal: Refusal) -> None:
        """Refuse everything that waits."""
        reads = self._gathered
        self._gathered = []
        if self._round is not None:
            reads.extend(self._round.reads)
            self._round = None
        for each in self._parked:
            reads.extend(each.reads)
        self._parked = []
        for waiting in reads:
            read = waiting.read
            waiting.conversation.refuse(read.request_id, refusal, len(read.queries))

    def _refuse(self, reads: list[_Waiting]) -> None:
        for waiting in reads:
            read = waiting.read
            is_linearizable = read.consistency is Consistency.LINEARIZABLE
            refusal = Refusal.NOT_LEADER if is_linearizable else Refusal.TOO_STALE
            waiting.conversation.refuse(read.request_id, refusal, len(read.queries))

    def _answer(self, waiting: _Waiting) -> None:
        read = waiting.read
        results = [self._query(question) for question in read.queries]
        self._counters.queries_total += len(results)
        answer = ReadAnswered(read.request_id, self._applied_index, results)
        waiting.conversation.answer(answer, len(results))
