"""Checker of linearizability, and the command ``... .linearizability FILE`` around it.

A history is linearizable if its operations can be put in one order, each within its own time, so
that everybody saw what a single copy would have shown (Herlihy and Wing, 1990). It is if and only
if the history of each key is, so that keys are searched one by one (Herlihy and Wing's locality;
the search is ``linearization``).

If there is no such order, the reason is told as briefly as possible: the shortest beginning of the
history that has none, without any operation that can be left out. What may be left out is only
what could not have helped either: a read, or a value with all who wrote and saw it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from onceflow_consensus.testing.casefile import EXIT_DIFFERENCE, EXIT_PASS
from onceflow_consensus.testing.history import (
    NOTHING,
    HistoryUnreadable,
    Op,
    Operation,
    Outcome,
    by_key,
    run_checker,
)
from onceflow_consensus.testing.linearization import is_linearizable

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_EXPLAINED_KEYS = 8
"""Keys whose counterexample is made small, to show the smallest of them."""


def check_linearizability(operations: Sequence[Operation]) -> list[Operation]:
    """Return the smallest counterexample, nothing if the history is linearizable.

    Args:
        operations: of any keys, in the order in which they began.

    Raises:
        HistoryUnreadable: a key's history could not be decided; nothing is known of it.
    """
    wrong = [items for items in by_key(operations).values() if not is_linearizable(items)]
    beginnings = sorted((_shortest_beginning(items) for items in wrong), key=len)
    explained = [_without_the_rest(items) for items in beginnings[:MAX_EXPLAINED_KEYS]]
    return min(explained, key=len, default=list[Operation]())


def _up_to(operations: Sequence[Operation], position: int) -> list[Operation]:
    """Return what was known at a position: later ends had not happened."""
    known: list[Operation] = []
    for item in operations:
        if item.invoked > position:
            break
        if item.returned is None or item.returned <= position:
            known.append(item)
        elif item.is_update:
            known.append(replace(item, outcome=Outcome.UNKNOWN, returned=None, ended=None))
    return known


def _shortest_beginning(operations: Sequence[Operation]) -> list[Operation]:
    """Return the shortest beginning without an order; no longer one has any either."""
    ends = sorted(item.returned for item in operations if item.returned is not None)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if _is_wrong(_up_to(operations, ends[middle])):
            high = middle
        else:
            low = middle + 1
    return _up_to(operations, ends[low])


def _is_wrong(operations: Sequence[Operation]) -> bool:
    """Whether the operations certainly have no order."""
    try:
        return not is_linearizable(operations)
    except HistoryUnreadable:
        return False


def _without_the_rest(operations: list[Operation]) -> list[Operation]:
    """Leave out whatever can be left out while there is still no order."""
    while True:
        groups = _removable(operations)
        size = max(1, len(groups) // 2)
        smaller = operations
        while size:
            smaller = _without_groups(smaller, groups, size)
            size //= 2
        if len(smaller) == len(operations):
            return operations
        operations = smaller


def _without_groups(
    operations: list[Operation], groups: Sequence[set[Operation]], size: int
) -> list[Operation]:
    for start in range(0, len(groups), size):
        out = set[Operation]().union(*groups[start : start + size])
        rest = [item for item in operations if item not in out]
        if len(rest) < len(operations) and _is_wrong(rest):
            operations = rest
    return operations


def _removable(operations: Sequence[Operation]) -> list[set[Operation]]:
    """Return groups that no order needs: if the whole has an order, the rest has one too.

    A read changes nothing. The writes of a value, with all who saw it, can leave an order together:
    nobody else stood between them. Who replaces the value by another by compare-and-set is among
    those who saw it, so that the other value leaves with it. What a key begins with stays.
    """
    groups = [{item} for item in operations if item.op is Op.READ]
    by_value: dict[str, set[Operation]] = {}
    follows: dict[str, set[str]] = {}
    for item in operations:
        by_value.setdefault(item.value, set()).add(item)
        if item.op is Op.CAS:
            by_value.setdefault(item.expected, set()).add(item)
            follows.setdefault(item.expected, set()).add(item.value)
    for value in by_value:
        values = _closure(value, follows)
        if NOTHING not in values:
            groups.append({item for each in values for item in by_value[each]})
    return groups


def _closure(value: str, follows: dict[str, set[str]]) -> set[str]:
    found, ahead = {value}, [value]
    while ahead:
        for following in follows.get(ahead.pop(), ()):
            if following not in found:
                found.add(following)
                ahead.append(following)
    return found


def judge(operations: list[Operation]) -> tuple[int, str]:
    """Return the exit code and the verdict in words.

    Raises:
        HistoryUnreadable: a key's history could not be decided.
    """
    counterexample = check_linearizability(operations)
    if not counterexample:
        keys = len(by_key(operations))
        return EXIT_PASS, f"valid: {len(operations)} operations on {keys} keys"
    lines = [item.text() for item in counterexample]
    return EXIT_DIFFERENCE, "\n".join(
        [f"invalid: no order explains these {len(lines)} operations", *lines]
    )


if __name__ == "__main__":
    sys.exit(run_checker("linearizability", judge, sys.argv[1:]))
