"""Answers to what can be asked of the record. Nothing changes here.

A query runs between batches of commands and must not hold them up, hence pages. Pure: must never
import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from onceflow.coordinator.app_record import standing_of
from onceflow.coordinator.vocabulary import (
    Alarms,
    Apps,
    AppSummary,
    ListAlarms,
    ListApps,
    ListOffsets,
    ListTransactions,
    ListWorkers,
    Offsets,
    ShowTransaction,
    Standing,
    TransactionRow,
    Transactions,
    WorkerRow,
    Workers,
)
from onceflow.limits import COORDINATOR_PAGE_BYTES_MAX, COORDINATOR_PAGE_ROWS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onceflow.coordinator.app_record import AppRecord, Content
    from onceflow.coordinator.vocabulary import Answer, Query

_ENCODER = msgspec.msgpack.Encoder()

Row = TypeVar("Row")


def answer_query(content: Content, query: Query) -> Answer:
    """Return what the record says."""
    match query:
        case ListTransactions():
            rows, more = _page(_transactions(content, query), query.limit)
            return Transactions(rows, more)
        case ShowTransaction():
            return _show(content, query)
        case ListOffsets():
            record = content.apps.get(query.scope)
            known = {} if record is None else record.offsets
            offsets = (known[key] for key in sorted(known) if key > query.after)
            return Offsets(*_page(offsets, query.limit))
        case ListWorkers():
            return Workers([*_workers(content, query.of)], content.log_time_ms)
        case ListAlarms():
            alarms = (each for each in content.alarms if each.sequence > query.after)
            return Alarms(*_page(alarms, query.limit), content.alarms_total)
        case ListApps():
            return Apps([_summary(record) for record in _apps(content, "")])


def _apps(content: Content, of: str) -> list[AppRecord]:
    """Return the records of the applications of that scope or name, by scope."""
    return [
        record for scope, record in sorted(content.apps.items()) if of in ("", scope, record.name)
    ]


def _transactions(content: Content, query: ListTransactions) -> Iterator[TransactionRow]:
    scope_after, sequence_after = query.after
    for record in _apps(content, query.of):
        if record.scope < scope_after:
            continue
        after = sequence_after if record.scope == scope_after else 0
        for each in record.transactions[query.standing].values():
            if each.sequence > after:
                yield TransactionRow(record.scope, record.name, query.standing, each)


def _show(content: Content, query: ShowTransaction) -> Transactions:
    rows: list[TransactionRow] = []
    is_forgotten = False
    for record in _apps(content, query.of):
        found = record.find(query.incarnation, query.commit_epoch)
        if found is not None:
            rows.append(TransactionRow(record.scope, record.name, standing_of(found), found))
        elif record.is_forgotten(query.incarnation, query.commit_epoch):
            is_forgotten = True
    return Transactions(rows, more=False, is_forgotten=is_forgotten)


def _workers(content: Content, of: str) -> Iterator[WorkerRow]:
    for record in _apps(content, of):
        for lease in record.leases.values():
            if lease.expires_log_ms > content.log_time_ms:
                yield WorkerRow(record.scope, record.name, lease)


def _summary(record: AppRecord) -> AppSummary:
    transactions = record.transactions
    return AppSummary(
        record.scope,
        record.name,
        len(transactions[Standing.OPEN]),
        len(transactions[Standing.HEURISTIC]),
        len(transactions[Standing.ENDED]),
        len(record.offsets),
        len(record.leases),
    )


def _page(rows: Iterable[Row], limit: int) -> tuple[list[Row], bool]:
    """Return the first rows as far as a page has room, and whether others follow."""
    taken: list[Row] = []
    taken_bytes = 0
    for row in rows:
        if len(taken) >= min(max(1, limit), COORDINATOR_PAGE_ROWS_MAX):
            return taken, True
        if taken_bytes >= COORDINATOR_PAGE_BYTES_MAX:
            return taken, True
        taken.append(row)
        taken_bytes += len(_ENCODER.encode(row))
    return taken, False
