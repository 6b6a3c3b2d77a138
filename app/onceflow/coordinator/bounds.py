"""Which commands are small enough to be kept: their texts, lists and numbers are all bounded.

The bounds are a part of what is replicated: members that disagree on one would diverge, so that a
change of one raises ``vocabulary.FORMAT_VERSION``. Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.coordinator.vocabulary import (
    Aborted,
    Begun,
    Committed,
    Ended,
    Heuristic,
    Leased,
    Left,
    Observed,
    OffsetsMoved,
    Prepared,
)
from onceflow.limits import (
    COORDINATOR_CHANGES_MAX,
    COORDINATOR_LEASE_MS_MAX,
    COORDINATOR_LEASE_MS_MIN,
    COORDINATOR_NAME_BYTES_MAX,
    COORDINATOR_PARTICIPANTS_MAX,
    COORDINATOR_PARTITIONS_MAX,
    COORDINATOR_TEXT_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onceflow.coordinator.vocabulary import Change, Told

_NUMBER_MAX = (1 << 63) - 1
"""Offsets, commit epochs and wall clocks fit 64 bits."""


def fault_of(told: Told) -> str | None:
    """Return why a command is declined, None if it is within all bounds."""
    if len(told.changes) > COORDINATOR_CHANGES_MAX:
        return f"a command has at most {COORDINATOR_CHANGES_MAX} changes"
    faults = [*_name("scope", told.scope), *_name("app", told.app), *_number(told.told_unix_ms)]
    for change in told.changes:
        faults.extend(_faults(change))
        if faults:
            return f"{type(change).__name__}: {faults[0]}"
    return faults[0] if faults else None


def _faults(change: Change) -> Iterator[str]:
    if isinstance(change, Observed):
        return
    yield from _name("incarnation", change.incarnation)
    if isinstance(change, Leased):
        yield from (*_text(change.worker + change.host), *_number(change.pid))
        yield from _lease(change.lease_ms)
    elif not isinstance(change, Left):
        yield from _number(change.commit_epoch)
        yield from _faults_of_epoch(change)


def _faults_of_epoch(
    change: Begun | Prepared | Committed | Aborted | Ended | Heuristic | OffsetsMoved,
) -> Iterator[str]:
    match change:
        case Begun():
            yield from _partitions(sum(len(numbers) for _, numbers in change.partitions))
            yield from _participants(change.participants)
        case Prepared():
            yield from _partitions(sum(len(numbers) for _, numbers in change.partitions))
            yield from _participants([name for branch in change.branches for name in branch])
            yield from _text(change.marker)
        case Committed():
            yield from _text(change.marker + change.by)
        case Aborted():
            yield from _text(change.by)
        case Heuristic():
            yield from _participants([change.participant])
            yield from _text(change.detail + change.by)
        case OffsetsMoved():
            yield from (*_text(change.marker), *_partitions(len(change.rows)))
            for topic, number, offset in change.rows:
                yield from (*_name("topic", topic), *_number(number), *_number(offset))
        case Ended():
            pass


def _name(what: str, value: str) -> Iterator[str]:
    if not 0 < len(value.encode()) <= COORDINATOR_NAME_BYTES_MAX:
        yield f"{what} has 1 to {COORDINATOR_NAME_BYTES_MAX} bytes"


def _text(value: str) -> Iterator[str]:
    if len(value.encode()) > COORDINATOR_TEXT_BYTES_MAX:
        yield f"a text has at most {COORDINATOR_TEXT_BYTES_MAX} bytes"


def _number(value: int) -> Iterator[str]:
    if not 0 <= value <= _NUMBER_MAX:
        yield f"{value} is no number from 0 to 2^63 - 1"


def _partitions(count: int) -> Iterator[str]:
    if count > COORDINATOR_PARTITIONS_MAX:
        yield f"at most {COORDINATOR_PARTITIONS_MAX} partitions"


def _participants(names: list[str]) -> Iterator[str]:
    # A branch is two names, its participant's and its own.
    if len(names) > 2 * COORDINATOR_PARTICIPANTS_MAX:
        yield f"at most {COORDINATOR_PARTICIPANTS_MAX} participants"
    for name in names:
        yield from _name("a participant or branch", name)


def _lease(lease_ms: int) -> Iterator[str]:
    if not COORDINATOR_LEASE_MS_MIN <= lease_ms <= COORDINATOR_LEASE_MS_MAX:
        yield f"a lease lasts {COORDINATOR_LEASE_MS_MIN} to {COORDINATOR_LEASE_MS_MAX} ms"
