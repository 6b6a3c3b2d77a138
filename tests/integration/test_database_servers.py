"""The database servers of the tests themselves: started as nobody special, killed, and back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["mariadb", "postgres"])
def test_a_killed_server_keeps_what_was_committed(name, request, unique):
    server = request.getfixturevalue(name)
    table = unique("t").replace("-", "_")
    schema = "" if name == "postgres" else "mysql."
    server.sql(f"CREATE TABLE {schema}{table} (id int)")
    server.sql(f"INSERT INTO {schema}{table} VALUES (7)")
    owner = Path(f"/proc/{server.process._process.pid}").stat().st_uid
    assert owner == os.geteuid() or os.geteuid() == 0
    assert owner != 0
    server.process.kill()
    server.start()
    assert [str(value) for (value,) in server.sql(f"SELECT id FROM {schema}{table}")] == ["7"]
    server.sql(f"DROP TABLE {schema}{table}")
