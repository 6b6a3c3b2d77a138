"""A real MariaDB for tests: own data directory, own port, killed and restarted at will.

Missing binaries are a failure with the command that installs them: a run that tested nothing must
not look like one that succeeded.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import suppress

import pytest

from harness.server_process import ServerProcess

INSTALL = "apt-get install --no-install-recommends mariadb-server"


def binary(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.fail(f"MariaDB's server is not installed ({name}). Install it: {INSTALL}")
    return found


class MariadbServer:
    """One server, whose user ``root`` has no password over TCP; InnoDB syncs at each commit."""

    def __init__(self) -> None:
        self.process = ServerProcess("mariadb", "mysql", "nobody")
        self._data = str(self.process.folder / "data")
        self.process.run(
            *(binary("mariadb-install-db"), "--no-defaults", f"--datadir={self._data}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
        )

    @property
    def port(self) -> int:
        return self.process.port

    def start(self) -> MariadbServer:
        command = [
            *(binary("mariadbd"), "--no-defaults", f"--datadir={self._data}"),
            *(f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve"),
            f"--socket={self.process.folder / 'socket'}",
            f"--pid-file={self.process.folder / 'pid'}",
            *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"),
            *("--innodb-flush-log-at-trx-commit=1", "--performance-schema=OFF"),
        ]
        self.process.start(command, self._answers)
        return self

    def _answers(self) -> bool:
        # The server speaks first; its greeting means that it takes logins.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as greeting:
            return len(greeting.recv(64)) > 5
        return False

    def sql(self, statements: str, database: str = "") -> list[list[str]]:
        """Run statements through the server's own client; the rows as texts."""
        done = subprocess.run(
            [
                *(binary("mariadb"), "--no-defaults", "--protocol=tcp", "--host=127.0.0.1"),
                *(f"--port={self.port}", "--user=root", "--batch", "--skip-column-names"),
                *([f"--database={database}"] if database else []),
            ],
            input=statements,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def mariadb():
    """A server shared by the session: each test makes a database of its own."""
    server = MariadbServer()
    try:
        yield server.start()
    finally:
        server.process.remove()
