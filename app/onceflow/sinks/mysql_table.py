"""What a MySQL sink needs of the server, checked before any record is taken.

Decided here: every condition under which a later prepare would fail, or a prepared branch could be
lost, for a reason that a person must mend, each with what mends it; and the marker table.

Must never import Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onceflow.errors import ConfigError, Unreachable
from onceflow.sinks.mysql_rows import identifier, qualified
from onceflow.sinks.mysql_session import MySQLError, plain
from onceflow.sinks.mysql_types import Column, kind_of, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onceflow.sinks.mysql_session import Session

MARKERS: Final = "onceflow_markers"
"""The table of marker rows, in the database of the sink's table."""

_MARIADB_MIN: Final = (10, 5)
"""From here on a prepared branch outlives its connection. Source: https://jira.mariadb.org/browse/MDEV-742"""

_MYSQL_MIN: Final = (8, 0)
"""Older ones get no corrections any more, and lose prepared branches from their binary log."""

_SYNONYMS: Final = {
    **dict.fromkeys(("bool", "boolean"), "tinyint"),
    **dict.fromkeys(("dec", "numeric", "fixed"), "decimal"),
    "integer": "int",
    "real": "double",
    "character": "char",
}

_GENERATED: Final = ("STORED GENERATED", "VIRTUAL GENERATED")


def check_server(session: Session) -> None:
    """Check what concerns the whole server.

    Raises:
        ConfigError: too old, or set so that branches cannot be prepared or can be lost.
        Unreachable: it takes no writes.
        MySQLError: as the server says.
    """
    where = session.where
    [(version, is_read_only, flush, logs, log_format)] = session.execute(
        "SELECT VERSION(), @@read_only, @@innodb_flush_log_at_trx_commit, @@log_bin,"
        " @@binlog_format"
    )
    least = _MARIADB_MIN if "mariadb" in version.lower() else _MYSQL_MIN
    if tuple(map(int, version.split("-")[0].split(".")[:2])) < least:
        raise ConfigError(
            f"MySQL ({where}) is {version}; two-phase sinks need MariaDB 10.5 or MySQL 8.0, since "
            f"older ones roll a prepared branch back when its connection ends. Nothing was "
            f"consumed."
        )
    if is_read_only:
        raise Unreachable(
            f"MySQL ({where}) is read-only, a replica perhaps. Name the server that takes writes."
        )
    if flush != 1:
        raise ConfigError(
            f"MySQL ({where}) may lose a prepared branch in a power failure, because "
            f"innodb_flush_log_at_trx_commit is {flush}. Set it to 1 (SET GLOBAL "
            f"innodb_flush_log_at_trx_commit = 1, and in my.cnf). Nothing was consumed."
        )
    if logs and str(log_format).upper() == "STATEMENT":
        raise ConfigError(
            f"MySQL ({where}) writes its binary log by statement, which the sink's isolation level "
            f"does not allow. Set binlog_format to ROW or MIXED. Nothing was consumed."
        )
    _check_branches(session)


def _check_branches(session: Session) -> None:
    """Try the statements of a two-phase commit."""
    if ("wsrep_on", "ON") in session.execute("SHOW VARIABLES LIKE 'wsrep_on'"):
        raise ConfigError(
            f"MySQL ({session.where}) is a Galera cluster, which does not support XA transactions. "
            f"Write to a server of its own."
        )
    trial = f"'of1.trial.{session.execute('SELECT CONNECTION_ID()')[0][0]}'"
    try:
        session.execute("XA RECOVER")
        for verb in ("START", "END", "ROLLBACK"):
            session.execute(f"XA {verb} {trial}")
    except MySQLError as error:
        raise ConfigError(
            f"MySQL ({session.where}) does not let this user prepare and list branches: "
            f"{plain(error)}. On MySQL 8 run GRANT XA_RECOVER_ADMIN ON *.* TO the sink's user. "
            f"Nothing was consumed."
        ) from error


def create(session: Session, table: str, columns: Mapping[str, str], key: Sequence[str]) -> None:
    """Make the sink's table if it does not exist.

    Raises:
        ConfigError: the server refuses it.
    """
    parts = [f"{identifier(name)} {definition}" for name, definition in columns.items()]
    if key:
        parts.append(f"PRIMARY KEY ({', '.join(map(identifier, key))})")
    _make_table(
        session, f"CREATE TABLE IF NOT EXISTS {qualified(table)} ({', '.join(parts)}) ENGINE=InnoDB"
    )


def _make_table(session: Session, statement: str) -> None:
    try:
        session.execute(statement)
    except MySQLError as error:
        if session.is_lost():
            raise
        raise ConfigError(
            f"MySQL ({session.where}) refuses to make a table: {plain(error)}. Let somebody who "
            f"may do so run it, and let this user read and write the table: {statement}"
        ) from error


class TableCheck:
    """Checks one table for a sink.

    Args:
        session: connected.
        table: as the user wrote it.
        key: columns that identify a row; empty for a sink that appends.
    """

    def __init__(self, session: Session, table: str, key: Sequence[str]) -> None:
        self._session = session
        self._table = table
        self._key = tuple(key)
        database, dot, name = table.partition(".")
        schema = quoted(database) if dot else "DATABASE()"
        self._where = f"TABLE_SCHEMA = {schema} AND TABLE_NAME = {quoted(name if dot else table)}"
        self.markers = qualified(f"{database}.{MARKERS}") if dot else qualified(MARKERS)

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(
            f"table {self._table} in MySQL ({self._session.where}) {what} Nothing was consumed."
        )

    def columns(self, wanted: Mapping[str, str] | None) -> list[Column]:
        """Check table, rights and key; give the columns that rows may have.

        Args:
            wanted: names and types that the table should have, as given to ``create_table``.

        Raises:
            ConfigError: with what is wrong and how to mend it.
            MySQLError: as the server says.
        """
        self._check_kind()
        found = self._session.execute(
            "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT, EXTRA,"
            " COALESCE(DATETIME_PRECISION, NUMERIC_SCALE, 0), PRIVILEGES"
            f" FROM information_schema.COLUMNS WHERE {self._where} ORDER BY ORDINAL_POSITION"
        )
        found = [each for each in found if not any(word in each[5].upper() for word in _GENERATED)]
        self._check_rights(found)
        numbered = {name for name, *_, extra, _, _ in found if "auto_increment" in extra.lower()}
        barred = self._check_key({each[0] for each in found}, numbered)
        if wanted is not None:
            self._check_types({each[0]: (each[1], each[2]) for each in found}, wanted)
        columns: list[Column] = []
        for name, data_type, type_name, nullable, default, _, decimals, _ in found:
            is_required = nullable == "NO" and default is None and name not in numbered
            kind = kind_of(data_type)
            if kind is not None and name not in barred:
                columns.append(Column(name, _text(type_name), kind, int(decimals), is_required))
            elif is_required:
                raise self._wrong(
                    f"has the column {name!r} of type {_text(type_name)}, which sinks do not "
                    f"write, and which needs a value. Give it a default, or allow NULL."
                )
        return columns

    def _check_kind(self) -> None:
        found = self._session.execute(
            f"SELECT TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE {self._where}"
        )
        if not found:
            raise self._wrong(
                "does not exist, or this user may not see it. Create it, or let the sink do so "
                "with create_table={column: type, ...}."
            )
        [(table_type, engine)] = found
        if table_type != "BASE TABLE" or engine != "InnoDB":
            raise self._wrong(
                f"is a {table_type} of the engine {engine}; only ordinary InnoDB tables take part "
                f"in a two-phase commit. Run ALTER TABLE {qualified(self._table)} ENGINE=InnoDB, "
                f"or name another table."
            )

    def _check_rights(self, columns: Sequence[tuple[Any, ...]]) -> None:
        wanted = {"insert", "select", "update"} if self._key else {"insert"}
        missing = {
            right.upper() for each in columns for right in wanted - set(_text(each[7]).split(","))
        }
        if self._key:
            try:
                self._session.execute(f"DELETE FROM {qualified(self._table)} WHERE FALSE")
            except MySQLError:
                if self._session.is_lost():
                    raise
                missing.add("DELETE")
        if missing:
            rights = ", ".join(sorted(missing))
            raise self._wrong(
                f"is closed to this user. Run GRANT {rights} ON {qualified(self._table)} TO it."
            )

    def _check_key(self, names: set[str], numbered: set[str]) -> set[str]:
        """Check that rows are replaced by the key alone; give the columns rows must not have."""
        if not self._key:
            return set()
        absent = sorted(set(self._key) - names)
        if absent:
            raise self._wrong(
                f"lacks {', '.join(absent)}, which the sink's key names; its columns are "
                f"{', '.join(sorted(names))}."
            )
        indexes: dict[str, set[str]] = {}
        for index, column, part in self._session.execute(
            "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS"
            f" WHERE {self._where} AND NON_UNIQUE = 0"
        ):
            whole = column if part is None and column is not None else f"{column}({part})"
            indexes.setdefault(index, set()).add(whole)
        key, listed = set(self._key), ", ".join(map(identifier, self._key))
        if key not in indexes.values():
            raise self._wrong(
                f"has no primary key or unique index on exactly ({listed}), so that rows could not "
                f"be replaced by key. Run ALTER TABLE {qualified(self._table)} ADD PRIMARY KEY "
                f"({listed})."
            )
        for index, columns in indexes.items():
            if columns != key and not columns & numbered:
                raise self._wrong(
                    f"has another unique index, {index}. MySQL replaces the row that conflicts in "
                    f"any of them, which may be one with another key. Drop it, or yield to a table "
                    f"without."
                )
        return numbered - key

    def _check_types(self, have: Mapping[str, tuple[str, Any]], wanted: Mapping[str, str]) -> None:
        for name, definition in wanted.items():
            if name not in have:
                raise self._wrong(
                    f"exists, but without the column {name!r} of create_table. Add it, or change "
                    f"create_table."
                )
            word = definition.replace("(", " ").split()[0].lower()
            data_type, type_name = have[name]
            if _SYNONYMS.get(word, word) not in {data_type.lower(), _json_type(data_type)}:
                raise self._wrong(
                    f"exists, but its column {name!r} is {_text(type_name)} and not {definition}, "
                    f"as create_table says. Alter the table, or change create_table."
                )

    def open_markers(self) -> None:
        """Make the marker table if it does not exist, and check it.

        Raises:
            ConfigError: it cannot be made or written, or is of another engine.
            MySQLError: as the server says.
        """
        where = f"{self._where.partition(' AND ')[0]} AND TABLE_NAME = '{MARKERS}'"
        seen = f"SELECT ENGINE FROM information_schema.TABLES WHERE {where}"
        if not self._session.execute(seen):
            _make_table(
                self._session,
                f"CREATE TABLE IF NOT EXISTS {self.markers} (scope VARCHAR(16), participant "
                f"VARCHAR(16), incarnation VARCHAR(64), commit_epoch BIGINT NOT NULL, standing "
                f"VARCHAR(16) NOT NULL, changed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) "
                f"ON UPDATE CURRENT_TIMESTAMP(6), PRIMARY KEY (scope, participant, incarnation)) "
                f"ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin",
            )
        rights = self._session.execute(
            f"SELECT PRIVILEGES FROM information_schema.COLUMNS WHERE {where}"
        )
        wanted = {"select", "insert", "update"}
        is_writable = all(wanted <= set(_text(held).split(",")) for (held,) in rights)
        if not is_writable or self._session.execute(seen) != [("InnoDB",)]:
            raise ConfigError(
                f"the marker table {self.markers} in MySQL ({self._session.where}) must be an "
                f"InnoDB table that this user writes. Run GRANT SELECT, INSERT, UPDATE ON "
                f"{self.markers} TO the sink's user. Nothing was consumed."
            )


def _json_type(data_type: str) -> str:
    return "json" if data_type == "longtext" else data_type


def _text(value: Any) -> str:
    """Some servers give texts of information_schema as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
