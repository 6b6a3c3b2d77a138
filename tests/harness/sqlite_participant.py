"""A two-phase sink over a SQLite file: prepared branches, marker rows and rows survive any kill.

It is for tests of the engine: cheap, and visible from outside with `committed_rows` and
`prepared_branches`. Several processes may share one file. Not a sink for users.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager

from onceflow.errors import (
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Superseded,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks.participant import EncodedRows, FinishOutcome, MarkerRow, Participant, Standing

TABLES = """
CREATE TABLE IF NOT EXISTS prepared (
    scope TEXT, name TEXT, incarnation TEXT, commit_epoch INTEGER, rows TEXT,
    PRIMARY KEY (scope, name, incarnation, commit_epoch));
CREATE TABLE IF NOT EXISTS markers (
    scope TEXT, name TEXT, incarnation TEXT, commit_epoch INTEGER, raised INTEGER,
    PRIMARY KEY (scope, name, incarnation));
CREATE TABLE IF NOT EXISTS appended (name TEXT, row TEXT);
CREATE TABLE IF NOT EXISTS upserted (name TEXT, key TEXT, row TEXT, PRIMARY KEY (name, key));
"""


class SqliteParticipant(Participant):
    """Appends JSON rows, or upserts them by one column.

    Args:
        path: the file; made by ``open``.
        key: the column that rows are upserted by; None appends.
        refuse: rows with this value in any column are refused by ``prepare``, with the culprit.
        refuse_silently: the same without telling which row it was.
    """

    def __init__(self, path, name="lite", *, key=None, refuse=None, refuse_silently=None):
        self.name = name
        self.path = str(path)
        self.key = key
        self.refuse = refuse
        self.refuse_silently = refuse_silently
        self.calls = []
        self.fail = []
        """Errors that the next calls raise, in order; None lets one through."""
        self.down = False
        self._scope = ""
        self._connection = None
        self._is_broken = False

    def encode(self, value):
        rows = value if isinstance(value, list) else [value]
        if not all(isinstance(row, dict) for row in rows):
            raise SerializationError(f"{self.name} takes dicts, not {value!r}")
        try:
            encoded = [json.dumps(row, sort_keys=True) for row in rows]
        except TypeError as error:
            raise SerializationError(f"{self.name} cannot encode {value!r}: {error}") from error
        return EncodedRows(len(rows), sum(map(len, encoded)), encoded)

    def open(self, scope):
        self.calls.append("open")
        self._scope = scope.scope
        with self._transaction() as connection:
            for statement in TABLES.split(";"):
                connection.execute(statement)

    def break_connection(self):
        """Let the call that is under way, or the next one, lose its connection."""
        self._is_broken = True

    @contextmanager
    def _transaction(self):
        if self.down:
            raise ParticipantUnavailable(f"{self.path} is down")
        if self.fail and (error := self.fail.pop(0)) is not None:
            raise error
        try:
            if self._connection is None:
                self._is_broken = False
                self._connection = sqlite3.connect(
                    self.path, timeout=5.0, isolation_level=None, check_same_thread=False
                )
                self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._check_connection()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            raise ParticipantUnavailable(f"{self.path}: {error}") from error
        except ParticipantUnavailable:
            self.close()
            raise
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def _check_connection(self):
        if self._is_broken:
            raise ParticipantUnavailable(f"the connection to {self.path} is lost")

    def _of(self, incarnation):
        return (self._scope, self.name, incarnation)

    def prepare(self, branch, rows):
        self.calls.append(("prepare", branch.commit_epoch))
        for index, encoded in enumerate(rows):
            for row in encoded.payload:
                values = json.loads(row).values()
                if self.refuse is not None and self.refuse in values:
                    raise RowsRefused(f"{row} is refused", culprit=index)
                if self.refuse_silently is not None and self.refuse_silently in values:
                    raise RowsRefused("a row is refused", culprit=None)
        with self._transaction() as connection:
            marker = self._marker(connection, branch.incarnation)
            if marker is not None and marker.raised is Standing.RAISED:
                raise Superseded(f"{branch.incarnation} was raised in {self.name}")
            if marker is not None and marker.commit_epoch >= branch.commit_epoch:
                raise Superseded(f"{self.name} shows {marker} and not less than {branch}")
            self._check_unlocked(connection, branch.incarnation)
            flat = [row for encoded in rows for row in encoded.payload]
            connection.execute(
                "INSERT INTO prepared VALUES (?, ?, ?, ?, ?)",
                (*self._of(branch.incarnation), branch.commit_epoch, json.dumps(flat)),
            )

    def _check_unlocked(self, connection, incarnation):
        """A prepared branch holds the marker row of its incarnation, as a database's would."""
        found = connection.execute(
            "SELECT commit_epoch FROM prepared WHERE (scope, name, incarnation) = (?, ?, ?)",
            self._of(incarnation),
        ).fetchone()
        if found is not None:
            raise ParticipantUnavailable(f"branch {found[0]} of {incarnation} holds its marker row")

    def commit(self, branch):
        self.calls.append(("commit", branch.commit_epoch))
        with self._transaction() as connection:
            found = connection.execute(
                "DELETE FROM prepared WHERE (scope, name, incarnation, commit_epoch)"
                " = (?, ?, ?, ?) RETURNING rows",
                (*self._of(branch.incarnation), branch.commit_epoch),
            ).fetchall()
            if not found:
                marker = self._marker(connection, branch.incarnation)
                shown = marker is not None and marker.commit_epoch == branch.commit_epoch
                return FinishOutcome.DONE if shown else FinishOutcome.MISSING
            for row in json.loads(found[0][0]):
                self._write(connection, row)
            connection.execute(
                "INSERT INTO markers VALUES (?, ?, ?, ?, 0) ON CONFLICT DO UPDATE"
                " SET commit_epoch = excluded.commit_epoch",
                (*self._of(branch.incarnation), branch.commit_epoch),
            )
        return FinishOutcome.DONE

    def _write(self, connection, row):
        if self.key is None:
            connection.execute("INSERT INTO appended VALUES (?, ?)", (self.name, row))
        else:
            key = json.dumps(json.loads(row)[self.key])
            connection.execute(
                "INSERT OR REPLACE INTO upserted VALUES (?, ?, ?)", (self.name, key, row)
            )

    def roll_back(self, branch):
        self.calls.append(("roll_back", branch.commit_epoch))
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM prepared WHERE (scope, name, incarnation, commit_epoch)"
                " = (?, ?, ?, ?)",
                (*self._of(branch.incarnation), branch.commit_epoch),
            )

    def branches(self):
        self.calls.append("branches")
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT incarnation, commit_epoch FROM prepared WHERE (scope, name) = (?, ?)",
                (self._scope, self.name),
            ).fetchall()
        return [BranchId(Incarnation(w), CommitEpoch(e)) for w, e in found]

    def marker_row(self, incarnation):
        with self._transaction() as connection:
            return self._marker(connection, incarnation)

    def _marker(self, connection, incarnation):
        found = connection.execute(
            "SELECT commit_epoch, raised FROM markers WHERE (scope, name, incarnation) = (?, ?, ?)",
            self._of(incarnation),
        ).fetchone()
        if found is None:
            return None
        return MarkerRow(CommitEpoch(found[0]), Standing.RAISED if found[1] else Standing.ACTIVE)

    def raise_marker(self, incarnation):
        self.calls.append(("raise", incarnation))
        with self._transaction() as connection:
            self._check_unlocked(connection, incarnation)
            connection.execute(
                "INSERT INTO markers VALUES (?, ?, ?, 0, 1) ON CONFLICT DO UPDATE SET raised = 1",
                self._of(incarnation),
            )

    def close(self):
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def committed_rows(path, name="lite"):
    """All committed rows of a participant, upserted ones in the order of their keys."""
    with sqlite3.connect(path) as connection:
        appended = connection.execute("SELECT row FROM appended WHERE name = ?", (name,)).fetchall()
        upserted = connection.execute(
            "SELECT row FROM upserted WHERE name = ? ORDER BY key", (name,)
        ).fetchall()
    connection.close()
    return [json.loads(row) for (row,) in [*appended, *upserted]]


def prepared_branches(path):
    """Branches that are prepared and not ended: (name, incarnation, commit epoch)."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(
            "SELECT name, incarnation, commit_epoch FROM prepared"
        ).fetchall()
    connection.close()
    return found
