"""The replicated state machine of the record; see ``onceflow_consensus.state_machine``.

It follows from its commands and the time of the log alone. What it keeps of each application is in
``app_record``; here are the applications, the alarms, the queries and the form of a snapshot.

A snapshot takes the records as they are. One that changes afterwards is copied first, so that
taking one costs nothing but the list of applications.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onceflow.coordinator.app_record import AppRecord, Content, When
from onceflow.coordinator.bounds import fault_of
from onceflow.coordinator.queries import answer_query
from onceflow.coordinator.snapshots import read_snapshot, snapshot_chunks
from onceflow.coordinator.transactions import DECISIONS
from onceflow.coordinator.vocabulary import (
    Aborted,
    Alarm,
    Committed,
    Declined,
    NotUnderstood,
    Outcome,
    Outcomes,
    Standing,
    decode_command,
    decode_query,
    encode_answer,
)
from onceflow.limits import COORDINATOR_ALARMS_KEPT, COORDINATOR_APPS_MAX, COORDINATOR_SWEEP_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onceflow.coordinator.vocabulary import Change, Told


class CoordinatorMachine:
    """The record of one replica."""

    def __init__(self) -> None:
        """Begin empty."""
        self._content = Content()
        # Scopes of records that a snapshot may still read: copied before they are changed.
        self._frozen: set[str] = set()

    def apply_batch(self, index: int, log_time_ms: int, commands: Sequence[bytes]) -> list[bytes]:
        """Apply commands in order; see ``StateMachine``."""
        self._content.log_time_ms = log_time_ms
        if log_time_ms >= self._content.next_sweep_ms:
            self._sweep(log_time_ms)
        responses: list[bytes] = []
        for payload in commands:
            try:
                told = decode_command(payload)
            except NotUnderstood as error:
                responses.append(encode_answer(Declined(str(error))))
                continue
            responses.append(encode_answer(self._apply(told, index)))
        return responses

    def _apply(self, told: Told, index: int) -> Outcomes | Declined:
        fault = fault_of(told)
        if fault is not None:
            return Declined(fault)
        record = self._writable(told.scope, told.app)
        if record is None:
            return Declined(f"at most {COORDINATOR_APPS_MAX} applications are recorded")
        when = When(index, self._content.log_time_ms, told.told_unix_ms)
        outcomes: list[Outcome] = []
        for change in told.changes:
            outcome = record.apply(change, when)
            if outcome is Outcome.CONTRADICTS:
                self._alarm(told, change, record, when)
            outcomes.append(outcome)
        return Outcomes(outcomes)

    def _writable(self, scope: str, name: str) -> AppRecord | None:
        """Return the record to change; None if there is none and there is no room for it."""
        apps = self._content.apps
        record = apps.get(scope)
        if record is None:
            if len(apps) >= COORDINATOR_APPS_MAX:
                return None
            record = apps[scope] = AppRecord(scope, name)
        elif scope in self._frozen:
            record = apps[scope] = record.copy()
            self._frozen.discard(scope)
        record.name = name
        return record

    def _alarm(self, told: Told, change: Change, record: AppRecord, when: When) -> None:
        if not isinstance(change, Committed | Aborted):
            return
        known = record.find(change.incarnation, change.commit_epoch)
        if known is None:
            return
        content = self._content
        content.alarms_total += 1
        content.alarms.append(
            Alarm(
                content.alarms_total,
                when.index,
                told.scope,
                told.app,
                change.incarnation,
                change.commit_epoch,
                known.decision,
                DECISIONS[type(change)],
                change.by,
                when.told_unix_ms,
            )
        )
        del content.alarms[:-COORDINATOR_ALARMS_KEPT]

    def _sweep(self, log_time_ms: int) -> None:
        self._content.next_sweep_ms = log_time_ms + COORDINATOR_SWEEP_MS
        for scope, record in [*self._content.apps.items()]:
            if record.expired(log_time_ms):
                writable = self._writable(scope, record.name)
                if writable is not None:
                    writable.expire(log_time_ms)

    def query(self, question: bytes) -> bytes:
        """Answer a query; see ``StateMachine``."""
        try:
            return encode_answer(answer_query(self._content, decode_query(question)))
        except NotUnderstood as error:
            return encode_answer(Declined(str(error)))

    def numbers(self) -> dict[str, float]:
        """Return what is worth an alarm, by name: counters end in ``_total``, the rest are gauges.

        Costs a look at each application, so that it may be asked several times a second.
        """
        records = self._content.apps.values()
        opened = [record.transactions[Standing.OPEN] for record in records]
        # The first of each came first.
        begun = [next(iter(each.values())).begun_unix_ms for each in opened if each]
        return {
            "open_transactions": sum(map(len, opened)),
            "oldest_open_begun_timestamp_seconds": min(begun, default=0) / 1000,
            "heuristic_transactions": sum(
                len(record.transactions[Standing.HEURISTIC]) for record in records
            ),
            "contradicted_decisions_total": self._content.alarms_total,
            "recorded_workers": sum(len(record.leases) for record in records),
        }

    def take_snapshot(self) -> Iterator[bytes]:
        """Return the present state in chunks; see ``StateMachine``."""
        self._frozen = set(self._content.apps)
        content = self._content
        return snapshot_chunks(replace(content, apps=dict(content.apps), alarms=[*content.alarms]))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by that of a snapshot; see ``StateMachine``."""
        self._content = read_snapshot(chunks)
        self._frozen = set()
