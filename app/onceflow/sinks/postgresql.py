"""PostgreSQL as a two-phase sink: rows and marker row in one prepared transaction per commit epoch.

Decided here: what an epoch does in the database, and in which order; what each answer of the server
means for the protocol. The marker row's compare-and-set is the last statement before PREPARE, so
that a process whose incarnation was raised meanwhile can prepare nothing, however late it comes.
Every transaction carries its branch's name as ``application_name``: it shows in
``pg_stat_activity``, and others can end it. All settings are local to the transaction.

Must never import Faust.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self, cast

import psycopg
from psycopg import errors as pg_errors

from onceflow.errors import (
    ConfigError,
    ParticipantUnavailable,
    RowsRefused,
    Superseded,
    Unreachable,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.limits import (
    FINISH_S_MAX,
    PARTICIPANT_LOCK_S_MAX,
    PREPARE_S_MAX,
    RAISE_LOCK_S,
    SINK_OPEN_S_MAX,
)
from onceflow.sinks.gid import Scope, branch_of, checked_name, derived_name, gid_of
from onceflow.sinks.participant import (
    EncodedRows,
    FinishOutcome,
    MarkerRow,
    Participant,
    Standing,
)
from onceflow.sinks.postgresql_outbox import PostgreSQLOutbox
from onceflow.sinks.postgresql_rows import RowEncoder
from onceflow.sinks.postgresql_session import Session, blames_data, plain
from onceflow.sinks.postgresql_table import (
    TableCheck,
    check_slots,
    check_version,
    create,
    open_markers,
)
from onceflow.sinks.postgresql_write import RowsBlamed, TableWriter, first_refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onceflow.sinks.postgresql_types import Column

_APPLICATION: Final = "onceflow"
"""Name of sessions that are not at work on a branch."""


class PostgreSQL(Participant):
    """Writes what an agent yields into a table, exactly once.

    Rows are dicts, records or Arrow data with the table's column names; a column that a row does
    not have gets its default. Without a key every row is appended. With a key a row replaces the
    one with the same key, and ``Delete(key)`` deletes it; columns that a row does not have keep
    their values.

    Args:
        dsn: libpq's connection string or URL; of several hosts the one that takes writes is used.
        table: name of an existing table, with or without a schema.
        key: columns that identify a row; the table needs a primary key or unique constraint on
            exactly these.
        create_table: columns and their SQL types; makes the table if it does not exist, with the
            key as primary key, and refuses one whose columns have other types.
        name: names the sink within the application, 1 to 16 of ``[a-z0-9_]``; derived from the
            table by default. Its branches are found by it, so keep it.
        delivery: ``"two_phase"``, or ``"outbox"`` for a server on which nothing is to be prepared:
            rows follow Kafka's decision through a topic, a little later (``PostgreSQLOutbox``).
        on_error: with ``"outbox"`` only, ``"dead_letter"`` (the default) or ``"stop"``: what
            becomes of rows that the table refuses, when their record is long done.

    Raises:
        ConfigError: an argument that cannot be meant.
    """

    def __new__(
        cls,
        dsn: str,
        *,
        table: str,
        key: Sequence[str] | None = None,
        create_table: Mapping[str, str] | None = None,
        name: str | None = None,
        delivery: str = "two_phase",
        on_error: str | None = None,
    ) -> Self:
        """Make the sink for the kind of delivery, which is an `OutboxSink` for ``"outbox"``."""
        if delivery == "outbox":
            made = PostgreSQLOutbox(
                dsn, table=table, key=key, create_table=create_table, name=name, on_error=on_error
            )
            return cast("Self", made)
        if delivery != "two_phase":
            raise ConfigError(
                f"delivery={delivery!r} of a PostgreSQL sink is unknown. Nothing was consumed. Use "
                f"'two_phase' (the default) or 'outbox'."
            )
        return super().__new__(cls)

    def __init__(
        self,
        dsn: str,
        *,
        table: str,
        key: Sequence[str] | None = None,
        create_table: Mapping[str, str] | None = None,
        name: str | None = None,
        delivery: str = "two_phase",
        on_error: str | None = None,
    ) -> None:
        if on_error is not None:
            raise ConfigError(
                f"on_error of a PostgreSQL sink needs delivery='outbox'; with {delivery!r} a row "
                f"that is refused fails its record, and the agent's on_error decides."
            )
        self.name = derived_name("pg", table) if name is None else checked_name(name)
        self._table = table
        self._key = (key,) if isinstance(key, str) else tuple(key or ())
        self._create_table = create_table
        if create_table is not None:
            unknown = [column for column in self._key if column not in create_table]
            if unknown:
                raise ConfigError(
                    f"the sink of table {table} has {unknown[0]!r} in its key, but not among the "
                    f"columns of create_table. Add it there."
                )
        self._session = Session(dsn, _APPLICATION)
        self._scope: Scope | None = None
        self._markers = ""
        self._encoder: RowEncoder | None = None
        self._writer: TableWriter | None = None

    def encode(self, value: object) -> EncodedRows:
        """See ``Participant.encode``."""
        if self._encoder is None:
            raise self._not_open()
        return self._encoder.encode(value)

    def open(self, scope: Scope) -> None:
        """See ``Participant.open``."""
        session = self._session
        with session.bounded(SINK_OPEN_S_MAX), ExitStack() as unfit:
            # A connection that another opening left behind may be dead without our knowing it.
            session.drop()
            unfit.callback(session.drop)
            session.connect()
            columns = self._checked(scope)
            unfit.pop_all()
        self._encoder = RowEncoder(self._table, columns, self._key)
        self._writer = TableWriter(session, self._table, columns, self._key, self._encoder)
        self._scope = scope

    def prepare(self, branch: BranchId, rows: Sequence[EncodedRows]) -> None:
        """See ``Participant.prepare``."""
        session, writer, gid = self._session, self._opened_writer(), self._gid(branch)
        with session.bounded(PREPARE_S_MAX):
            try:
                self._begin(gid)
                writer.write(rows)
                self._mark(branch)
                self._prepare_transaction(gid)
            except RowsBlamed as blamed:
                raise self._refused(blamed, rows) from blamed
            except pg_errors.LockNotAvailable as error:
                self._session.roll_back()
                raise ParticipantUnavailable(
                    f"a lock that branch {gid} needs in PostgreSQL ({session.where}) is held by "
                    f"another transaction, perhaps a prepared one: {plain(error)}. The epoch is "
                    f"tried again; see pg_locks and pg_prepared_xacts if this goes on."
                ) from error
            except psycopg.Error as error:
                # Deferred constraints are checked by PREPARE itself.
                if blames_data(error) and not session.is_lost():
                    raise self._refused(RowsBlamed(error, None), rows) from error
                self._session.roll_back()
                raise session.unavailable(error) from error

    def commit(self, branch: BranchId) -> FinishOutcome:
        """See ``Participant.commit``."""
        gid = self._gid(branch)

        def attempt() -> FinishOutcome:
            try:
                self._session.execute(f"COMMIT PREPARED '{gid}'")
            except pg_errors.UndefinedObject:
                row = self._marker(branch.incarnation)
                shown = row is not None and row.commit_epoch == branch.commit_epoch
                return FinishOutcome.DONE if shown else FinishOutcome.MISSING
            return FinishOutcome.DONE

        with self._session.bounded(FINISH_S_MAX):
            return self._session.persist(attempt, lambda error: self._frees(gid, error))

    def roll_back(self, branch: BranchId) -> None:
        """See ``Participant.roll_back``."""
        gid = self._gid(branch)

        def attempt() -> None:
            # A PREPARE whose connection was lost may still be on its way; it is ended first.
            self._end_sessions("application_name = %s", gid)
            try:
                self._session.execute(f"ROLLBACK PREPARED '{gid}'")
            except pg_errors.UndefinedObject:
                return

        with self._session.bounded(FINISH_S_MAX):
            self._session.persist(attempt, lambda error: self._frees(gid, error))

    def branches(self) -> list[BranchId]:
        """See ``Participant.branches``."""
        with self._session.bounded(FINISH_S_MAX):
            return self._session.persist(self._listed, lambda _: False)

    def marker_row(self, incarnation: Incarnation) -> MarkerRow | None:
        """See ``Participant.marker_row``."""
        with self._session.bounded(FINISH_S_MAX):
            return self._session.persist(lambda: self._marker(incarnation), lambda _: False)

    def raise_marker(self, incarnation: Incarnation) -> None:
        """See ``Participant.raise_marker``."""
        scope = self._opened_scope()

        def attempt() -> None:
            self._session.execute(
                f"BEGIN; SET LOCAL lock_timeout = {round(1000 * RAISE_LOCK_S)};"
                " SET LOCAL synchronous_commit = on"
            )
            self._session.change(
                f"INSERT INTO {self._marker_table()} AS m"
                " (scope, participant, incarnation, commit_epoch, standing)"
                " VALUES (%s, %s, %s, 0, 'raised')"
                " ON CONFLICT (scope, participant, incarnation)"
                " DO UPDATE SET standing = 'raised', changed = now()",
                [scope.scope, self.name, incarnation],
            )
            self._session.execute("COMMIT")

        def again(error: psycopg.Error) -> bool:
            self._session.roll_back()
            if not isinstance(error, pg_errors.LockNotAvailable):
                return False
            self._end_sessions(
                "starts_with(application_name, %s)", f"{scope.gid_prefix}{incarnation}."
            )
            # Held by a prepared branch it stays so until that is finished, which is not ours.
            return all(each.incarnation != incarnation for each in self._listed())

        with self._session.bounded(FINISH_S_MAX):
            self._session.persist(attempt, again)

    def close(self) -> None:
        """See ``Participant.close``."""
        self._session.drop()

    def _checked(self, scope: Scope) -> list[Column]:
        """Check the server and the table; give its columns."""
        session = self._session
        try:
            check_version(session)
            check_slots(session, scope)
            if self._create_table is not None:
                create(session, self._table, self._create_table, self._key)
            check = TableCheck(session, self._table, self._key)
            columns = check.columns(self._create_table)
            self._markers = open_markers(session, check.schema())
        except psycopg.ProgrammingError as error:
            raise ConfigError(
                f"PostgreSQL ({session.where}) refuses what the sink of table {self._table} "
                f"needs to see: {plain(error)}. Nothing was consumed. Give its user the right, "
                f"or correct the name."
            ) from error
        except psycopg.Error as error:
            raise Unreachable(
                f"PostgreSQL ({session.where}) could not be checked: {plain(error)}. Nothing "
                f"was consumed. Start the worker again once it answers."
            ) from error
        return columns

    def _not_open(self) -> ConfigError:
        return ConfigError(
            f"the sink of table {self._table} was used before it was opened. Give it to an agent "
            f"(sink=[...]), or call open() first."
        )

    def _opened_scope(self) -> Scope:
        if self._scope is None:
            raise self._not_open()
        return self._scope

    def _opened_writer(self) -> TableWriter:
        if self._writer is None:
            raise self._not_open()
        return self._writer

    def _marker_table(self) -> str:
        return self._markers.replace("%", "%%")

    def _gid(self, branch: BranchId) -> str:
        return gid_of(self._opened_scope(), branch, self.name)

    def _begin(self, gid: str) -> None:
        """Begin the branch's transaction; a connection that died since is replaced."""
        statement = (
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
            f" SET LOCAL application_name = '{gid}';"
            f" SET LOCAL lock_timeout = {round(1000 * PARTICIPANT_LOCK_S_MAX)};"
            f" SET LOCAL statement_timeout = {round(1000 * PREPARE_S_MAX)};"
            # A worker that stands still in between lets go of its locks.
            f" SET LOCAL idle_in_transaction_session_timeout = {round(1000 * PREPARE_S_MAX)};"
            " SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';"
            " SET LOCAL IntervalStyle = 'postgres'"
        )
        was_connected = not self._session.is_lost()
        try:
            self._session.execute(statement)
        except psycopg.OperationalError:
            if not (was_connected and self._session.is_lost()):
                raise
            self._session.drop()
            self._session.execute(statement)

    def _mark(self, branch: BranchId) -> None:
        """The compare-and-set of the marker row.

        Raises:
            Superseded: the row does not let this branch pass.
        """
        scope = self._opened_scope()
        changed = self._session.change(
            f"INSERT INTO {self._marker_table()} AS m"
            " (scope, participant, incarnation, commit_epoch, standing)"
            " VALUES (%s, %s, %s, %s, 'active')"
            " ON CONFLICT (scope, participant, incarnation)"
            " DO UPDATE SET commit_epoch = EXCLUDED.commit_epoch, changed = now()"
            " WHERE m.standing = 'active' AND m.commit_epoch < EXCLUDED.commit_epoch",
            [scope.scope, self.name, branch.incarnation, branch.commit_epoch],
        )
        if changed != 1:
            self._session.roll_back()
            raise Superseded(
                f"PostgreSQL ({self._session.where}) takes branch {self._gid(branch)} no more: "
                f"another worker took this one's partitions over, or its epoch is behind. Nothing "
                f"was prepared; the worker starts again as a new incarnation."
            )

    def _prepare_transaction(self, gid: str) -> None:
        status = self._session.status_of(f"PREPARE TRANSACTION '{gid}'")
        if status != "PREPARE TRANSACTION":
            # In a transaction that failed before, PREPARE rolls back and is no error.
            raise ParticipantUnavailable(
                f"PostgreSQL ({self._session.where}) answered {status!r} when branch {gid} was to "
                f"be prepared, so that it is not. Nothing is lost; the epoch is tried again."
            )

    def _refused(self, blamed: RowsBlamed, rows: Sequence[EncodedRows]) -> RowsRefused:
        self._session.roll_back()
        culprit = blamed.culprit
        if culprit is None:
            culprit = first_refused(self._opened_writer(), rows, self._session)
        error = blamed.error
        said = plain(error) if isinstance(error, psycopg.Error) else str(error)
        return RowsRefused(
            f"PostgreSQL ({self._session.where}) refuses a row for table {self._table}: {said}. "
            f"Nothing of the epoch was prepared; the record that yielded it is to blame.",
            culprit=culprit,
        )

    def _listed(self) -> list[BranchId]:
        scope = self._opened_scope()
        found = self._session.execute(
            "SELECT gid FROM pg_prepared_xacts"
            " WHERE database = current_database() AND starts_with(gid, %s)",
            [scope.gid_prefix],
        )
        branches = (branch_of(gid, scope, self.name) for (gid,) in found)
        return sorted(branch for branch in branches if branch is not None)

    def _marker(self, incarnation: Incarnation) -> MarkerRow | None:
        found = self._session.execute(
            f"SELECT commit_epoch, standing FROM {self._marker_table()}"
            " WHERE scope = %s AND participant = %s AND incarnation = %s",
            [self._opened_scope().scope, self.name, incarnation],
        )
        return MarkerRow(CommitEpoch(found[0][0]), Standing(found[0][1])) if found else None

    def _frees(self, gid: str, error: psycopg.Error) -> bool:
        """Whether a branch may be finished soon, though another session is at it.

        Past half of the bound that session is ended, because its client is likely to be gone.
        """
        if not isinstance(error, pg_errors.ObjectNotInPrerequisiteState):
            return False
        if self._session.remaining_s < FINISH_S_MAX / 2:
            self._end_sessions("strpos(query, %s) > 0", gid)
        return True

    def _end_sessions(self, condition: str, value: str) -> None:
        """End other sessions on this database that the condition fits."""
        ended = self._session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            f" AND backend_type = 'client backend' AND {condition}",
            [value],
        )
        if ended:
            # The signal is asynchronous; what the session was doing must have an end before ours.
            self._wait_for_end(condition, value)

    def _wait_for_end(self, condition: str, value: str) -> None:
        statement = (
            "SELECT count(*), pg_sleep(0.02) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            f" AND backend_type = 'client backend' AND {condition}"
        )
        while self._session.execute(statement, [value])[0][0]:
            continue
