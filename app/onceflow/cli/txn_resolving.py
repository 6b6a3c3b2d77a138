"""What ``onceflow txn resolve`` does: evidence first, then the sinks, then the record.

The record is not needed to do what the evidence says, and told as far as it can be reached. Doing
something else is a heuristic outcome, which must be recorded before it is done.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from onceflow.cli.txn_reach import record_of, sinks_of
from onceflow.cli.txn_shown import evidence_of, now_ms, shown_id
from onceflow.coordinator.vocabulary import (
    Aborted,
    Change,
    Committed,
    Decision,
    Ended,
    Finding,
    Heuristic,
    Observed,
    Outcome,
    Told,
)
from onceflow.engine.by_hand import (
    Fencing,
    Verdict,
    end_branch,
    gather_evidence,
    refuse_contradiction,
    scope_of,
)
from onceflow.errors import OnceflowError, Unreachable
from onceflow.limits import COORDINATOR_LEASE_MS

if TYPE_CHECKING:
    from onceflow.coordinator.client import CoordinatorClient
    from onceflow.engine.by_hand import Evidence
    from onceflow.ids import BranchId
    from onceflow.settings import Settings


class Insistence(Enum):
    """Whether something is done that contradicts the evidence."""

    BY_EVIDENCE = "by_evidence"
    FORCED = "forced"


_RECORD_S = 5.0
"""How long the record may take to answer: where it is only told, it is not waited for."""

_KNOWN = frozenset({Outcome.APPLIED, Outcome.ALREADY})
"""Outcomes after which the record has what it was told."""

_DECIDED = {Decision.COMMIT: Verdict.COMMIT, Decision.ABORT: Verdict.ABORT}


@dataclass(frozen=True, slots=True)
class Resolving:
    """One transaction to end, and how.

    by: who does it, for the record.
    """

    branch: BranchId
    wish: Verdict
    insistence: Insistence
    by: str

    async def run(self, settings: Settings, app: Any) -> dict[str, Any]:
        """End it; return the document of what was found and done.

        Raises:
            OnceflowError: its worker lives, or the evidence says something else; nothing was done.
            Unreachable: Kafka, a sink, or for a forced end the record does not answer.
        """
        async with record_of(settings, _RECORD_S) as record, sinks_of(app) as runtime:
            scope = (await scope_of(runtime)).scope
            teller = _Teller(record, scope, app.conf.id)
            await self._refuse_while_alive(teller)
            evidence = await gather_evidence(runtime, self.branch, Fencing.FENCE)
            is_forced = await self._check(teller, evidence)
            done = await end_branch(runtime, evidence, self.wish)
            is_recorded = await self._record(teller, evidence, done)
        return {
            "id": shown_id(self.branch),
            "wish": self.wish.value,
            "is_forced": is_forced,
            "done": done,
            "is_recorded": is_recorded,
            "evidence": evidence_of(evidence),
        }

    async def _refuse_while_alive(self, teller: _Teller) -> None:
        """Leave a worker alone that lives: it ends its transactions by itself.

        Raises:
            OnceflowError: it lives, as far as the record knows.
        """
        alive = await teller.lives(self.branch.incarnation)
        if alive:
            raise OnceflowError(
                f"The worker of this transaction lives ({alive}) and ends it by itself as soon as "
                "its sinks answer. Nothing was done. Repair the sink; or stop the worker first, "
                "and wait until its lease has run out."
            )

    async def _check(self, teller: _Teller, evidence: Evidence) -> bool:
        """Refuse what contradicts; return whether it is done all the same.

        Raises:
            OnceflowError: it contradicts the evidence, or a decision that is recorded; or it is
                forced, and the record has no room for it. Nothing was done.
            Unreachable: it is forced, and cannot be recorded.
        """
        recorded = await teller.decision(self.branch)
        against = f"the record says {recorded.name.lower()}" if recorded is not None else ""
        if evidence.verdict is Verdict.NOTHING_LEFT:
            return False
        contradicts = self.wish is not evidence.verdict or (
            recorded is not None and _DECIDED.get(recorded, self.wish) is not self.wish
        )
        if not contradicts:
            return False
        if self.insistence is Insistence.BY_EVIDENCE:
            refuse_contradiction(evidence, self.wish)
            raise OnceflowError(
                f"This contradicts what was recorded: {against}. Nothing was done. With --force it "
                "is done and recorded for ever."
            )
        finding = {Verdict.COMMIT: Finding.FORCED_COMMIT}.get(self.wish, Finding.FORCED_ABORT)
        detail = f"evidence: {evidence.verdict.value} ({'; '.join(evidence.proofs)}) {against}"
        changes: list[Change] = [
            Heuristic(*self.branch, name, finding, detail.strip(), self._teller_name)
            for name in sorted(evidence.prepared_in) or ["-"]
        ]
        outcomes = await teller.tell(changes)
        if not _KNOWN.issuperset(outcomes):
            refused = sorted({each.name.lower() for each in outcomes if each not in _KNOWN})
            raise OnceflowError(
                f"The record did not take what is to be forced: {', '.join(refused)}. Nothing was "
                "done, because it would leave no trace. The record keeps a bounded number of "
                "heuristic outcomes; 'onceflow txn list' shows them."
            )
        return True

    @property
    def _teller_name(self) -> str:
        return f"{self.by}@{socket.gethostname()}"

    async def _record(self, teller: _Teller, evidence: Evidence, done: dict[str, str]) -> bool:
        """Tell the record what is decided and done; return whether it was told."""
        by = self._teller_name
        changes: list[Change] = [
            Heuristic(*self.branch, name, Finding.BRANCH_MISSING, "listed, then gone", by)
            for name, outcome in done.items()
            if outcome == "missing"
        ]
        if evidence.verdict is Verdict.COMMIT:
            changes.append(Committed(*self.branch, "", by))
        elif evidence.verdict is Verdict.ABORT:
            changes.append(Aborted(*self.branch, by))
        if not evidence.earlier:
            changes.append(Ended(*self.branch))
        try:
            outcomes = await teller.tell(changes)
        except Unreachable as error:
            sys.stderr.write(f"done, but not recorded: {error}\n")
            return False
        return Outcome.CONTRADICTS not in outcomes


@dataclass(frozen=True, slots=True)
class _Teller:
    """The record of one application, which may be away."""

    record: CoordinatorClient
    scope: str
    app: str

    async def tell(self, changes: list[Change]) -> list[Outcome]:
        return await self.record.tell(Told(self.scope, self.app, now_ms(), changes))

    async def lives(self, incarnation: str) -> str:
        """Return where a worker lives, nothing if it does not or the record is away."""
        try:
            # Time of the log stands still where nobody tells anything.
            await self.tell([Observed()])
            workers = await self.record.workers(self.scope)
        except Unreachable as error:
            sys.stderr.write(f"the record cannot be asked, only sinks and Kafka are: {error}\n")
            return ""
        # Nor does it go on while nobody hosts the group; so a lease that was told too long ago by
        # the clocks on the wall is over as well. Should they differ, the fence keeps it safe.
        told_after_ms = now_ms() - COORDINATOR_LEASE_MS
        found = [
            row.lease
            for row in workers.rows
            if row.lease.incarnation == incarnation and row.lease.told_unix_ms > told_after_ms
        ]
        return "".join(f"process {lease.pid} on {lease.host}" for lease in found)

    async def decision(self, branch: BranchId) -> Decision | None:
        """Return the recorded decision; None if there is none or the record is away."""
        try:
            found = await self.record.transaction(self.scope, *branch)
        except Unreachable:
            return None
        decisions = [row.transaction.decision for row in found.rows]
        return next((each for each in decisions if each is not Decision.NONE), None)
