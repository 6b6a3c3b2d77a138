"""SQLite as an outbox sink: rows and progress in one transaction of a file on this host.

Decided here: the file is in WAL mode, so that readers never wait for the applier nor it for them,
and synchronous, so that what is committed survives a power cut. The progress row's compare-and-set
is the first statement after ``BEGIN IMMEDIATE``: of two appliers one has the file, and the other
finds the row moved.

The only importer of sqlite3. Must never import Faust.
"""

from __future__ import annotations

import secrets
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onceflow.decisions.outbox import Progress
from onceflow.errors import (
    ConfigError,
    LaterVersion,
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Unreachable,
)
from onceflow.limits import OUTBOX_UNTOLD_MAX, PARTICIPANT_AGAIN_S, PARTICIPANT_LOCK_S_MAX
from onceflow.sinks.gid import Scope, checked_name, derived_name
from onceflow.sinks.outbox import (
    OutboxRun,
    OutboxSink,
    ProgressMoved,
    RefusedMessage,
    on_refused,
)
from onceflow.sinks.outbox_format import OutboxPiece, decode_message
from onceflow.sinks.sqlite_rows import SqliteColumn, SqliteRows

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from onceflow.sinks.participant import EncodedRows

_VERSION_MIN: Final = (3, 24)
"""SQLite 3.24 has ON CONFLICT DO UPDATE."""

_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS onceflow_target (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), identity TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS onceflow_progress (
        scope TEXT NOT NULL, sink TEXT NOT NULL, number INTEGER NOT NULL, topic_id TEXT NOT NULL,
        next_offset INTEGER NOT NULL, PRIMARY KEY (scope, sink, number));
    CREATE TABLE IF NOT EXISTS onceflow_refused (
        scope TEXT NOT NULL, sink TEXT NOT NULL, number INTEGER NOT NULL,
        log_offset INTEGER NOT NULL, topic_id TEXT NOT NULL, error TEXT NOT NULL,
        message BLOB NOT NULL, is_told INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (scope, sink, topic_id, number, log_offset))"""

_OURS: Final = ("onceflow_target", "onceflow_progress", "onceflow_refused")

_DATA_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError)


class SQLite(OutboxSink):
    """Writes what an agent yields into a table of a SQLite file, exactly once.

    Rows are dicts, records or Arrow data with the table's column names. Without a key every row is
    appended. With a key a row replaces the one with the same key, and ``Delete(key)`` deletes it;
    columns that a row does not have keep their values.

    The file belongs to this host: workers on another one would write a file of their own. They are
    found out when they take a partition over, and stop.

    Args:
        path: of the file; made if it does not exist. Not on a network file system.
        table: name of an existing table.
        key: columns that identify a row; the table needs a primary key or unique index on exactly
            these.
        create_table: columns and their types; makes the table if it does not exist, with the key
            as primary key, and refuses one whose columns have other types.
        name: names the sink within the application, and its topic, 1 to 16 of ``[a-z0-9_]``;
            derived from the table by default.
        on_error: ``"dead_letter"`` or ``"stop"``: what becomes of rows that the table refuses.

    Raises:
        ConfigError: an argument that cannot be meant.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str,
        key: Sequence[str] | None = None,
        create_table: Mapping[str, str] | None = None,
        name: str | None = None,
        on_error: str = "dead_letter",
    ) -> None:
        self.name = derived_name("sqlite", table) if name is None else checked_name(name)
        self.on_error = on_refused(on_error)
        self.where = f"{path} on {socket.gethostname()}, which workers of other hosts cannot see"
        self._path = Path(path)
        self._table = table
        self._key = (key,) if isinstance(key, str) else tuple(key or ())
        self._create_table = create_table
        unknown = [c for c in self._key if create_table is not None and c not in create_table]
        if unknown:
            raise ConfigError(
                f"the sink of table {table} has {unknown[0]!r} in its key, but not among the "
                "columns of create_table. Add it there."
            )
        self._connection: sqlite3.Connection | None = None
        self._scope = ""
        self._rows: SqliteRows | None = None
        self._statements: dict[tuple[tuple[str, ...], bool], str] = {}

    def encode(self, value: object) -> EncodedRows:
        """See ``OutboxSink.encode``."""
        if self._rows is None:
            raise ConfigError(
                f"the sink of table {self._table} was used before it was opened. Give it to an "
                "agent (sink=[...]), or call open() first."
            )
        return self._rows.encode(value)

    def open(self, scope: Scope) -> str:
        """See ``OutboxSink.open``."""
        self.close()
        if sqlite3.sqlite_version_info < _VERSION_MIN:
            raise ConfigError(
                f"SQLite {sqlite3.sqlite_version} is too old for the sink of table {self._table}: "
                "3.24 or later is needed. Nothing was consumed."
            )
        try:
            columns = self._insist_on_opening()
        except sqlite3.Error as error:
            self.close()
            raise Unreachable(
                f"the SQLite file {self._path} cannot be used: {error}. Nothing was consumed. See "
                "that its directory exists and may be written by this user, that the disk is not "
                "full, and that nobody keeps the file locked; then start the worker again."
            ) from error
        self._scope = scope.scope
        self._rows = SqliteRows(self._table, columns, self._key)
        [(identity,)] = self._connected().execute("SELECT identity FROM onceflow_target")
        return str(identity)

    def _insist_on_opening(self) -> list[SqliteColumn]:
        """Open, also while another worker turns the file into WAL mode: that waits for nobody."""
        deadline_s = time.monotonic() + PARTICIPANT_LOCK_S_MAX
        while True:
            try:
                return self._opened(self._connected())
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
                self.close()
                if not is_busy or time.monotonic() > deadline_s:
                    raise
            time.sleep(PARTICIPANT_AGAIN_S)

    def _opened(self, connection: sqlite3.Connection) -> list[SqliteColumn]:
        """Make what is missing of the tables, and check the user's."""
        if self._is_missing(connection):
            self._make_tables(connection)
        return self._checked(connection)

    def _is_missing(self, connection: sqlite3.Connection) -> bool:
        """Whether tables must be made; a file that has them is opened also while others write."""
        wanted = [*_OURS, *([self._table] if self._create_table is not None else [])]
        given = ", ".join("?" for _ in wanted)
        [(found,)] = connection.execute(
            f"SELECT count(*) FROM sqlite_master WHERE name IN ({given})",  # noqa: S608 - marks
            wanted,
        )
        return found < len(wanted)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(
            "INSERT OR IGNORE INTO onceflow_target VALUES (1, ?)", (secrets.token_hex(8),)
        )
        if self._create_table is not None:
            parts = [f"{_quoted(name)} {kind}" for name, kind in self._create_table.items()]
            if self._key:
                parts.append(f"PRIMARY KEY ({', '.join(map(_quoted, self._key))})")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_quoted(self._table)} ({', '.join(parts)})"
            )
        connection.execute("COMMIT")

    def _checked(self, connection: sqlite3.Connection) -> list[SqliteColumn]:
        found = connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)'
            " WHERE hidden = 0",
            (self._table,),
        ).fetchall()
        if not found:
            raise self._wrong(
                "does not exist. Create it, or let the sink do so with create_table={column: type}."
            )
        # SQLite chooses the integer of a primary key itself if it is left out.
        columns = [
            SqliteColumn(
                name,
                kind,
                bool(required) and default is None and not (pk and kind.upper() == "INTEGER"),
            )
            for name, kind, required, default, pk in found
        ]
        have = {column.name: column.type_name for column in columns}
        for name, kind in (self._create_table or {}).items():
            wanted = kind.split()[0].upper() if kind.split() else ""
            if name not in have or wanted != (have[name].upper().split() or [""])[0]:
                raise self._wrong(
                    f"exists, but its column {name!r} is {have.get(name, 'missing')!r} and not "
                    f"{kind!r}, as create_table says. Alter the table, or change create_table."
                )
        self._check_key(connection, {name: pk for name, *_, pk in found})
        every = OutboxPiece(tuple(have), is_delete=False, rows=[])
        try:
            connection.execute(f"EXPLAIN {self._statement(every)}", [None] * len(have))
        except sqlite3.OperationalError as error:
            raise self._wrong(f"cannot be written: {error}.") from error
        return columns

    def _check_key(self, connection: sqlite3.Connection, primary: dict[str, int]) -> None:
        keys = [{name for name, pk in primary.items() if pk}]
        indexes = connection.execute(
            'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (self._table,)
        ).fetchall()
        for (index,) in indexes:
            named = connection.execute("SELECT name FROM pragma_index_info(?)", (index,))
            keys.append({name for (name,) in named})
        if self._key and set(self._key) not in keys:
            listed = ", ".join(map(_quoted, self._key))
            raise self._wrong(
                f"has no primary key or unique index on exactly ({listed}), so that rows could not "
                f"be replaced by key. Run CREATE UNIQUE INDEX ... ON {_quoted(self._table)} "
                f"({listed})."
            )

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"table {self._table} in {self._path} {what} Nothing was consumed.")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=PARTICIPANT_LOCK_S_MAX, isolation_level=None
            )
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        return self._connection

    def progress(self) -> dict[int, Progress]:
        """See ``OutboxSink.progress``."""
        rows = self._answer(
            "SELECT number, topic_id, next_offset FROM onceflow_progress"
            " WHERE scope = ? AND sink = ?",
            (self._scope, self.name),
        )
        return {number: Progress(topic_id, offset) for number, topic_id, offset in rows}

    def _answer(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            self._roll_back()
            return self._connected().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def write(self, runs: Sequence[OutboxRun]) -> None:
        """See ``OutboxSink.write``."""
        try:
            self._roll_back()
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            for run in runs:
                self._move(connection, run)
            for run in runs:
                self._apply(connection, run)
        except (LaterVersion, RowsRefused):
            self._roll_back()
            raise
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _move(self, connection: sqlite3.Connection, run: OutboxRun) -> None:
        """The compare-and-set of the progress row.

        Raises:
            ProgressMoved: it is not as expected.
        """
        if run.expected is None:
            changed = connection.execute(
                "INSERT INTO onceflow_progress VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (self._scope, self.name, run.number, run.topic_id, run.next_offset),
            ).rowcount
        else:
            changed = connection.execute(
                "UPDATE onceflow_progress SET next_offset = ? WHERE scope = ? AND sink = ?"
                " AND number = ? AND topic_id = ? AND next_offset = ?",
                (run.next_offset, self._scope, self.name, run.number, run.topic_id, run.expected),
            ).rowcount
        if changed != 1:
            connection.execute("ROLLBACK")
            raise ProgressMoved(
                f"partition {run.number} of the outbox of {self.name} is not at {run.expected} in "
                f"{self._path}: another worker applies it. Nothing was applied twice."
            )

    def _apply(self, connection: sqlite3.Connection, run: OutboxRun) -> None:
        if run.refusal is not None:
            connection.execute(
                "INSERT INTO onceflow_refused"
                " (scope, sink, number, log_offset, topic_id, error, message)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._scope,
                    self.name,
                    run.number,
                    run.offsets[0],
                    run.topic_id,
                    run.refusal,
                    run.messages[0],
                ),
            )
            return
        for place, message in enumerate(run.messages):
            try:
                for piece in decode_message(message):
                    connection.executemany(self._statement(piece), piece.rows)
            except (*_DATA_ERRORS, SerializationError) as error:
                raise RowsRefused(
                    f"SQLite ({self._path}) refuses a row for table {self._table}: {error}. "
                    "Nothing of its run was applied.",
                    culprit=place,
                ) from error

    def _statement(self, piece: OutboxPiece) -> str:
        known = self._statements.get((piece.columns, piece.is_delete))
        if known is not None:
            return known
        table, names = _quoted(self._table), [_quoted(name) for name in piece.columns]
        if piece.is_delete:
            same = " AND ".join(f"{name} = ?" for name in names)
            statement = f"DELETE FROM {table} WHERE {same}"  # noqa: S608 - names are quoted
        else:
            given = ", ".join("?" for _ in names)
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({given})"  # noqa: S608
            if self._key:
                key = [_quoted(name) for name in self._key]
                changes = ", ".join(f"{n} = excluded.{n}" for n in names if n not in key)
                change = f"UPDATE SET {changes}" if changes else "NOTHING"
                statement += f" ON CONFLICT ({', '.join(key)}) DO {change}"
        self._statements[piece.columns, piece.is_delete] = statement
        return statement

    def commit(self) -> None:
        """See ``OutboxSink.commit``."""
        try:
            self._connected().execute("COMMIT")
        except _DATA_ERRORS as error:
            self._roll_back()
            raise RowsRefused(
                f"SQLite ({self._path}) refuses rows for table {self._table} when they are "
                f"committed: {error}. Nothing of their run was applied.",
                culprit=None,
            ) from error
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def untold(self, numbers: AbstractSet[int]) -> list[RefusedMessage]:
        """See ``OutboxSink.untold``."""
        # Numbers stand in the text: their marks would be bounded.
        ours = ", ".join(str(int(number)) for number in sorted(numbers))
        rows = self._answer(
            "SELECT topic_id, number, log_offset, error, message"  # noqa: S608 - numbers alone
            " FROM onceflow_refused"
            f" WHERE scope = ? AND sink = ? AND NOT is_told AND number IN ({ours})"
            " ORDER BY number, log_offset LIMIT ?",
            (self._scope, self.name, OUTBOX_UNTOLD_MAX),
        )
        return [RefusedMessage(*row) for row in rows]

    def told(self, messages: Sequence[RefusedMessage]) -> None:
        """See ``OutboxSink.told``."""
        try:
            self._roll_back()
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE onceflow_refused SET is_told = 1 WHERE scope = ? AND sink = ?"
                " AND topic_id = ? AND number = ? AND log_offset = ?",
                [(self._scope, self.name, *each.place) for each in messages],
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """See ``OutboxSink.close``."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _unavailable(self, error: sqlite3.Error) -> ParticipantUnavailable:
        # A fresh connection finds out by itself what became of a transaction.
        self.close()
        return ParticipantUnavailable(
            f"the SQLite file {self._path} did not do what was asked: {error}. Nothing is lost: "
            "rows wait in Kafka, and it is tried again."
        )


def _quoted(name: str) -> str:
    """A name in an SQL statement."""
    return '"' + name.replace('"', '""') + '"'
