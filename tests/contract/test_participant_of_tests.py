"""The participant that tests of the engine use, against the contract of two-phase sinks."""

from __future__ import annotations

import pytest

from harness.sqlite_participant import SqliteParticipant, committed_rows
from onceflow.sinks.gid import Scope
from onceflow.testing.participant_contract import ForeignSystem, ParticipantContract


class SqliteSystem(ForeignSystem):
    """A file; a broken connection is one whose call is not committed."""

    def __init__(self, path, key):
        self.scope = Scope.of("cluster", "app")
        self.path = path
        self.key = key
        self.made = []

    def participant(self, name="sink"):
        self.made.append(SqliteParticipant(self.path, name, key=self.key, refuse="refused"))
        return self.made[-1]

    def visible(self):
        names = {each.name for each in self.made}
        return sorted(row["id"] for name in names for row in committed_rows(self.path, name))

    def break_connections(self):
        for each in self.made:
            each.break_connection()

    def restart(self):
        self.break_connections()

    def refused(self, number):
        return {"id": number, "word": "refused"}


class TestAppending(ParticipantContract):
    @pytest.fixture
    def system(self, tmp_path):
        return SqliteSystem(tmp_path / "sink.db", None)


class TestReplacingByKey(ParticipantContract):
    @pytest.fixture
    def system(self, tmp_path):
        return SqliteSystem(tmp_path / "sink.db", "id")
