"""MariaDB against the contract of two-phase sinks.

Without a key, because a key hides rows that come twice; what a key does is tested with the sink.
"""

from __future__ import annotations

import pytest

from onceflow.sinks import MySQL
from onceflow.testing.participant_contract import ForeignSystem, ParticipantContract


class MariadbSystem(ForeignSystem):
    def __init__(self, place):
        self.scope = place.scope
        self._place = place
        place.sql("CREATE TABLE numbers (id int, word varchar(5)) ENGINE=InnoDB")

    def participant(self, name="sink"):
        return MySQL(self._place.dsn, table="numbers", name=name)

    def visible(self):
        return [int(number) for (number,) in self._place.sql("SELECT id FROM numbers ORDER BY id")]

    def break_connections(self):
        self._place.break_connections()

    def restart(self):
        self._place.server.process.kill()
        self._place.server.start()

    def refused(self, number):
        return {"id": number, "word": "too long for it"}


class TestAppending(ParticipantContract):
    @pytest.fixture
    def system(self, mariadb_place):
        return MariadbSystem(mariadb_place)
