"""SQLite against the contract of outbox sinks."""

from __future__ import annotations

import sqlite3

import pytest

from onceflow.sinks import SQLite
from onceflow.sinks.gid import Scope
from onceflow.testing.outbox_contract import OutboxContract, TargetSystem


class SqliteTarget(TargetSystem):
    """A file. It has no connections that somebody else could break."""

    scope = Scope("0123456789abcdef")

    def __init__(self, path):
        self._path = path

    def sink(self, name="sink"):
        table = {"id": "INTEGER", "even": "INTEGER CHECK (even = 0)"}
        return SQLite(self._path, table="rows", create_table=table, name=name)

    def visible(self):
        connection = sqlite3.connect(self._path)
        found = connection.execute("SELECT id FROM rows ORDER BY id").fetchall()
        connection.close()
        return [number for (number,) in found]

    def break_connections(self):
        pass

    def refused(self, number):
        return {"id": number, "even": 1}


class TestSqlite(OutboxContract):
    @pytest.fixture
    def target(self, tmp_path):
        return SqliteTarget(tmp_path / "target.db")
