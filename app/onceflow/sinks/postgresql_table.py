"""What a PostgreSQL sink needs of the server, checked before any record is taken.

Decided here: every condition under which a later prepare would fail for a reason that a person must
mend, each with the command that mends it; and the marker table.

Must never import Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

from onceflow.errors import ConfigError, Unreachable
from onceflow.sinks.postgresql_session import plain
from onceflow.sinks.postgresql_types import Column, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onceflow.sinks.gid import Scope
    from onceflow.sinks.postgresql_session import Session

MARKERS: Final = "onceflow_markers"
"""The table of marker rows, in the schema of the sink's table."""

_SERVER_VERSION_MIN: Final = 120_000
"""PostgreSQL 12: everything used here exists, and older ones get no corrections any more."""

_COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, NULL),
           coalesce(nullif(b.typname, ''), t.typname), coalesce(b.typcategory, t.typcategory),
           a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '',
           has_column_privilege(a.attrelid, a.attnum, 'INSERT'),
           has_column_privilege(a.attrelid, a.attnum, 'UPDATE')
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum"""

_UNIQUE_KEYS: Final = """
    SELECT array_agg(a.attname::text)
    FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts
    GROUP BY i.indexrelid"""


def identifier(name: str) -> str:
    """A name in an SQL statement."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: str) -> str:
    """``schema.table`` or ``table`` in an SQL statement; a name with a dot has a schema."""
    return ".".join(identifier(part) for part in table.split(".", 1))


def check_version(session: Session) -> None:
    """Check that the server is one that sinks write to.

    Raises:
        ConfigError: too old.
        Unreachable: a standby, which takes no writes.
    """
    [(version, in_recovery)] = session.execute(
        "SELECT current_setting('server_version_num')::int, pg_is_in_recovery()"
    )
    if version < _SERVER_VERSION_MIN:
        raise ConfigError(
            f"PostgreSQL ({session.where}) is of version {version // 10_000}; sinks need 12 or "
            f"later. Nothing was consumed."
        )
    if in_recovery:
        raise Unreachable(
            f"PostgreSQL ({session.where}) is a standby and takes no writes. Name all servers in "
            f"the dsn (host=a,b), so that the one that does is found."
        )


def check_slots(session: Session, scope: Scope) -> None:
    """Check that transactions can be prepared.

    Raises:
        ConfigError: no slots for prepared transactions, or none left.
    """
    [(slots,)] = session.execute("SELECT current_setting('max_prepared_transactions')::int")
    if slots == 0:
        raise ConfigError(
            f"PostgreSQL ({session.where}) does not allow prepared transactions: "
            f"max_prepared_transactions is 0, its default. Set it to at least the number of "
            f"workers times their sinks, better twice (max_prepared_transactions = 64 in "
            f"postgresql.conf, "
            f"or ALTER SYSTEM SET max_prepared_transactions = 64), restart the server, and start "
            f"the worker again. Nothing was consumed."
        )
    [(used, ours)] = session.execute(
        "SELECT count(*), count(*) FILTER (WHERE starts_with(gid, %s)) FROM pg_prepared_xacts",
        [scope.gid_prefix],
    )
    # Our own are finished by the takeover that follows; others' stay until somebody acts.
    if used >= slots and ours == 0:
        raise ConfigError(
            f"all {slots} slots for prepared transactions of PostgreSQL ({session.where}) are used "
            f"by others, so that nothing of this application can be prepared. See who holds them: "
            f"SELECT gid, prepared, owner, database FROM pg_prepared_xacts; finish what is left "
            f"over, or raise max_prepared_transactions and restart the server."
        )


def create(session: Session, table: str, columns: Mapping[str, str], key: Sequence[str]) -> None:
    """Make the sink's table if it does not exist.

    Raises:
        ConfigError: PostgreSQL refuses it.
    """
    [(exists,)] = session.execute("SELECT to_regclass(%s) IS NOT NULL", [qualified(table)])
    if exists:
        # Even IF NOT EXISTS asks for the right to create, which few need.
        return
    parts = [f"{identifier(name)} {definition}" for name, definition in columns.items()]
    if key:
        parts.append(f"PRIMARY KEY ({', '.join(map(identifier, key))})")
    make_table(session, f"CREATE TABLE IF NOT EXISTS {qualified(table)} ({', '.join(parts)})")


def make_table(session: Session, statement: str) -> None:
    """Run a CREATE TABLE IF NOT EXISTS, which fails if another worker is at it in this moment.

    Raises:
        ConfigError: PostgreSQL refuses it; the message has the statement.
    """
    try:
        try:
            session.execute(statement)
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.DuplicateObject,
            psycopg.errors.DuplicateTable,
        ):
            session.execute(statement)
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        raise ConfigError(
            f"PostgreSQL ({session.where}) refuses to make a table: {plain(error)}. Let somebody "
            f"who may do so run: {statement}"
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

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(
            f"table {self._table} in PostgreSQL ({self._session.where}) {what} "
            f"Nothing was consumed."
        )

    def columns(self, wanted: Mapping[str, str] | None) -> list[Column]:
        """Check table, rights and key; give the columns that rows may have.

        Args:
            wanted: names and types that the table should have, as given to ``create_table``.

        Raises:
            ConfigError: with what is wrong and how to mend it.
        """
        oid = self._oid()
        self._check_kind(oid)
        found = self._session.execute(_COLUMNS, [oid])
        self._check_rights(oid, found)
        columns = [
            Column(
                name=name,
                type_name=type_name,
                array_type=f"{bare_type}[]",
                kind=kind_of(base, category),
                is_required=bool(not_null and not defaulted),
            )
            for name, type_name, bare_type, base, category, not_null, defaulted, *_ in found
        ]
        self._check_key(oid, {column.name for column in columns})
        if wanted is not None:
            self._check_types(columns, wanted)
        return columns

    def schema(self) -> str:
        """The name of the table's schema."""
        [(name,)] = self._session.execute(
            "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = %s",
            [self._oid()],
        )
        return str(name)

    def _oid(self) -> int:
        [(oid,)] = self._session.execute("SELECT to_regclass(%s)::oid", [qualified(self._table)])
        if oid is None:
            raise self._wrong(
                "does not exist, or its schema may not be used. Create it, or let the sink do so "
                "with create_table={column: type, ...}."
            )
        return int(oid)

    def _check_kind(self, oid: int) -> None:
        [(kind, persistence, is_secured)] = self._session.execute(
            "SELECT relkind::text, relpersistence::text, row_security_active(oid)"
            " FROM pg_class WHERE oid = %s",
            [oid],
        )
        if kind not in {"r", "p"}:
            raise self._wrong(
                "is no ordinary or partitioned table, and a transaction that writes into it cannot "
                "be prepared or cannot be loaded by COPY. Name a table."
            )
        if persistence == "u":
            raise self._wrong(
                "is unlogged: PostgreSQL empties it after a crash, and committed rows would be "
                "lost. Run ALTER TABLE ... SET LOGGED."
            )
        if is_secured:
            raise self._wrong(
                "has row-level security for this user, which COPY does not support. Use a user "
                "with BYPASSRLS, or the table's owner."
            )

    def _check_rights(self, oid: int, columns: Sequence[tuple[Any, ...]]) -> None:
        [rights] = self._session.execute(
            "SELECT has_table_privilege(%s, 'SELECT'), has_table_privilege(%s, 'DELETE')",
            [oid, oid],
        )
        missing = [
            right for right, held in zip(("SELECT", "DELETE"), rights, strict=True) if not held
        ]
        missing = missing if self._key else []
        if not all(column[7] for column in columns):
            missing.append("INSERT")
        if self._key and not all(column[8] for column in columns):
            missing.append("UPDATE")
        if missing:
            raise self._wrong(
                f"may not be written as needed. Run GRANT {', '.join(sorted(missing))} ON "
                f"{qualified(self._table)} TO the sink's user."
            )

    def _check_key(self, oid: int, names: set[str]) -> None:
        if not self._key:
            return
        unknown = [name for name in self._key if name not in names]
        if unknown:
            raise self._wrong(
                f"has no column {unknown[0]!r}, which the sink's key names. Its columns: "
                f"{sorted(names)}."
            )
        keys = [set(found) for (found,) in self._session.execute(_UNIQUE_KEYS, [oid])]
        if set(self._key) not in keys:
            listed = ", ".join(map(identifier, self._key))
            raise self._wrong(
                f"has no primary key or unique constraint on exactly ({listed}), so that rows "
                f"could not be replaced by key. Run ALTER TABLE {qualified(self._table)} ADD "
                f"PRIMARY KEY ({listed}); an index that is partial, deferrable or over "
                f"expressions does not do."
            )

    def _check_types(self, columns: Sequence[Column], wanted: Mapping[str, str]) -> None:
        have = {column.name: column.type_name for column in columns}
        absent = [name for name in wanted if name not in have]
        if absent:
            raise self._wrong(
                f"exists, but without the columns {absent} of create_table. Add them, or change "
                f"create_table."
            )
        for name, definition in wanted.items():
            # The definition may go on with NOT NULL or DEFAULT; the server knows all spellings.
            if not self._is_type(definition, have[name]):
                raise self._wrong(
                    f"exists, but its column {name!r} is {have[name]} and not {definition}, as "
                    f"create_table says. Alter the table, or change create_table."
                )

    def _is_type(self, definition: str, type_name: str) -> bool:
        words = definition.split()
        for end in range(len(words), 0, -1):
            try:
                [(oid,)] = self._session.execute(
                    "SELECT to_regtype(%s) = to_regtype(%s)", [" ".join(words[:end]), type_name]
                )
            except psycopg.ProgrammingError:
                continue
            if oid is not None:
                return bool(oid)
        return True


def open_markers(session: Session, schema: str) -> str:
    """Make the marker table if it does not exist, and check the rights on it.

    Returns:
        Its qualified name in an SQL statement.

    Raises:
        ConfigError: it cannot be made, or not be written.
    """
    name = f"{identifier(schema)}.{identifier(MARKERS)}"
    [(exists,)] = session.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
    if not exists:
        make_table(
            session,
            f"CREATE TABLE IF NOT EXISTS {name} (scope text, participant text, incarnation text, "
            f"commit_epoch bigint NOT NULL, standing text NOT NULL, "
            f"changed timestamptz NOT NULL DEFAULT now(), "
            f"PRIMARY KEY (scope, participant, incarnation))",
        )
    [(may,)] = session.execute(
        "SELECT has_table_privilege(%s, 'SELECT') AND has_table_privilege(%s, 'INSERT')"
        " AND has_table_privilege(%s, 'UPDATE')",
        [name, name, name],
    )
    if not may:
        raise ConfigError(
            f"the marker table {name} in PostgreSQL ({session.where}) may not be written. Run "
            f"GRANT SELECT, INSERT, UPDATE ON {name} TO the sink's user. Nothing was consumed."
        )
    return name
