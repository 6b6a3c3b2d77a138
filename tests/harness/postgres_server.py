"""A real PostgreSQL for tests: own data directory, own port, killed and restarted at will.

Missing binaries are a failure with the command that installs them: a run that tested nothing must
not look like one that succeeded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from harness.server_process import ServerProcess
from onceflow.sinks.gid import Scope

INSTALL = "apt-get install --no-install-recommends postgresql"


def binaries() -> Path:
    """Where all programs of one version lie: a link in PATH leads there."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if on_path is not None:
        found.append(Path(on_path).resolve())
    if not found:
        pytest.fail(f"PostgreSQL's server is not installed. Install it: {INSTALL}")
    return found[-1].parent


class PostgresServer:
    """One server; ``process`` kills it (with all its sessions) and removes it.

    Args:
        max_prepared_transactions: the setting.
        primary: a running server, of which this one becomes a hot standby.
    """

    def __init__(
        self, *, max_prepared_transactions: int = 64, primary: PostgresServer | None = None
    ) -> None:
        self.process = ServerProcess("postgres", "postgres", "nobody")
        self._binaries = binaries()
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_prepared_transactions": max_prepared_transactions,
            "shared_buffers": "32MB",
            "max_connections": 50,
        }
        self._data = str(self.process.folder / "data")
        if primary is not None:
            self.process.run(
                *(str(self._binaries / "pg_basebackup"), "--pgdata", self._data),
                *("--dbname", primary.dsn(), "--checkpoint", "fast", "--write-recovery-conf"),
            )
            return
        self.process.run(
            *(str(self._binaries / "initdb"), "--pgdata", self._data, "--username", "onceflow"),
            *("--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"),
        )

    def dsn(self, database: str = "postgres", user: str = "onceflow") -> str:
        return f"host=127.0.0.1 port={self.process.port} dbname={database} user={user}"

    def start(self) -> PostgresServer:
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        command = [
            *(str(self._binaries / "postgres"), "-D", self._data, "-p", str(self.process.port)),
            *(part for each in settings for part in ("-c", each)),
        ]
        self.process.start(command, self._answers)
        return self

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def sql(self, statement: str, *values: object) -> list[tuple]:
        """Run one statement on a connection of its own, outside of a transaction."""
        return run_sql(self.dsn(), statement, *values)


def run_sql(dsn: str, statement: str, *values: object) -> list[tuple]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


class PostgresPlace:
    """A schema of its own on a server, and a scope of its own for branches: one test's place."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.schema = name.replace("-", "_")
        self.scope = Scope.of("cluster", name)
        server.sql(f"CREATE SCHEMA {self.schema}")
        server.sql(f"GRANT USAGE ON SCHEMA {self.schema} TO public")

    def dsn(self, user: str = "onceflow") -> str:
        return f"{self.server.dsn(user=user)} options='-c search_path={self.schema}'"

    def sql(self, statement: str, *values: object) -> list[tuple]:
        return run_sql(self.dsn(), statement, *values)

    def drop(self) -> None:
        prepared = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'of1.%'"
        for (gid,) in self.sql(prepared):
            self.sql(f"ROLLBACK PREPARED '{gid}'")
        self.sql(f"DROP SCHEMA {self.schema} CASCADE")


@pytest.fixture(scope="session")
def postgres():
    """A server with 64 slots for prepared transactions; each test has a place of its own on it."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.process.remove()


@pytest.fixture
def postgres_place(postgres, unique):
    """A place on the shared server that no other test uses."""
    place = PostgresPlace(postgres, unique("place"))
    yield place
    place.drop()
