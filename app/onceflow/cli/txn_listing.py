"""What ``onceflow txn list`` and ``show`` find out: from the record, and from sinks and Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onceflow.cli.txn_reach import record_of, sinks_of
from onceflow.cli.txn_shown import (
    alarm_of,
    evidence_of,
    now_ms,
    shown_id,
    summary_of,
    unrecorded,
    whole,
)
from onceflow.coordinator.vocabulary import Standing
from onceflow.engine.by_hand import (
    Fencing,
    Verdict,
    committed_epochs,
    gather_evidence,
    list_prepared,
    scope_of,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow.coordinator.client import CoordinatorClient
    from onceflow.coordinator.vocabulary import TransactionRow
    from onceflow.settings import Settings

_ORDER = (Standing.OPEN, Standing.HEURISTIC, Standing.ENDED)


async def listed(
    settings: Settings, timeout_s: float, app: Any, standings: Sequence[Standing]
) -> dict[str, Any]:
    """Return the document of ``txn list``.

    Args:
        settings: name the group that keeps the record.
        timeout_s: how long it may take to answer.
        app: the application whose sinks are asked as well; None for the record alone.
        standings: which transactions.
    """
    async with record_of(settings, timeout_s) as record:
        alarms, total = await record.alarms()
        if app is None:
            rows = await _recorded(record, "", standings)
            transactions = [summary_of(row, now_ms(), None, is_proven=None) for row in rows]
        else:
            transactions = await _of_app(record, app, standings)
    transactions.sort(key=_oldest_in_doubt_first)
    return {
        "transactions": transactions,
        "alarms": total,
        "last_alarms": [alarm_of(each) for each in alarms[-10:]],
    }


async def _recorded(
    record: CoordinatorClient, of: str, standings: Sequence[Standing]
) -> list[TransactionRow]:
    return [row for standing in standings for row in await record.transactions(of, standing)]


async def _of_app(
    record: CoordinatorClient, app: Any, standings: Sequence[Standing]
) -> list[dict[str, Any]]:
    """Return an application's transactions: what is recorded, and what its sinks list besides."""
    async with sinks_of(app) as runtime:
        scope = (await scope_of(runtime)).scope
        rows = await _recorded(record, scope, standings)
        prepared = await list_prepared(runtime)
        proven = await committed_epochs(runtime)
    found: list[dict[str, Any]] = []
    for row in rows:
        recorded = row.transaction
        branch = BranchId(Incarnation(recorded.incarnation), CommitEpoch(recorded.commit_epoch))
        is_proven = branch.commit_epoch in proven.get(branch.incarnation, ())
        sinks = prepared.pop(branch, [])
        found.append(summary_of(row, now_ms(), sinks, is_proven=is_proven))
    for branch, sinks in prepared.items():
        is_proven = branch.commit_epoch in proven.get(branch.incarnation, ())
        found.append(unrecorded(branch, app.conf.id, scope, sinks, is_proven=is_proven))
    return found


def _oldest_in_doubt_first(document: dict[str, Any]) -> tuple[int, float]:
    standing = Standing[document["standing"].upper()]
    return _ORDER.index(standing), -(document["age_s"] or 0.0)


async def shown(settings: Settings, timeout_s: float, app: Any, branch: BranchId) -> dict[str, Any]:
    """Return the document of ``txn show``; arguments as for ``listed``."""
    evidence = None
    of = ""
    if app is not None:
        async with sinks_of(app) as runtime:
            of = (await scope_of(runtime)).scope
            evidence = await gather_evidence(runtime, branch, Fencing.LOOK_ONLY)
    async with record_of(settings, timeout_s) as record:
        found = await record.transaction(of, branch.incarnation, branch.commit_epoch)
    shows = evidence is not None and evidence.verdict is not Verdict.NOTHING_LEFT
    return {
        "id": shown_id(branch),
        "is_known": bool(found.rows) or found.is_forgotten or shows,
        "recorded": [whole(row, now_ms()) for row in found.rows],
        "is_forgotten": found.is_forgotten,
        "evidence": None if evidence is None else evidence_of(evidence),
    }
