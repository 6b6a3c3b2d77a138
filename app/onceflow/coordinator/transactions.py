"""Which state of a recorded transaction follows which, and what a repeated or late change does.

The record is told of what happens elsewhere, by several tellers, some of which are late, and none
of which is waited for. So a step may be missing (a prepared epoch that nobody announced), and an
early one may come late. ``STEPS`` says which changes move a transaction on; all others change
nothing. What never changes is a decision: INV-META-1.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.coordinator.vocabulary import (
    Aborted,
    Begun,
    Change,
    Committed,
    Decision,
    Ended,
    HeuristicNote,
    Outcome,
    Prepared,
    Transaction,
    TxnState,
)
from onceflow.errors import invariant

if TYPE_CHECKING:
    from onceflow.coordinator.vocabulary import Heuristic

import msgspec

Step = Begun | Prepared | Committed | Aborted | Ended
"""Changes that move a transaction on."""

_S = TxnState

STEPS: dict[type[Step], dict[TxnState | None, TxnState]] = {
    Begun: {None: _S.BEGUN},
    Prepared: {None: _S.PREPARED, _S.BEGUN: _S.PREPARED},
    Committed: {
        None: _S.COMMITTED,
        _S.BEGUN: _S.COMMITTED,
        _S.PREPARED: _S.COMMITTED,
        # Ended without a recorded decision: what was decided is learned later, and kept.
        _S.ENDED: _S.ENDED,
    },
    Aborted: {
        None: _S.ABORTED,
        _S.BEGUN: _S.ABORTED,
        _S.PREPARED: _S.ABORTED,
        _S.ENDED: _S.ENDED,
    },
    Ended: {
        _S.BEGUN: _S.ENDED,
        _S.PREPARED: _S.ENDED,
        _S.COMMITTED: _S.ENDED,
        _S.ABORTED: _S.ENDED,
    },
}
"""By change: the states in which it moves a transaction on, and where to. None: not recorded yet.
In any other state the change tells nothing that is not known better."""

DECISIONS: dict[type[Change], Decision] = {
    Committed: Decision.COMMIT,
    Aborted: Decision.ABORT,
}
"""Changes that record a decision."""


def judge(known: Transaction | None, step: Step) -> tuple[Outcome, TxnState | None]:
    """Return what a step does to a transaction, and the state that follows if it is applied."""
    state = None if known is None else known.state
    told = DECISIONS.get(type(step))
    recorded = Decision.NONE if known is None else known.decision
    if told is not None and recorded is not Decision.NONE:
        return (Outcome.ALREADY if told is recorded else Outcome.CONTRADICTS), None
    following = STEPS[type(step)].get(state)
    return (Outcome.ALREADY if following is None else Outcome.APPLIED), following


def moved(
    known: Transaction | None, step: Step, state: TxnState, told_unix_ms: int, index: int
) -> Transaction:
    """Return the transaction after a step that ``judge`` let through."""
    before = known or Transaction(
        0, step.incarnation, step.commit_epoch, state, begun_unix_ms=told_unix_ms
    )
    after = msgspec.structs.replace(before, state=state, index=index)
    match step:
        case Begun():
            after = msgspec.structs.replace(
                after, partitions=step.partitions, participants=step.participants
            )
        case Prepared():
            after = msgspec.structs.replace(
                after,
                partitions=step.partitions,
                participants=[name for name, _ in step.branches],
                branches=step.branches,
                marker=step.marker,
            )
        case Committed() | Aborted():
            marker = step.marker if isinstance(step, Committed) else ""
            after = msgspec.structs.replace(
                after,
                decision=DECISIONS[type(step)],
                marker=marker or before.marker,
                decided_by=step.by,
                decided_unix_ms=told_unix_ms,
            )
        case Ended():
            pass
    invariant(
        before.decision in (Decision.NONE, after.decision),
        "INV-META-1: a decision once recorded never changes",
        recorded=before.decision,
        told=after.decision,
    )
    return after


def noted(
    known: Transaction | None, found: Heuristic, told_unix_ms: int, index: int
) -> Transaction | None:
    """Return the transaction with a heuristic outcome, None if it has this very one already.

    One that is not recorded counts as ended: nothing more is expected of it.
    """
    before = known or Transaction(
        0, found.incarnation, found.commit_epoch, TxnState.ENDED, begun_unix_ms=told_unix_ms
    )
    note = HeuristicNote(found.participant, found.finding, found.detail, found.by, told_unix_ms)
    same = (found.participant, found.finding, found.detail)
    if any((each.participant, each.finding, each.detail) == same for each in before.heuristics):
        return None
    return msgspec.structs.replace(before, heuristics=[*before.heuristics, note], index=index)
