"""MySQL and MariaDB as a two-phase sink: rows and marker row in one XA branch per commit epoch.

Decided here: what an epoch does in the database, and what each answer means for the protocol.

- A prepared branch of MariaDB stays with its connection until that ends; before, others are told
  that it does not exist (XAER_NOTA), though XA RECOVER lists it. So "unknown" is never taken as
  done: listed means that its connection must be ended first, and else the marker row decides.
- A worker prepares and commits on one connection, which holds a named lock of its incarnation. By
  it others find that connection to end it, and so can nothing come late from it.
- A second connection does everything else.

Must never import Faust.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from onceflow.errors import (
    ConfigError,
    ParticipantUnavailable,
    RowsRefused,
    Superseded,
    Unreachable,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.limits import FINISH_S_MAX, PARTICIPANT_LOCK_S_MAX, PREPARE_S_MAX
from onceflow.sinks.gid import Scope, branch_of, checked_name, derived_name, gid_of
from onceflow.sinks.mysql_rows import RowWriter
from onceflow.sinks.mysql_session import (
    LOCK_WAIT_TIMEOUT,
    XAER_NOTA,
    MySQLError,
    Session,
    blames_data,
    code_of,
    parameters_of,
    plain,
)
from onceflow.sinks.mysql_table import TableCheck, check_server, create
from onceflow.sinks.participant import (
    EncodedRows,
    FinishOutcome,
    MarkerRow,
    Participant,
    Standing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_T = TypeVar("_T")

_FORMAT_ID: Final = 0x6F66
"""The XA format of our branches: "of". Those of another one are never touched."""

_PACKET_RESERVE_BYTES: Final = 65_536
"""Of ``max_allowed_packet``, for what surrounds a row in its statement."""


class MySQL(Participant):
    """Writes what an agent yields into a table of MySQL or MariaDB, exactly once.

    Rows are dicts, records or Arrow data with the table's column names; a column that a row does
    not have gets its default. Without a key every row is appended. With a key a row replaces the
    one with the same key, and ``Delete(key)`` deletes it; columns that a row does not have keep
    their values.

    Args:
        dsn: ``mysql://user:password@host:3306/database``, optionally with ``?ssl_ca=...`` and its
            like.
        table: name of an existing InnoDB table, with or without a database.
        key: columns that identify a row; the table needs a primary key or unique index on exactly
            these, and no other one.
        create_table: columns and their SQL types; makes the table if it does not exist, with the
            key as primary key, and refuses one whose columns have other types.
        name: names the sink within the application, 1 to 16 of ``[a-z0-9_]``; derived from the
            table by default. Its branches are found by it, so keep it.

    Raises:
        ConfigError: an argument that cannot be meant.
    """

    def __init__(
        self,
        dsn: str,
        *,
        table: str,
        key: Sequence[str] | None = None,
        create_table: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = derived_name("my", table) if name is None else checked_name(name)
        self._table = table
        self._key = (key,) if isinstance(key, str) else tuple(key or ())
        self._create_table = create_table
        if create_table is not None and not set(self._key) <= set(create_table):
            raise ConfigError(
                f"the key of the sink of table {table} names columns that create_table has not: "
                f"{sorted(set(self._key) - set(create_table))}"
            )
        parameters = parameters_of(dsn)
        self._work = Session(parameters, round(PARTICIPANT_LOCK_S_MAX))
        self._side = Session(parameters, 1)
        self._attached: BranchId | None = None
        self._opened: tuple[Scope, RowWriter, str] | None = None

    def encode(self, value: object) -> EncodedRows:
        """See ``Participant.encode``."""
        return self._now_open()[1].encode(value)

    def open(self, scope: Scope) -> None:
        """See ``Participant.open``."""
        side = self._side
        side.drop()  # one that was lost meanwhile must not make a living server look dead
        side.connect()
        try:
            check_server(side)
            if self._create_table is not None:
                create(side, self._table, self._create_table, self._key)
            check = TableCheck(side, self._table, self._key)
            columns = check.columns(self._create_table)
            check.open_markers()
            [(packet_bytes,)] = side.execute("SELECT @@max_allowed_packet")
        except MySQLError as error:
            raise Unreachable(
                f"MySQL ({side.where}) could not be checked: {plain(error)}. Nothing was consumed. "
                f"Start the worker again once it answers."
            ) from error
        row_bytes_max = int(packet_bytes) - _PACKET_RESERVE_BYTES
        writer = RowWriter(self._table, columns, self._key, row_bytes_max)
        self._opened = (scope, writer, check.markers)

    def prepare(self, branch: BranchId, rows: Sequence[EncodedRows]) -> None:
        """See ``Participant.prepare``."""
        deadline_s = time.monotonic() + PREPARE_S_MAX
        work, xid = self._work, self._xid(branch)
        if self._attached is not None:
            # Its connection can do nothing else; others finish a branch once that has ended.
            work.drop()
            self._attached = None
        try:
            self._begin(branch, xid, deadline_s)
            self._write(rows, deadline_s)
            if work.change(self._marking(branch)) == 0:
                self._abandon(xid)
                raise self._superseded(branch)
            work.execute(f"XA END {xid}")
            work.execute(f"XA PREPARE {xid}")
        except MySQLError as error:
            self._abandon(xid)
            if blames_data(error):
                raise RowsRefused(
                    f"MySQL ({work.where}) refuses a row for table {self._table}: {plain(error)}. "
                    f"Nothing of the epoch was prepared; the record that yielded it is to blame.",
                    culprit=self._culprit(rows, deadline_s),
                ) from error
            raise work.unavailable(error) from error
        self._attached = branch

    def commit(self, branch: BranchId) -> FinishOutcome:
        """See ``Participant.commit``."""

        def attempt() -> FinishOutcome:
            error = self._finish("COMMIT", branch)
            if error is None:
                return FinishOutcome.DONE
            if branch in self._listed():
                raise error
            # A locking read waits for whoever is just committing this branch.
            shown = self._read_marker(branch.incarnation, " LOCK IN SHARE MODE")
            if shown is not None and shown.commit_epoch == branch.commit_epoch:
                return FinishOutcome.DONE
            if branch in self._listed():
                raise error
            return FinishOutcome.MISSING

        return self._persist(attempt, branch.incarnation)

    def roll_back(self, branch: BranchId) -> None:
        """See ``Participant.roll_back``."""

        def attempt() -> None:
            error = self._finish("ROLLBACK", branch)
            if error is None:
                return
            # A PREPARE whose connection was lost may still be on its way; it is ended first.
            lock = self._lock(branch.incarnation)
            is_coming = not self._work.holds(lock) and self._side.end_holder(lock)
            if is_coming or branch in self._listed():
                raise error

        self._persist(attempt, branch.incarnation)

    def branches(self) -> list[BranchId]:
        """See ``Participant.branches``."""
        return self._persist(self._listed)

    def marker_row(self, incarnation: Incarnation) -> MarkerRow | None:
        """See ``Participant.marker_row``."""
        return self._persist(lambda: self._read_marker(incarnation, ""))

    def raise_marker(self, incarnation: Incarnation) -> None:
        """See ``Participant.raise_marker``."""
        scope, _, markers = self._now_open()

        def attempt() -> None:
            try:
                self._side.change(
                    f"INSERT INTO {markers} (scope, participant, incarnation, commit_epoch,"
                    f" standing) VALUES ('{scope.scope}', '{self.name}', '{incarnation}', 0,"
                    " 'raised') ON DUPLICATE KEY UPDATE standing = 'raised'"
                )
            except MySQLError as error:
                held = code_of(error) == LOCK_WAIT_TIMEOUT and any(
                    each.incarnation == incarnation for each in self._listed()
                )
                if held:
                    raise ParticipantUnavailable(
                        f"the marker row of {incarnation} in MySQL ({self._side.where}) is held by "
                        f"a prepared branch. Finish that one first; it is tried again."
                    ) from error
                raise
            # What it has begun holds locks, and can never be prepared.
            self._side.end_holder(self._lock(incarnation))

        self._persist(attempt, incarnation)

    def close(self) -> None:
        """See ``Participant.close``."""
        self._work.drop()
        self._side.drop()
        self._attached = None

    def _now_open(self) -> tuple[Scope, RowWriter, str]:
        if self._opened is None:
            raise ConfigError(
                f"the sink of table {self._table} was used before it was opened. Give it to an "
                f"agent (sink=[...]), or call open() first."
            )
        return self._opened

    def _xid(self, branch: BranchId) -> str:
        return f"'{gid_of(self._now_open()[0], branch, self.name)}','',{_FORMAT_ID}"

    def _lock(self, incarnation: Incarnation) -> str:
        return f"{self._now_open()[0].gid_prefix}{incarnation}.{self.name}"

    def _begin(self, branch: BranchId, xid: str, deadline_s: float) -> None:
        """Begin a branch; a connection that ended since the last one is replaced."""
        lock = self._lock(branch.incarnation)
        self._work.hold(lock, deadline_s)
        try:
            self._work.execute(f"XA START {xid}")
        except MySQLError:
            if not self._work.is_lost():
                raise
            self._work.hold(lock, deadline_s)
            self._work.execute(f"XA START {xid}")

    def _write(self, rows: Sequence[EncodedRows], deadline_s: float) -> None:
        for statement in self._now_open()[1].statements(rows):
            if time.monotonic() > deadline_s:
                self._work.drop()
                raise ParticipantUnavailable(
                    f"MySQL ({self._work.where}) took longer than {PREPARE_S_MAX} s for the rows "
                    f"of an epoch. It is aborted and tried again; commit more often, or look for "
                    f"what slows the server down."
                )
            self._work.change(statement)

    def _marking(self, branch: BranchId) -> str:
        """The compare-and-set of the marker row, which changes nothing if the row forbids it."""
        scope, _, markers = self._now_open()
        passes = "standing = 'active' AND commit_epoch < VALUES(commit_epoch)"
        return (
            f"INSERT INTO {markers} (scope, participant, incarnation, commit_epoch, standing)"
            f" VALUES ('{scope.scope}', '{self.name}', '{branch.incarnation}',"
            f" {branch.commit_epoch}, 'active') ON DUPLICATE KEY UPDATE"
            f" commit_epoch = IF({passes}, VALUES(commit_epoch), commit_epoch)"
        )

    def _superseded(self, branch: BranchId) -> Superseded:
        return Superseded(
            f"MySQL ({self._work.where}) takes commit epoch {branch.commit_epoch} no more: another "
            f"worker took this one's partitions over, or its epoch is behind. Nothing was "
            f"prepared; the worker starts again as a new incarnation."
        )

    def _abandon(self, xid: str) -> None:
        """Roll back what was begun; a connection that does not do so is given up."""
        if self._work.is_lost():
            return
        with suppress(MySQLError):  # it may have ended; what the rollback says counts
            self._work.execute(f"XA END {xid}")
        try:
            self._work.execute(f"XA ROLLBACK {xid}")
        except MySQLError:
            self._work.drop()

    def _culprit(self, rows: Sequence[EncodedRows], deadline_s: float) -> int | None:
        """Find the first yield that is refused, by halves, in a transaction that is rolled back."""
        low, high = 0, len(rows)
        try:
            self._work.execute("START TRANSACTION")
            while high - low > 1:
                middle = (low + high) // 2
                self._work.execute("SAVEPOINT tried")
                try:
                    self._write(rows[low:middle], deadline_s)
                except MySQLError as error:
                    if not blames_data(error):
                        raise
                    self._work.execute("ROLLBACK TO SAVEPOINT tried")
                    high = middle
                else:
                    low = middle
            self._work.execute("ROLLBACK")
        except (MySQLError, ParticipantUnavailable):
            self._work.drop()
            return None
        return low

    def _finish(self, verb: str, branch: BranchId) -> MySQLError | None:
        """Commit or roll back a branch; gives the error if it is not known here.

        Raises:
            MySQLError: anything else.
        """
        statement = f"XA {verb} {self._xid(branch)}"
        try:
            if branch == self._attached:
                self._attached = None
                with suppress(MySQLError):
                    self._work.execute(statement)
                    return None
                # Whatever it was, the branch is free once this connection has ended.
                self._work.drop()
            self._side.execute(statement)
        except MySQLError as error:
            if code_of(error) != XAER_NOTA:
                raise
            return error
        return None

    def _listed(self) -> list[BranchId]:
        scope = self._now_open()[0]
        found: list[BranchId] = []
        for format_id, length, rest, data in self._side.execute("XA RECOVER"):
            gid = data if isinstance(data, str) else bytes(data).decode("latin-1")
            branch = branch_of(gid, scope, self.name)
            if branch is not None and (format_id, length, rest) == (_FORMAT_ID, len(gid), 0):
                found.append(branch)
        return sorted(found)

    def _read_marker(self, incarnation: Incarnation, locking: str) -> MarkerRow | None:
        scope, _, markers = self._now_open()
        found = self._side.execute(
            f"SELECT commit_epoch, standing FROM {markers} WHERE scope = '{scope.scope}' AND"
            f" participant = '{self.name}' AND incarnation = '{incarnation}'{locking}"
        )
        return MarkerRow(CommitEpoch(found[0][0]), Standing(found[0][1])) if found else None

    def _persist(self, attempt: Callable[[], _T], incarnation: Incarnation | None = None) -> _T:
        """Repeat a call; whoever holds what it needs in the name of the incarnation is ended."""

        def again(error: MySQLError) -> bool:
            if incarnation is None or code_of(error) not in {XAER_NOTA, LOCK_WAIT_TIMEOUT}:
                return False
            self._side.end_holder(self._lock(incarnation))
            return True

        return self._side.persist(attempt, again, time.monotonic() + FINISH_S_MAX)
