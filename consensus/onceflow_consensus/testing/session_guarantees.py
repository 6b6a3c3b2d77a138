"""Checker of the session guarantees, and the command ``... .session_guarantees FILE`` around it.

The four of Terry and others ("Session guarantees for weakly consistent replicated data", 1994); a
process of the history is a session:

- read your writes: a read shows what the session wrote before, or something newer;
- monotonic reads: a read shows what the session saw before, or something newer;
- monotonic writes: what a session writes is newer than what it wrote before;
- writes follow reads: what a session writes is newer than what it saw before.

The history tells values, not which is newer. Each guarantee therefore says of two values of a key
that one is not newer than the other, and a history keeps all four exactly if these statements go
round in no circle; a circle is the counterexample. What a session saw includes what stood before
it: who sees a write has seen all that its writer had written and seen, of other keys too.
So that a value tells its write, no key may be given the same value twice, nor null.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.testing.casefile import EXIT_DIFFERENCE, EXIT_PASS
from onceflow_consensus.testing.history import (
    NOTHING,
    HistoryUnreadable,
    Op,
    Operation,
    Outcome,
    run_checker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Guarantee(Enum):
    """Why one value is not newer than another."""

    READ_YOUR_WRITES = "read your writes"
    MONOTONIC_READS = "monotonic reads"
    MONOTONIC_WRITES = "monotonic writes"
    WRITES_FOLLOW_READS = "writes follow reads"
    BEGINNING = "what a key begins with is older than what is written to it"
    ONLY_WRITTEN = "what is read was written before"


@dataclass(frozen=True, slots=True)
class Statement:
    """``older`` is not newer than ``newer``, because ``operation`` came when ``older`` was known.

    ``operation`` is None for what a key begins with, which is older than everything.
    """

    older: str
    newer: str
    guarantee: Guarantee
    operation: Operation | None

    def text(self) -> str:
        """Return the statement in one line, for people."""
        because = "it begins with it" if self.operation is None else self.operation.text()
        return f"{self.older} before {self.newer} ({self.guarantee.value}): {because}"


_Author = tuple[str, int]
"""Who wrote a value: a session and the number of its write. One of unknown outcome has no place in
its session's order, and counts as a session of its own."""


@dataclass(slots=True)
class _Session:
    """What a session knows: of each author, how many of its writes."""

    writes: int = 0
    known: dict[str, int] = field(default_factory=dict[str, int])

    def learn(self, others: dict[str, int]) -> None:
        for author, count in others.items():
            if self.known.get(author, 0) < count:
                self.known[author] = count


class _Judge:
    """Reads a history in order of time and collects its statements, key by key."""

    def __init__(self) -> None:
        self.statements: defaultdict[str, list[Statement]] = defaultdict(list)
        self._sessions: dict[str, _Session] = {}
        self._past: dict[tuple[str, str], dict[str, int]] = {}
        self._written: dict[str, dict[str, tuple[list[int], list[str]]]] = {}

    def take_write(self, item: Operation) -> None:
        """Take the beginning of an update: whatever its session knows is older."""
        session = self._sessions.setdefault(item.process, _Session())
        name = (item.key, item.value)
        if name in self._past or item.value == NOTHING:
            raise HistoryUnreadable(
                f"{item.value} is written to key {item.key} twice, or is null: a read of it does "
                "not tell whose it is"
            )
        if item.op is Op.CAS and item.outcome is Outcome.OK:
            self._see(session, item, item.expected)
        for author, value in self._known_values(session, item.key):
            guarantee = (
                Guarantee.MONOTONIC_WRITES
                if author == item.process
                else Guarantee.WRITES_FOLLOW_READS
            )
            self._state(item, value, item.value, guarantee)
        if item.op is Op.CAS:
            # Also of one whose outcome nobody knows: if it happened, it found this.
            self._state(item, item.expected, item.value, Guarantee.WRITES_FOLLOW_READS)
        self.statements[item.key].append(Statement(NOTHING, item.value, Guarantee.BEGINNING, None))
        author, number = self._author(session, item)
        self._past[name] = {**session.known, author: number}
        numbers, values = self._written.setdefault(item.key, {}).setdefault(author, ([], []))
        numbers.append(number)
        values.append(item.value)
        if item.outcome is Outcome.OK:
            session.known[author] = number

    def take_read(self, item: Operation) -> None:
        """Take the end of a read: whatever its session knows is not newer than what it shows."""
        session = self._sessions.setdefault(item.process, _Session())
        self._see(session, item, item.value)

    def _see(self, session: _Session, item: Operation, seen: str) -> None:
        for author, value in self._known_values(session, item.key):
            guarantee = (
                Guarantee.READ_YOUR_WRITES if author == item.process else Guarantee.MONOTONIC_READS
            )
            self._state(item, value, seen, guarantee)
        past = self._past.get((item.key, seen))
        if past is not None:
            session.learn(past)
        elif seen != NOTHING and item.op is Op.READ:
            # A circle of one. A compare-and-set in turn may have found what was written after it
            # had begun.
            self.statements[item.key].append(Statement(seen, seen, Guarantee.ONLY_WRITTEN, item))

    def _author(self, session: _Session, item: Operation) -> _Author:
        if item.outcome is Outcome.UNKNOWN:
            return f"{item.process} at {item.invoked}", 1
        session.writes += 1
        return item.process, session.writes

    def _known_values(self, session: _Session, key: str) -> Iterator[tuple[str, str]]:
        """Yield the newest value of the key that is known of each author."""
        for author, (numbers, values) in self._written.get(key, {}).items():
            count = bisect_right(numbers, session.known.get(author, 0))
            if count:
                yield author, values[count - 1]

    def _state(self, item: Operation, older: str, newer: str, guarantee: Guarantee) -> None:
        if older != newer:
            self.statements[item.key].append(Statement(older, newer, guarantee, item))


def check_sessions(operations: Sequence[Operation]) -> list[Statement]:
    """Return the shortest circle of statements, nothing if all four guarantees are kept.

    Raises:
        HistoryUnreadable: a key is given the same value twice, or null.
    """
    judge_ = _Judge()
    writes = [(item.invoked, item) for item in operations if item.is_update]
    reads = [
        (item.returned, item)
        for item in operations
        if item.op is Op.READ and item.returned is not None
    ]
    for _, item in sorted(writes + reads, key=lambda pair: pair[0]):
        if item.is_update:
            judge_.take_write(item)
        else:
            judge_.take_read(item)
    circles = [_shortest_circle(statements) for statements in judge_.statements.values()]
    return min((circle for circle in circles if circle), key=len, default=list[Statement]())


def _shortest_circle(statements: Sequence[Statement]) -> list[Statement]:
    following: dict[str, dict[str, Statement]] = {}
    for statement in statements:
        following.setdefault(statement.older, {}).setdefault(statement.newer, statement)
    shortest: list[Statement] = []
    for start in _on_circles(following):
        circle = _circle_from(start, following)
        if circle and (not shortest or len(circle) < len(shortest)):
            shortest = circle
    return shortest


def _on_circles(following: dict[str, dict[str, Statement]]) -> set[str]:
    """Return values among which all circles are: few, unless there are circles."""
    forwards = {older: set(edges) for older, edges in following.items()}
    backwards: dict[str, set[str]] = {}
    for older, edges in forwards.items():
        for newer in edges:
            backwards.setdefault(newer, set()).add(older)
    values = set(forwards) | set(backwards)
    return _led_to(_led_to(values, forwards, backwards), backwards, forwards)


def _led_to(
    values: set[str], forwards: dict[str, set[str]], backwards: dict[str, set[str]]
) -> set[str]:
    """Return the values without those to which nothing leads, and so on."""
    none: set[str] = set()
    left = set(values)
    sources = {value: len(backwards.get(value, none) & left) for value in left}
    ready = [value for value, count in sources.items() if count == 0]
    while ready:
        value = ready.pop()
        left.discard(value)
        for newer in forwards.get(value, none) & left:
            sources[newer] -= 1
            if sources[newer] == 0:
                ready.append(newer)
    return left


def _circle_from(start: str, following: dict[str, dict[str, Statement]]) -> list[Statement]:
    """Return the shortest circle through a value, nothing if there is none."""
    came_by: dict[str, Statement] = {}
    ahead = deque([start])
    while ahead and start not in came_by:
        value = ahead.popleft()
        for newer, statement in following.get(value, {}).items():
            if newer not in came_by:
                came_by[newer] = statement
                ahead.append(newer)
    circle: list[Statement] = []
    value = start
    while value in came_by and (not circle or value != start):
        circle.append(came_by[value])
        value = came_by[value].older
    return circle[::-1] if circle and value == start and start in came_by else []


def judge(operations: list[Operation]) -> tuple[int, str]:
    """Return the exit code and the verdict in words.

    Raises:
        HistoryUnreadable: a key is given the same value twice, or null.
    """
    circle = check_sessions(operations)
    if not circle:
        sessions = len({item.process for item in operations})
        return EXIT_PASS, f"valid: {len(operations)} operations of {sessions} sessions"
    return EXIT_DIFFERENCE, "\n".join(
        ["invalid: these statements go round in a circle", *(item.text() for item in circle)]
    )


if __name__ == "__main__":
    sys.exit(run_checker("session_guarantees", judge, sys.argv[1:]))
