"""Checker of convergence, and the command ``... .convergence FILE`` around it.

Replicas converge if, once nobody writes any more, all of them come to show the same value of every
key, and one that was written. Judged are the *settled* reads: those that name the ``replica`` that
answered and began after everything that was written had ended, or had begun, where nobody knows
its end. Of each replica and key the last one counts, so that replicas have as long to agree as the
history goes on.

A history without settled reads of two replicas proves nothing and cannot be judged, nor one in
which a replica has none of a key that another one has.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from onceflow_consensus.testing.casefile import EXIT_DIFFERENCE, EXIT_PASS
from onceflow_consensus.testing.history import (
    NOTHING,
    HistoryUnreadable,
    Op,
    Operation,
    by_key,
    run_checker,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def settled_reads(operations: Sequence[Operation]) -> dict[str, dict[str, Operation]]:
    """Return, by key and replica, the last read after everything was written.

    Raises:
        HistoryUnreadable: they are missing for two replicas, or for some key of one.
    """
    written = max(
        (
            item.invoked if item.returned is None else item.returned
            for item in operations
            if item.is_update
        ),
        default=-1,
    )
    found: dict[str, dict[str, Operation]] = {}
    for item in operations:
        is_settled = item.op is Op.READ and item.returned is not None and item.invoked > written
        if is_settled and item.replica is not None:
            found.setdefault(item.key, {})[item.replica] = item
    replicas = {replica for reads in found.values() for replica in reads}
    if len(replicas) < 2:  # noqa: PLR2004 - one replica agrees with itself
        raise HistoryUnreadable(
            "no two replicas were read after the last write: read each key from each replica, "
            "and name it in the field 'replica'"
        )
    keys = {item.key for item in operations if item.is_update} | set(found)
    for key in sorted(keys):
        missing = sorted(replicas - set(found.get(key, {})))
        if missing:
            raise HistoryUnreadable(
                f"key {key} was not read from replica {missing[0]} after the last write"
            )
    return found


def check_convergence(operations: Sequence[Operation]) -> list[Operation]:
    """Return the settled reads of the first key that disagree, nothing if all agree.

    A single read is returned if it shows what nobody can have written.

    Raises:
        HistoryUnreadable: see ``settled_reads``.
    """
    of_key = by_key(operations)
    for key, reads in sorted(settled_reads(operations).items()):
        differing = {item.value: item for item in reads.values()}
        if len(differing) > 1:
            return [differing[value] for value in sorted(differing)]
        known = {NOTHING, *(item.value for item in of_key[key] if item.is_update)}
        unwritten = [item for item in reads.values() if item.value not in known]
        if unwritten:
            return unwritten[:1]
    return []


def judge(operations: list[Operation]) -> tuple[int, str]:
    """Return the exit code and the verdict in words.

    Raises:
        HistoryUnreadable: see ``settled_reads``.
    """
    differing = check_convergence(operations)
    if not differing:
        reads = settled_reads(operations)
        replicas = {replica for by_replica in reads.values() for replica in by_replica}
        return EXIT_PASS, f"valid: {len(replicas)} replicas agree on {len(reads)} keys"
    lines = [f"replica {item.replica}: {item.text()}" for item in differing]
    head = "invalid: replicas differ" if len(lines) > 1 else "invalid: nobody wrote this"
    return EXIT_DIFFERENCE, "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(run_checker("convergence", judge, sys.argv[1:]))
