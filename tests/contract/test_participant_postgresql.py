"""PostgreSQL against the contract of two-phase sinks, and the contract against broken sinks."""

from __future__ import annotations

import pytest

from onceflow.sinks import PostgreSQL
from onceflow.sinks.participant import FinishOutcome
from onceflow.testing.participant_contract import ForeignSystem, ParticipantContract

OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


class PostgresSystem(ForeignSystem):
    def __init__(self, place, key):
        self.scope = place.scope
        self.dsn = place.dsn()
        self._place = place
        self._key = key
        columns = "id int PRIMARY KEY" if key else "id int"
        place.sql(f"CREATE TABLE numbers ({columns}, word varchar(5), n smallint)")

    def participant(self, name="sink"):
        return PostgreSQL(self.dsn, table="numbers", key=self._key, name=name)

    def visible(self):
        return [number for (number,) in self._place.sql("SELECT id FROM numbers ORDER BY id")]

    def break_connections(self):
        self._place.sql(OTHERS)

    def restart(self):
        self._place.server.process.kill()
        self._place.server.start()

    def refused(self, number):
        return {"id": number, "word": "too long for it"}


class TestAppending(ParticipantContract):
    @pytest.fixture
    def system(self, postgres_place):
        return PostgresSystem(postgres_place, None)


class TestReplacingByKey(ParticipantContract):
    @pytest.fixture
    def system(self, postgres_place):
        return PostgresSystem(postgres_place, ["id"])


class TakesAbsenceForCommit(PostgreSQL):
    def commit(self, branch):
        super().commit(branch)
        return FinishOutcome.DONE


class IgnoresTheMarkerRow(PostgreSQL):
    def _mark(self, branch):
        if self.marker_row(branch.incarnation) is None:
            super()._mark(branch)


class KeepsBranches(PostgreSQL):
    def roll_back(self, branch):
        if branch not in self.branches():
            super().roll_back(branch)


class ForgetsTheProof(PostgreSQL):
    def raise_marker(self, incarnation):
        super().raise_marker(incarnation)
        self._session.execute(f"UPDATE {self._markers} SET commit_epoch = 0")


class CommitsAtOnce(PostgreSQL):
    def prepare(self, branch, rows):
        super().prepare(branch, rows)
        super().commit(branch)


class ListsNothing(PostgreSQL):
    def branches(self):
        return []


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (TakesAbsenceForCommit, "test_a_branch_that_never_was_is_missing"),
        (IgnoresTheMarkerRow, "test_a_raised_incarnation_prepares_nothing_more"),
        (IgnoresTheMarkerRow, "test_an_epoch_is_prepared_in_order_only"),
        (KeepsBranches, "test_a_branch_rolled_back_leaves_nothing"),
        (ForgetsTheProof, "test_a_prepared_branch_outlives_a_raise"),
        (CommitsAtOnce, "test_rows_are_visible_from_the_commit_on"),
        (ListsNothing, "test_only_own_branches_are_listed"),
    ],
)
def test_a_wrong_sink_is_caught(postgres_place, monkeypatch, wrong, line):
    system = PostgresSystem(postgres_place, None)
    monkeypatch.setattr(
        system, "participant", lambda name="sink": wrong(system.dsn, table="numbers", name=name)
    )
    with pytest.raises(AssertionError):
        getattr(ParticipantContract(), line)(system)
