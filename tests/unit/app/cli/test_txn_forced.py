"""A forced end of a transaction: what the record must have before it is done."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from onceflow.cli import txn_resolving
from onceflow.cli.txn_resolving import Insistence, Resolving
from onceflow.coordinator.vocabulary import Heuristic, Outcome, Transactions, Workers
from onceflow.decisions.marker import Marker
from onceflow.engine.by_hand import Evidence, Fencing, Verdict
from onceflow.errors import OnceflowError
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition
from onceflow.sinks.gid import Scope

BRANCH = BranchId(Incarnation("w"), CommitEpoch(7))
FOUND = Evidence(
    BRANCH,
    {Partition("t", 0): Marker(BRANCH.incarnation, CommitEpoch(7), CommitEpoch(7))},
    frozenset({"one", "two"}),
    {},
    frozenset(),
    Fencing.FENCE,
)


class Record:
    """A record that answers a heuristic outcome at the sink ``two`` as it is told to."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def tell(self, told):
        return [
            self.outcome
            if isinstance(each, Heuristic) and each.participant == "two"
            else Outcome(0)
            for each in told.changes
        ]

    async def workers(self, _scope):
        return Workers([], 0)

    async def transaction(self, *_branch):
        return Transactions([], more=False)


async def forced(monkeypatch, outcome):
    """Force an abort of a committed epoch; return the sinks in which it was done."""
    done = []

    @asynccontextmanager
    async def record_of(_settings, _timeout_s):
        yield Record(outcome)

    @asynccontextmanager
    async def sinks_of(_app):
        yield None

    async def scope_of(_runtime):
        return Scope("0123456789abcdef")

    async def gather_evidence(*_):
        return FOUND

    async def end_branch(_runtime, evidence, _wanted):
        done.extend(sorted(evidence.prepared_in))
        return dict.fromkeys(done, "rolled_back")

    for each in (record_of, sinks_of, scope_of, gather_evidence, end_branch):
        monkeypatch.setattr(txn_resolving, each.__name__, each)
    resolving = Resolving(BRANCH, Verdict.ABORT, Insistence.FORCED, "somebody")
    app = SimpleNamespace(conf=SimpleNamespace(id="shop"))
    try:
        document = await resolving.run(None, app)
    except OnceflowError as error:
        assert not done, "nothing is done of what is not recorded"
        return str(error)
    assert document["is_forced"]
    return done


@pytest.mark.parametrize("outcome", [Outcome.FULL, Outcome.FORGOTTEN, Outcome.CONTRADICTS])
async def test_what_the_record_does_not_take_is_not_forced(monkeypatch, outcome):
    said = await forced(monkeypatch, outcome)
    assert outcome.name.lower() in said
    assert "Nothing was done" in said


@pytest.mark.parametrize("outcome", [Outcome.APPLIED, Outcome.ALREADY])
async def test_what_the_record_has_is_forced(monkeypatch, outcome):
    assert await forced(monkeypatch, outcome) == ["one", "two"]
