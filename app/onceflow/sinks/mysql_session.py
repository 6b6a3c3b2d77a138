"""Connections to MySQL or MariaDB whose every wait ends, and that come back after they were lost.

Decided here: what a broken or silent connection becomes (it is closed, and made anew for the next
call), which errors blame the data, and how a connection of an incarnation is found by others: it
holds a named lock of the server (GET_LOCK), and IS_USED_LOCK tells its number to whoever must end
it.

Imports PyMySQL, as only the modules of this sink do. Must never import Faust.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import ER

from onceflow.errors import ConfigError, ParticipantUnavailable, Unreachable
from onceflow.limits import (
    CONNECT_S_MAX,
    MYSQL_ANSWER_S_MAX,
    PARTICIPANT_AGAIN_S,
    PARTICIPANT_AGAIN_S_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

MySQLError = pymysql.MySQLError
"""Root of what the server and the driver raise."""

XAER_NOTA: Final = 1397
LOCK_WAIT_TIMEOUT: Final = ER.LOCK_WAIT_TIMEOUT
NO_SUCH_THREAD: Final = ER.NO_SUCH_THREAD

_DATA_ERRORS: Final = frozenset(
    {
        *(ER.BAD_NULL_ERROR, ER.DUP_ENTRY, ER.NO_DEFAULT_FOR_FIELD, ER.WARN_DATA_OUT_OF_RANGE),
        *(ER.WARN_DATA_TRUNCATED, ER.TRUNCATED_WRONG_VALUE, ER.TRUNCATED_WRONG_VALUE_FOR_FIELD),
        *(ER.DATA_TOO_LONG, ER.NO_REFERENCED_ROW, ER.ROW_IS_REFERENCED, ER.NO_REFERENCED_ROW_2),
        *(ER.ROW_IS_REFERENCED_2, ER.DIVISION_BY_ZERO),
        1086,  # duplicate entry with its key's name, in older servers
        1411,  # incorrect value for a function in a generated column
        1526,  # no partition for a value
        1586,  # duplicate entry with its key's name
        1644,  # SIGNAL in a trigger
        1690,  # a value out of range in an expression
        1859,  # duplicate unknown in a unique index
        3140,  # invalid JSON text
        3819,  # check constraint, MySQL
        4025,  # check constraint, MariaDB
        4078,  # no cast to the column's type, MariaDB
    }
)
"""Errors that blame rows, so that trying again would end alike.
Source: https://mariadb.com/kb/en/mariadb-error-code-reference/"""

_REFUSALS: Final = frozenset(
    {ER.DBACCESS_DENIED_ERROR, ER.ACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, 1130, 1251, 1698, 3159}
)
"""Errors of a connection that no waiting mends: login, database, host, plugin, TLS demanded."""

_SETTINGS: Final = (
    # Strict, so that what does not fit is an error; backslashes escape, as literals are written.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION time_zone = '+00:00', foreign_key_checks = 1, unique_checks = 1, autocommit = 1",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)

_OPTIONS: Final = ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key")


def code_of(error: MySQLError) -> int:
    """The number of an error; 0 for one of the driver without a number."""
    found: Any = error.args[0] if error.args else 0
    return found if isinstance(found, int) else 0


def blames_data(error: MySQLError) -> bool:
    """Whether rows are to blame."""
    return code_of(error) in _DATA_ERRORS


def plain(error: MySQLError) -> str:
    """What the server or the driver said, in one line."""
    return " ".join(str(error.args[-1] if error.args else error).split()).rstrip(".")


def parameters_of(dsn: str) -> dict[str, Any]:
    """Read ``mysql://user:password@host:port/database?ssl_ca=...``.

    Raises:
        ConfigError: it is something else, or names no database.
    """
    try:
        url = urlsplit(dsn)
        port = url.port or 3306
    except ValueError as error:
        raise ConfigError(f"the dsn of a MySQL sink cannot be read: {error}") from error
    options = dict(parse_qsl(url.query))
    database = unquote(url.path.lstrip("/"))
    unknown = set(options) - set(_OPTIONS)
    if url.scheme not in {"mysql", "mariadb"} or not database or unknown:
        raise ConfigError(
            "the dsn of a MySQL sink is written as mysql://user:password@host:3306/database, with "
            f"percent-encoded parts, and may end with ? and {', '.join(_OPTIONS)}; of this one "
            f"{'the options ' + ', '.join(sorted(unknown)) if unknown else 'that'} cannot be read"
        )
    return {
        "host": url.hostname or "localhost",
        "port": port,
        "user": unquote(url.username) if url.username else None,
        "password": unquote(url.password) if url.password else "",
        "database": database,
        **options,
    }


class Session:
    """One connection, made when it is needed. Belongs to one thread.

    Args:
        parameters: of the connection, as ``parameters_of`` gives them.
        lock_wait_s: how long a statement waits for a lock.

    Attributes:
        where: the server, without secrets, for messages.
    """

    def __init__(self, parameters: dict[str, Any], lock_wait_s: int) -> None:
        self._parameters = parameters
        self._settings = (*_SETTINGS, f"SET SESSION innodb_lock_wait_timeout = {lock_wait_s}")
        self.where = f"{parameters['host']}:{parameters['port']}/{parameters['database']}"
        self._connection: pymysql.Connection[Any] | None = None
        self._held = ""

    def connect(self) -> None:
        """Connect now, and tell a wrong setting from a server that is away.

        Raises:
            ConfigError: the login, the database or a right is refused.
            Unreachable: no server answers.
        """
        try:
            self._living()
        except RuntimeError as error:  # a login needs a package that PyMySQL does not demand
            raise ConfigError(
                f"MySQL ({self.where}) cannot be logged in to: {error}. Use TLS (?ssl_ca=...), or "
                f"install PyMySQL's extra: pip install 'pymysql[rsa]'."
            ) from error
        except MySQLError as error:
            if code_of(error) in _REFUSALS:
                raise ConfigError(
                    f"MySQL ({self.where}) refuses the connection: {plain(error)}. Correct the "
                    f"sink's dsn or the user's rights; nothing was consumed."
                ) from error
            raise Unreachable(
                f"MySQL ({self.where}) does not answer: {plain(error)}. Nothing was consumed. "
                f"Check that it runs, then start the worker again."
            ) from error

    def _living(self) -> pymysql.Connection[Any]:
        if self._connection is None:
            self._connection = pymysql.connect(
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=CONNECT_S_MAX,
                read_timeout=MYSQL_ANSWER_S_MAX,
                write_timeout=MYSQL_ANSWER_S_MAX,
                **self._parameters,
            )
            for statement in self._settings:
                cast("Any", self._connection).query(statement)
        return self._connection

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows. A connection that is lost by it is given up.

        Raises:
            MySQLError: as the server or the driver says.
        """
        try:
            cursor = self._living().cursor()
            cursor.execute(statement)
            return [*cursor.fetchall()] if cursor.description else []
        except (pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError):
            self._drop_lost()
            raise

    def change(self, statement: str) -> int:
        """Run a statement and give the number of rows that it changed, as the server counts.

        Raises:
            MySQLError: as the server or the driver says.
        """
        try:
            return cast("Any", self._living()).query(statement)
        except (pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError):
            self._drop_lost()
            raise

    def _drop_lost(self) -> None:
        connection = self._connection
        if connection is not None and not connection.open:
            self.drop()

    def holds(self, lock: str) -> bool:
        """Whether this connection has the named lock, as far as we know."""
        return self._held == lock

    def is_lost(self) -> bool:
        """Whether there is no connection."""
        return self._connection is None

    def drop(self) -> None:
        """Give the connection up; the server rolls back what was not prepared."""
        connection, self._connection, self._held = self._connection, None, ""
        if connection is not None and connection.open:
            try:
                connection.close()
            except MySQLError:
                return  # it was lost already

    def hold(self, lock: str, deadline_s: float) -> None:
        """Hold a named lock on this connection, ending another connection that holds it.

        Args:
            lock: of our incarnation, so that the other one is ours and lost.
            deadline_s: of the monotonic clock.

        Raises:
            MySQLError: as the server says; also if the other one does not end in time.
        """
        while self._held != lock:
            [(taken,)] = self.execute(f"SELECT GET_LOCK('{lock}', 0)")
            if taken == 1:
                self._held = lock
            elif time.monotonic() > deadline_s:
                raise pymysql.OperationalError(0, "a lost connection of this worker does not end")
            else:
                self.end_holder(lock)
                time.sleep(PARTICIPANT_AGAIN_S)

    def end_holder(self, lock: str) -> bool:
        """End the connection that holds a named lock, unless it is this one.

        Returns:
            whether there was one; it may take a moment to go.

        Raises:
            MySQLError: as the server says.
        """
        [(holder, own)] = self.execute(f"SELECT IS_USED_LOCK('{lock}'), CONNECTION_ID()")
        if holder is None or holder == own:
            return False
        try:
            self.execute(f"KILL {int(holder)}")
        except MySQLError as error:
            if code_of(error) != NO_SUCH_THREAD:
                raise
        return True

    def persist(
        self, attempt: Callable[[], _T], again: Callable[[MySQLError], bool], deadline_s: float
    ) -> _T:
        """Repeat an idempotent call over lost connections until it answers or the bound is over.

        Args:
            attempt: the call.
            again: whether an error other than a lost connection may pass; it may do something
                about the cause.
            deadline_s: of the monotonic clock.

        Raises:
            ParticipantUnavailable: the bound is over, or the error does not pass.
        """
        pause_s = PARTICIPANT_AGAIN_S
        while True:
            try:
                return attempt()
            except MySQLError as error:
                left_s = deadline_s - time.monotonic()
                if left_s <= pause_s or not (self.is_lost() or again(error)):
                    raise self.unavailable(error) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PARTICIPANT_AGAIN_S_MAX)

    def unavailable(self, error: MySQLError) -> ParticipantUnavailable:
        """The error for a call that did not come to its end."""
        return ParticipantUnavailable(
            f"MySQL ({self.where}) did not do what was asked: {plain(error)}. Nothing is lost: it "
            f"is tried again, and the partitions that need it wait."
        )
