"""One connection to PostgreSQL whose every wait ends, and that comes back after it was lost.

Decided here: what a broken or silent connection becomes (it is closed, and made anew for the next
call), and which errors of PostgreSQL blame the data. libpq bounds only the making of a connection;
a server that stands still would hold a thread for ever, so that each wait looks at a deadline.

Imports psycopg, as only the modules of this sink do. Must never import Faust.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo

from onceflow.errors import ConfigError, ParticipantUnavailable, Unreachable
from onceflow.limits import CONNECT_S_MAX, PARTICIPANT_AGAIN_S, PARTICIPANT_AGAIN_S_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

_T = TypeVar("_T")
_Answer: TypeAlias = "list[tuple[Any, ...]]"

_DATA_CLASSES: Final = ("21", "22", "23", "44", "54", "P0")
"""SQLSTATE classes that blame rows: cardinality, data, constraints, WITH CHECK, sizes, triggers.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_REFUSALS: Final = (
    "authentication failed",
    "does not exist",
    "is not permitted to log in",
    "no password supplied",
    "permission denied",
    "pg_hba.conf",
)
"""What a server says that no waiting mends. libpq tells no SQLSTATE for a refused connection; in
another language it counts as a server that does not answer, which only ends with another code."""

_WAIT_S: Final = 0.1
"""How often a waiting call looks at its deadline."""


class DeadlinePassed(psycopg.OperationalError):
    """A call took longer than its bound; what became of it is unknown."""


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose waits end at ``deadline`` (of the monotonic clock)."""

    deadline = 0.0

    def wait(
        self,
        gen: Generator[Any, Any, _T],
        interval: float = _WAIT_S,
        timeout: float | None = None,
    ) -> _T:
        del interval, timeout  # psycopg's own are for each wait, and not for a whole call
        return super().wait(self._until_deadline(gen), _WAIT_S)

    def _until_deadline(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if time.monotonic() > self.deadline:
                    self.pgconn.finish()
                    raise DeadlinePassed("the server did not answer within the bound")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


class Session:
    """A connection that is made when it is needed. Belongs to one thread.

    Args:
        dsn: libpq's connection string or URL.
        application_name: shown by the server for this session.

    Raises:
        ConfigError: the dsn cannot be read.
    """

    def __init__(self, dsn: str, application_name: str) -> None:
        try:
            given = conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            raise ConfigError(
                f"the dsn of a PostgreSQL sink cannot be read: {error}. Write it as "
                f"'host=... port=5432 dbname=... user=...' or 'postgresql://user@host/dbname'."
            ) from error
        defaults: dict[str, Any] = {
            "connect_timeout": CONNECT_S_MAX,
            # After a fail-over the list of hosts leads to the server that takes writes.
            "target_session_attrs": "read-write",
            "tcp_user_timeout": 1000 * CONNECT_S_MAX,
            "application_name": application_name,
        }
        self._parameters: dict[str, Any] = {**defaults, **given}
        self._parameters["connect_timeout"] = int(self._parameters["connect_timeout"])
        self.where = " ".join(
            f"{name}={given[name]}" for name in ("host", "port", "dbname") if given.get(name)
        )
        """Where the server is, without secrets, for messages."""
        self._connection: _Bounded | None = None
        self._deadline = 0.0

    @contextmanager
    def bounded(self, seconds: float) -> Generator[None]:
        """Let every call within end after so many seconds altogether."""
        self._deadline = time.monotonic() + seconds
        yield

    @property
    def remaining_s(self) -> float:
        """What is left of the bound."""
        return self._deadline - time.monotonic()

    def connection(self) -> _Bounded:
        """The living connection, or one made for this call.

        Raises:
            psycopg.OperationalError: no server takes it.
        """
        if self._connection is None or self._connection.closed:
            within_s = max(2, min(self._parameters["connect_timeout"], int(self.remaining_s)))
            parameters: dict[str, Any] = {**self._parameters, "connect_timeout": within_s}
            self._connection = _Bounded.connect(
                autocommit=True, prepare_threshold=None, **parameters
            )
        self._connection.deadline = self._deadline
        return self._connection

    def execute(self, statement: str, values: Sequence[object] = ()) -> _Answer:
        """Run a statement and give its rows; a percent sign in it must be doubled if it has values.

        Raises:
            psycopg.Error: as the server says.
        """
        cursor = self.connection().execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def status_of(self, statement: str) -> str:
        """Run a command and give what the server says that it did."""
        return self.connection().execute(statement.encode()).statusmessage or ""

    def change(self, statement: str, values: Sequence[object]) -> int:
        """Run a statement and give the number of rows that it changed."""
        return self.connection().execute(statement.encode(), values).rowcount

    def drop(self) -> None:
        """Give the connection up; the server rolls back what was not prepared."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def roll_back(self) -> None:
        """Roll back what was begun; a connection that does not do so is given up."""
        if self.is_lost():
            self.drop()
            return
        try:
            self.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def is_lost(self) -> bool:
        """Whether the last call left no usable connection."""
        return self._connection is None or self._connection.broken or self._connection.closed

    def persist(self, attempt: Callable[[], _T], again: Callable[[psycopg.Error], bool]) -> _T:
        """Repeat an idempotent call over lost connections until it answers or the bound is over.

        Args:
            attempt: the call.
            again: whether an error other than a lost connection may pass; it may do something
                about the cause.

        Raises:
            ParticipantUnavailable: the bound is over, or the error does not pass.
        """
        pause_s = PARTICIPANT_AGAIN_S
        while True:
            try:
                return attempt()
            except psycopg.Error as error:
                lost = isinstance(error, psycopg.OperationalError) and self._give_up_lost()
                if self.remaining_s <= pause_s or not (lost or again(error)):
                    raise self.unavailable(error) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PARTICIPANT_AGAIN_S_MAX)

    def _give_up_lost(self) -> bool:
        lost = self.is_lost()
        if lost:
            self.drop()
        return lost

    def unavailable(self, error: psycopg.Error) -> ParticipantUnavailable:
        """The error for a call that did not come to its end; a lost connection is given up."""
        if isinstance(error, DeadlinePassed) or self.is_lost():
            self.drop()
        return ParticipantUnavailable(
            f"PostgreSQL ({self.where}) did not do what was asked: {plain(error)}. Nothing is "
            f"lost: it is tried again, and the partitions that need it wait."
        )

    def connect(self) -> None:
        """Connect now, and tell a wrong setting from a server that is away.

        Raises:
            ConfigError: the login, the database or a right is refused.
            Unreachable: no server answers.
        """
        try:
            self.connection()
        except psycopg.OperationalError as error:
            text = plain(error)
            if any(refusal in text for refusal in _REFUSALS):
                raise ConfigError(
                    f"PostgreSQL ({self.where}) refuses the connection: {text}. Correct the "
                    f"sink's dsn or the server's pg_hba.conf; nothing was consumed."
                ) from error
            raise Unreachable(
                f"PostgreSQL ({self.where}) does not answer: {text}. Nothing was consumed. Check "
                f"that it runs and takes writes, then start the worker again."
            ) from error


def blames_data(error: psycopg.Error) -> bool:
    """Whether rows are to blame, so that trying again would end alike."""
    # Without a state the driver itself refused a value, such as a NUL byte in a text.
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "")[:2] in _DATA_CLASSES


def plain(error: psycopg.Error) -> str:
    """What the server or libpq said, in one line."""
    parts = [error.diag.message_primary or str(error), error.diag.message_detail or ""]
    return " ".join(" ".join(parts).split()).rstrip(".")
