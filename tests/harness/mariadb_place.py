"""A database of its own on the shared MariaDB, and a scope of its own: one test's place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pymysql
import pytest

from onceflow.sinks.gid import Scope

if TYPE_CHECKING:
    from harness.mariadb_server import MariadbServer


class MariadbPlace:
    def __init__(self, server: MariadbServer, name: str) -> None:
        self.server = server
        self.database = name.replace("-", "_")
        self.scope = Scope.of("cluster", name)
        self.root_sql(f"CREATE DATABASE {self.database}")

    @property
    def dsn(self) -> str:
        return self.dsn_of("root")

    def dsn_of(self, user: str, password: str = "") -> str:
        return f"mysql://{user}:{password}@127.0.0.1:{self.server.port}/{self.database}"

    def connect(self, database: str | None = None) -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.server.port,
            user="root",
            database=database,
            autocommit=True,
            read_timeout=10,
        )

    def sql(self, statement: str) -> list[tuple]:
        """Run one statement on a connection of its own, in this place's database."""
        return self._run(statement, self.database)

    def root_sql(self, statement: str) -> list[tuple]:
        return self._run(statement, None)

    def _run(self, statement: str, database: str | None) -> list[tuple]:
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return [*cursor.fetchall()] if cursor.description else []

    def break_connections(self) -> None:
        """End every other connection to this place's database."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM information_schema.processlist WHERE db = '{self.database}'"
            )
            for (number,) in cursor.fetchall():
                with suppress(pymysql.OperationalError):  # it may have gone by itself
                    cursor.execute(f"KILL {number}")

    def prepared(self) -> list[str]:
        """Names of all prepared branches of this place's scope."""
        found = [row[3].decode() for row in self.root_sql("XA RECOVER")]
        return sorted(gid for gid in found if gid.startswith(self.scope.gid_prefix))

    def drop(self) -> None:
        self.break_connections()
        for format_id, length, _, data in self.root_sql("XA RECOVER"):
            self.root_sql(
                f"XA ROLLBACK '{data[:length].decode()}','{data[length:].decode()}',{format_id}"
            )
        self.root_sql(f"DROP DATABASE {self.database}")


@pytest.fixture
def mariadb_place(mariadb, unique):
    """A place on the shared server that no other test uses."""
    place = MariadbPlace(mariadb, unique("place"))
    yield place
    place.drop()
