"""The search for an order: can these operations on one key have happened one after another?

Wing and Gong's search with Lowe's memory of configurations ("Testing for linearizability", 2017),
and these prunings, each of which loses no order:

- A read that fits is taken at once: it changes nothing, so that taking it earlier never harms.
- A value is not left while somebody is still to see it, unless it will be written once more.
- A write that nobody sees is put directly before another write, together with all its like.
- An operation of unknown outcome is taken only if somebody who can come next needs what it writes:
  otherwise the order is as good without it. Of several alike the first is tried, and of two
  configurations that differ only in them the one with fewer taken.

A configuration is what was taken, and the value it left. The operations that ended are counted
from the first that was not taken, so that a long history needs no long sets.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from onceflow_consensus.testing.history import (
    NOTHING,
    HistoryUnreadable,
    Op,
    Operation,
    Outcome,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_CONFIGURATIONS = 2_000_000
"""Configurations that are searched per key: about a gigabyte. The question is NP-complete, so that
a history of many concurrent writes of few values can exceed any bound."""

_UNSEEN = "(a value that nobody sees)"
"""Stands for every value that no operation needs; not JSON, so that it equals no value."""


class _Configuration(NamedTuple):
    """What was taken so far.

    base: all required operations below are taken.
    taken: a set of bits; bit n says that the required operation ``base + n`` is taken.
    optional_taken: likewise for the operations of unknown outcome, from the first.
    value: what the key holds.
    """

    base: int
    taken: int
    optional_taken: int
    value: str


def is_linearizable(operations: Sequence[Operation]) -> bool:
    """Whether operations on one key can be ordered within their time so that each saw what it saw.

    Args:
        operations: all of one key, in the order in which they began.

    Raises:
        HistoryUnreadable: the search exceeds ``MAX_CONFIGURATIONS``; nothing is known.
    """
    return _Search(operations).succeeds()


def _relevant(operations: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
    """Return the required operations, and those of unknown outcome that can matter."""
    required = [item for item in operations if item.outcome is Outcome.OK]
    optional = [item for item in operations if item.outcome is Outcome.UNKNOWN and item.is_update]
    while True:
        needed = _needed_values([*required, *optional])
        kept = [item for item in optional if item.value in needed]
        if len(kept) == len(optional):
            return required, kept
        optional = kept


def _needed_values(operations: Sequence[Operation]) -> set[str]:
    return {
        item.value if item.op is Op.READ else item.expected
        for item in operations
        if item.op is not Op.WRITE
    }


class _Search:
    def __init__(self, operations: Sequence[Operation]) -> None:
        self._required, self._optional = _relevant(operations)
        self._invoked = [item.invoked for item in self._required]
        self._optional_invoked = [item.invoked for item in self._optional]
        needed = _needed_values([*self._required, *self._optional])
        self._is_unseen = [
            item.op is Op.WRITE and item.value not in needed for item in self._required
        ]
        self._seers: dict[str, list[int]] = {}
        self._writers: dict[str, list[int]] = {}
        self._optional_writers: dict[str, list[int]] = {}
        self._met: dict[tuple[int, int, str], list[int]] = {}
        for index, item in enumerate(self._required):
            if item.op is not Op.WRITE:
                seen = item.value if item.op is Op.READ else item.expected
                self._seers.setdefault(seen, []).append(index)
            if item.is_update:
                self._writers.setdefault(item.value, []).append(index)
        for index, item in enumerate(self._optional):
            self._optional_writers.setdefault(item.value, []).append(index)

        self._known_values = {NOTHING, *self._writers, *self._optional_writers}

    def succeeds(self) -> bool:
        """Search depth first, and nowhere twice."""
        if any(value not in self._known_values for value in self._seers):
            return False
        first = self._with_reads(_Configuration(0, 0, 0, NOTHING))
        stack = [self._next_configurations(first)]
        configurations = 0
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                continue
            if following.base == len(self._required):
                return True
            if self._is_met(following):
                continue
            configurations += 1
            if configurations > MAX_CONFIGURATIONS:
                raise HistoryUnreadable(
                    f"undecided after {MAX_CONFIGURATIONS} configurations; record fewer "
                    "concurrent operations per key, or write distinct values"
                )
            stack.append(self._next_configurations(following))
        return first.base == len(self._required)

    def _is_met(self, at: _Configuration) -> bool:
        """Whether this was met before, or the same with more of the unknown left; remember it."""
        met = self._met.setdefault((at.base, at.taken, at.value), [])
        if any(taken & ~at.optional_taken == 0 for taken in met):
            return True
        met.append(at.optional_taken)
        return False

    def _enabled(self, at: _Configuration) -> tuple[list[int], int]:
        """Return the required operations that can come next, and when the first of them ends.

        An operation can come next unless another that is not taken ended before it began.
        """
        enabled: list[int] = []
        first_end = -1
        left = ~at.taken
        while True:
            bit = left & -left
            index = at.base + bit.bit_length() - 1
            if index >= len(self._required) or 0 <= first_end < self._invoked[index]:
                return enabled, first_end
            enabled.append(index)
            end = self._required[index].returned or 0
            first_end = end if first_end < 0 else min(first_end, end)
            left ^= bit

    def _with_reads(self, at: _Configuration) -> _Configuration:
        """Take every read that fits, until none is left that can come next."""
        while True:
            enabled, _ = self._enabled(at)
            fitting = [
                index
                for index in enabled
                if self._required[index].op is Op.READ and self._required[index].value == at.value
            ]
            if not fitting:
                return at
            at = _take(at, fitting, at.value)

    def _next_configurations(self, at: _Configuration) -> Iterator[_Configuration]:
        enabled, first_end = self._enabled(at)
        awaiting = self._awaiting(at)
        updates = [index for index in enabled if self._required[index].is_update]
        updates.sort(key=lambda index: self._required[index].returned or 0)
        for index in updates:
            item = self._required[index]
            is_possible = item.expected == at.value and not awaiting - {index}
            if item.op is Op.CAS and is_possible:
                yield self._with_reads(_take(at, [index], item.value))
        if awaiting:
            return
        unseen = [index for index in updates if self._is_unseen[index]]
        for index in updates:
            item = self._required[index]
            if item.op is Op.WRITE and not self._is_unseen[index]:
                yield self._with_reads(_take(at, [*unseen, index], item.value))
        if unseen:
            yield _take(at, unseen, _UNSEEN)
        for index in self._wanted_optional(at, enabled, first_end):
            taken = at.optional_taken | 1 << index
            value = self._optional[index].value
            yield self._with_reads(at._replace(optional_taken=taken, value=value))

    def _awaiting(self, at: _Configuration) -> set[int]:
        """Return two of those that must still see the value, none if it can be written again."""
        if self._left(at, self._writers.get(at.value, ()), 1):
            return set()
        for index in self._optional_writers.get(at.value, ()):
            if not at.optional_taken >> index & 1:
                return set()
        return set(self._left(at, self._seers.get(at.value, ()), 2))

    def _left(self, at: _Configuration, indices: Sequence[int], count: int) -> list[int]:
        """Return up to ``count`` of the required operations that are not taken, the latest."""
        left: list[int] = []
        for index in reversed(indices):
            if index < at.base or len(left) == count:
                break
            if not at.taken >> (index - at.base) & 1:
                left.append(index)
        return left

    def _wanted_optional(
        self, at: _Configuration, enabled: list[int], first_end: int
    ) -> Iterator[int]:
        """Yield the operations of unknown outcome that somebody who can come next needs."""
        count = bisect_left(self._optional_invoked, first_end)
        open_ones = [index for index in range(count) if not at.optional_taken >> index & 1]
        if not open_ones:
            return
        wanted = _needed_values([self._required[index] for index in enabled])
        tried: set[tuple[Op, str, str]] = set()
        # A compare-and-set of unknown outcome can itself need another one before it.
        found = True
        while found:
            found = False
            for index in open_ones:
                item = self._optional[index]
                alike = (item.op, item.expected, item.value)
                if item.value not in wanted or alike in tried:
                    continue
                tried.add(alike)
                found = True
                if item.op is Op.CAS:
                    wanted.add(item.expected)
                if item.op is Op.WRITE or item.expected == at.value:
                    yield index


def _take(at: _Configuration, indices: Sequence[int], value: str) -> _Configuration:
    taken = at.taken
    for index in indices:
        taken |= 1 << (index - at.base)
    ones = (~taken & (taken + 1)).bit_length() - 1
    return _Configuration(at.base + ones, taken >> ones, at.optional_taken, value)
