"""A real PostgreSQL for tests: own data directory, own port, killed and restarted at will.

The server refuses to run as root, so root starts it as the user ``postgres``. Missing binaries are
a failure with the command that installs them: a run that tested nothing must not look like one that
succeeded.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from onceflow.sinks.gid import Scope

START_S = 60.0
INSTALL = "apt-get install --no-install-recommends postgresql"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server_user(*candidates: str) -> str | None:
    """Whom a server runs as: None (ourselves), or for root the first user that exists."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in candidates if name in known)


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill_family(process: subprocess.Popen) -> None:
    """Kill a server and its children at once, as a power cut does; returns when they are gone."""
    pids = family(process.pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids[1:])):
        assert time.monotonic() < deadline, "killed processes do not go away"
        time.sleep(0.01)


class PostgresServer:
    """One server; ``start``, ``kill`` (with all its sessions) and ``stop`` as often as wanted."""

    def __init__(self, *, max_prepared_transactions: int = 64, **settings: str) -> None:
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_prepared_transactions": str(max_prepared_transactions),
            "shared_buffers": "32MB",
            "max_connections": "50",
            **settings,
        }
        self.port = free_port()
        self.user = server_user("postgres", "nobody")
        self._process: subprocess.Popen | None = None
        self._binaries = self._find()
        self._folder = Path(tempfile.mkdtemp(prefix="onceflow-postgres-"))
        if self.user is not None:
            shutil.chown(self._folder, self.user)
        self._run(
            *("initdb", "--pgdata", str(self._folder / "data"), "--username", "onceflow"),
            *("--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"),
        )

    @staticmethod
    def _find() -> Path:
        on_path = shutil.which("initdb")
        debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
        found = [Path(on_path)] if on_path else sorted(debian)
        if not found:
            pytest.fail(f"PostgreSQL's server is not installed. Install it: {INSTALL}")
        return found[-1].parent

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            user=self.user,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def dsn(self, database: str = "postgres", user: str = "onceflow") -> str:
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user}"

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> PostgresServer:
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        # The death signal lets it end in order when the tests are killed.
        as_user = ["--reuid", self.user, "--clear-groups"] if self.user else []
        command = [
            *("setpriv", "--pdeathsig", "INT", *as_user, "--"),
            *(str(self._binaries / "postgres"), "-D", str(self._folder / "data")),
            *("-p", str(self.port), *(part for each in settings for part in ("-c", each))),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.05)
            else:
                return self

    def kill(self) -> None:
        """Kill the server and every session, as a power cut does."""
        assert self._process is not None
        kill_family(self._process)
        self._process = None

    @contextlib.contextmanager
    def stopped(self):
        """The server and its sessions stand still, as behind a network that delivers nothing."""
        assert self._process is not None
        pids = family(self._process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the server for good and delete its data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def sql(self, statement: str, *values: object) -> list[tuple]:
        """Run one statement on a connection of its own, outside of a transaction."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgres():
    """A server with 64 slots for prepared transactions; each test has a place of its own on it."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.stop()


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
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def drop(self) -> None:
        prepared = "SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, %s)"
        for (gid,) in self.sql(prepared, self.scope.gid_prefix):
            self.sql(f"ROLLBACK PREPARED '{gid}'")
        self.sql(f"DROP SCHEMA {self.schema} CASCADE")


@pytest.fixture
def postgres_place(postgres, unique):
    """A place on the shared server that no other test uses."""
    place = PostgresPlace(postgres, unique("place"))
    yield place
    place.drop()
