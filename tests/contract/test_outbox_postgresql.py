"""PostgreSQL against the contract of outbox sinks, on a server that prepares nothing."""

from __future__ import annotations

import pytest

from onceflow.sinks import PostgreSQL
from onceflow.testing.outbox_contract import OutboxContract, TargetSystem


class PostgresTarget(TargetSystem):
    """A schema of a real server."""

    def __init__(self, place):
        self.scope = place.scope
        self._place = place

    def sink(self, name="sink"):
        table = {"id": "int", "even": "int CHECK (even = 0)"}
        dsn = self._place.dsn()
        return PostgreSQL(dsn, table="rows", create_table=table, name=name, delivery="outbox")

    def visible(self):
        return [number for (number,) in self._place.sql("SELECT id FROM rows ORDER BY id")]

    def break_connections(self):
        self._place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def refused(self, number):
        return {"id": number, "even": 1}


class TestPostgresqlOutbox(OutboxContract):
    @pytest.fixture
    def target(self, postgres_place):
        return PostgresTarget(postgres_place)
