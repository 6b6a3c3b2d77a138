"""What the sink application's outbox sinks have written, for `harness.sink_run.SinkRun`."""

from __future__ import annotations

from harness.sink_run import PostgresStore, read_sqlite


class SqliteOutbox:
    """The sinks are two tables of a SQLite file."""

    def __init__(self, directory):
        self.path = directory / "target.db"
        self.environ = {"SINK_OUTBOX": str(self.path)}

    def log(self):
        """Rows of the appending sink: (partition, offset, key, count, total)."""
        return read_sqlite(self.path, "SELECT p, o, k, c, t FROM log")

    def latest(self):
        """The table of the upserting sink: key to count."""
        return dict(read_sqlite(self.path, "SELECT k, c FROM latest"))

    def prepared(self):
        """Nothing: these sinks do not prepare."""
        return []


class PostgresOutbox(PostgresStore):
    """The sinks are two tables in a place of a real server, and prepare nothing."""

    def __init__(self, place):
        super().__init__(place)
        self.environ = {"SINK_OUTBOX": place.dsn()}
