"""What the sink application's outbox sinks have written, for `harness.sink_run.SinkRun`."""

from __future__ import annotations

import sqlite3

from harness.sink_run import PostgresStore


class SqliteOutbox:
    """The sinks are two tables of a SQLite file."""

    def __init__(self, directory):
        self.path = directory / "target.db"
        self.environ = {"SINK_OUTBOX": str(self.path)}

    def rows(self, query):
        """Answer a query; nothing while the worker has not made the tables."""
        if not self.path.exists():
            return []
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def log(self):
        """Rows of the appending sink: (partition, offset, key, count, total)."""
        return self.rows("SELECT p, o, k, c, t FROM log")

    def latest(self):
        """The table of the upserting sink: key to count."""
        return dict(self.rows("SELECT k, c FROM latest"))

    def prepared(self):
        """Nothing: these sinks do not prepare."""
        return []


class PostgresOutbox(PostgresStore):
    """The sinks are two tables in a place of a real server, and prepare nothing."""

    def __init__(self, place):
        super().__init__(place)
        self.environ = {"SINK_OUTBOX": place.dsn()}
