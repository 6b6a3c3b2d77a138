"""PostgreSQL as an outbox sink: for servers on which nothing may be prepared.

Decided here: rows are encoded and written as by the two-phase sink, and travel as the texts that it
would write. The progress rows are moved first, in the order of their partitions, so that of two
appliers one waits for the other and then finds them moved. What stands still between a write and
its commit loses its session, so that its successor does not wait for ever.

Must never import Faust.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg

from onceflow.columns import csvrows
from onceflow.decisions.outbox import Progress
from onceflow.errors import (
    ConfigError,
    LaterVersion,
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Unreachable,
)
from onceflow.limits import (
    FINISH_S_MAX,
    OUTBOX_UNTOLD_MAX,
    PARTICIPANT_LOCK_S_MAX,
    PREPARE_S_MAX,
    SINK_OPEN_S_MAX,
)
from onceflow.sinks.gid import Scope, checked_name, derived_name
from onceflow.sinks.outbox import (
    OnRefused,
    OutboxRun,
    OutboxSink,
    ProgressMoved,
    RefusedMessage,
    on_refused,
)
from onceflow.sinks.outbox_format import decode_message, encode_rows
from onceflow.sinks.participant import EncodedRows
from onceflow.sinks.postgresql_rows import ArrowRows, RowEncoder, Shape, ShapedRow
from onceflow.sinks.postgresql_session import DeadlinePassed, Session, blames_data, plain
from onceflow.sinks.postgresql_table import (
    TableCheck,
    check_version,
    create,
    identifier,
    make_table,
)
from onceflow.sinks.postgresql_write import RowsBlamed, TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from onceflow.sinks.postgresql_types import Column

_TABLES: Final = {
    "onceflow_target": "only_row int PRIMARY KEY CHECK (only_row = 1), identity text NOT NULL",
    "onceflow_progress": "scope text, sink text, number int, topic_id text NOT NULL,"
    " next_offset bigint NOT NULL, PRIMARY KEY (scope, sink, number)",
    "onceflow_refused": "scope text, sink text, topic_id text, number int, log_offset bigint,"
    " error text NOT NULL, message bytea NOT NULL, is_told boolean NOT NULL DEFAULT false,"
    " PRIMARY KEY (scope, sink, topic_id, number, log_offset)",
}

_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    f" SET LOCAL lock_timeout = {round(1000 * PARTICIPANT_LOCK_S_MAX)};"
    f" SET LOCAL statement_timeout = {round(1000 * PREPARE_S_MAX)};"
    f" SET LOCAL idle_in_transaction_session_timeout = {round(1000 * PREPARE_S_MAX)};"
    " SET LOCAL synchronous_commit = on;"
    " SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';"
    " SET LOCAL IntervalStyle = 'postgres'"
)


class PostgreSQLOutbox(OutboxSink):
    """What ``PostgreSQL(..., delivery="outbox")`` makes; its arguments are described there."""

    def __init__(
        self,
        dsn: str,
        *,
        table: str,
        key: Sequence[str] | None = None,
        create_table: Mapping[str, str] | None = None,
        name: str | None = None,
        on_error: str | None = None,
    ) -> None:
        self.name = derived_name("pg", table) if name is None else checked_name(name)
        self.on_error = OnRefused.DEAD_LETTER if on_error is None else on_refused(on_error)
        self._table = table
        self._key = (key,) if isinstance(key, str) else tuple(key or ())
        self._create_table = create_table
        if not set(self._key).issubset(self._key if create_table is None else create_table):
            raise ConfigError(
                f"the key {list(self._key)} of the sink of table {table} is not among the columns "
                f"of create_table. Add it there."
            )
        self._session = Session(dsn, "onceflow")
        self.where = f"PostgreSQL {self._session.where}"
        self._scope = ""
        self._tables: dict[str, str] = {}
        self._encoder: RowEncoder | None = None
        self._writer: TableWriter | None = None
        self._shapes: dict[tuple[tuple[str, ...], bool, tuple[bool, ...]], Shape] = {}
        self._is_writing = False

    # -- rows --

    def encode(self, value: object) -> EncodedRows:
        """See ``OutboxSink.encode``."""
        encoder = self._encoder
        if encoder is None:
            raise self._not_open()
        encoded = encoder.encode(value)
        if isinstance(encoded.payload, ArrowRows):
            encoded = encoder.encode_rows(csvrows.rows_of(encoded.payload.table))
        return encode_rows(_texts(cast("list[ShapedRow]", encoded.payload)))

    def _decoded(self, place: int, message: bytes) -> EncodedRows:
        """Make what the writer takes of the message at this place of its run.

        Raises:
            RowsRefused: it is none of ours.
            LaterVersion: it cannot be read here.
        """
        try:
            pieces = decode_message(message)
        except SerializationError as error:
            raise self._refused(error, place) from error
        rows = [
            (self._shape(piece.columns, values, is_delete=piece.is_delete), tuple(values))
            for piece in pieces
            for values in piece.rows
        ]
        return EncodedRows(len(rows), len(message), rows)

    def _shape(self, columns: tuple[str, ...], values: Sequence[Any], *, is_delete: bool) -> Shape:
        given = (columns, is_delete, tuple([value is None for value in values]))
        shape = self._shapes.get(given)
        if shape is None:
            template = "\t".join(["\\N%.0s" if is_null else "%s" for is_null in given[2]])
            shape = Shape(columns, is_delete, template, sum(given[2]), (), ())
            self._shapes[given] = shape
        return shape

    # -- opening --

    def open(self, scope: Scope) -> str:
        """See ``OutboxSink.open``."""
        session = self._session
        with session.bounded(SINK_OPEN_S_MAX), ExitStack() as unfit:
            session.drop()
            unfit.callback(session.drop)
            session.connect()
            try:
                columns, identity = self._checked(), self._identity()
            except psycopg.ProgrammingError as error:
                raise ConfigError(
                    f"{self.where} refuses what the outbox sink of table {self._table} needs: "
                    f"{plain(error)}. Nothing was consumed. Give its user the right, or correct "
                    f"the name."
                ) from error
            except psycopg.Error as error:
                raise Unreachable(
                    f"{self.where} could not be checked: {plain(error)}. Nothing was consumed. "
                    f"Start the worker again once it answers."
                ) from error
            unfit.pop_all()
        self._encoder = RowEncoder(self._table, columns, self._key)
        self._writer = TableWriter(session, self._table, columns, self._key, self._encoder)
        self._scope = scope.scope
        return identity

    def _checked(self) -> list[Column]:
        session = self._session
        check_version(session)
        if self._create_table is not None:
            create(session, self._table, self._create_table, self._key)
        check = TableCheck(session, self._table, self._key)
        columns = check.columns(self._create_table)
        schema = identifier(check.schema())
        for name, definition in _TABLES.items():
            qualified = f"{schema}.{name}"
            self._tables[name] = qualified.replace("%", "%%")
            [(exists,)] = session.execute("SELECT to_regclass(%s) IS NOT NULL", [qualified])
            if not exists:
                make_table(session, f"CREATE TABLE IF NOT EXISTS {qualified} ({definition})")
            [(may,)] = session.execute(
                "SELECT has_table_privilege(%s, 'SELECT') AND has_table_privilege(%s, 'INSERT')"
                " AND has_table_privilege(%s, 'UPDATE')",
                [qualified] * 3,
            )
            if not may:
                raise ConfigError(
                    f"{qualified} in {self.where} may not be written. Run GRANT SELECT, INSERT, "
                    f"UPDATE ON {qualified} TO the sink's user. Nothing was consumed."
                )
        return columns

    def _identity(self) -> str:
        target = self._tables["onceflow_target"]
        self._session.change(
            f"INSERT INTO {target} VALUES (1, %s) ON CONFLICT DO NOTHING", [secrets.token_hex(8)]
        )
        [(identity,)] = self._session.execute(
            f"SELECT identity FROM {target} WHERE only_row = %s", [1]
        )
        return str(identity)

    def _not_open(self) -> ConfigError:
        return ConfigError(
            f"the outbox sink of table {self._table} was used before it was opened. Give it to an "
            f"agent (sink=[...]), or call open() first."
        )

    # -- applying --

    def progress(self) -> dict[int, Progress]:
        """See ``OutboxSink.progress``."""
        rows = self._answer(
            f"SELECT number, topic_id, next_offset FROM {self._tables['onceflow_progress']}"
            " WHERE scope = %s AND sink = %s",
            [self._scope, self.name],
        )
        return {number: Progress(topic_id, offset) for number, topic_id, offset in rows}

    def _answer(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._session.bounded(FINISH_S_MAX):
            self._abandon()
            return self._session.persist(
                lambda: self._session.execute(statement, values), lambda _: False
            )

    def write(self, runs: Sequence[OutboxRun]) -> None:
        """See ``OutboxSink.write``."""
        with self._session.bounded(PREPARE_S_MAX):
            try:
                self._abandon()
                self._is_writing = True
                self._session.execute(_BEGIN)
                for run in sorted(runs, key=lambda run: run.number):
                    self._move(run)
                for run in runs:
                    self._apply(run)
                self._session.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except LaterVersion:
                self._abandon()
                raise
            except RowsBlamed as blamed:
                raise self._refused(blamed.error, blamed.culprit) from blamed
            except psycopg.Error as error:
                raise self._failed(error) from error

    def _move(self, run: OutboxRun) -> None:
        """The compare-and-set of the progress row.

        Raises:
            ProgressMoved: it is not as expected.
        """
        table, row = self._tables["onceflow_progress"], [self._scope, self.name, run.number]
        if run.expected is None:
            changed = self._session.change(
                f"INSERT INTO {table} (scope, sink, number, topic_id, next_offset)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [*row, run.topic_id, run.next_offset],
            )
        else:
            changed = self._session.change(
                f"UPDATE {table} SET next_offset = %s WHERE scope = %s AND sink = %s"
                " AND number = %s AND topic_id = %s AND next_offset = %s",
                [run.next_offset, *row, run.topic_id, run.expected],
            )
        if changed != 1:
            self._abandon()
            raise ProgressMoved(
                f"partition {run.number} of the outbox of {self.name} is not at {run.expected} in "
                f"{self.where}: another worker applies it. Nothing was applied twice."
            )

    def _apply(self, run: OutboxRun) -> None:
        if self._writer is None:
            raise self._not_open()
        if run.refusal is None:
            self._writer.write([self._decoded(*each) for each in enumerate(run.messages)])
            return
        place = [self._scope, self.name, run.topic_id, run.number, run.offsets[0]]
        self._session.change(
            f"INSERT INTO {self._tables['onceflow_refused']}"
            " (scope, sink, topic_id, number, log_offset, error, message)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [*place, run.refusal.replace("\0", ""), run.messages[0]],
        )

    def commit(self) -> None:
        """See ``OutboxSink.commit``."""
        with self._session.bounded(PREPARE_S_MAX):
            try:
                if self._session.is_lost():
                    raise self._unavailable("the connection was lost before the commit")
                self._session.execute("COMMIT")
            except psycopg.Error as error:
                raise self._failed(error) from error
            self._is_writing = False

    def _failed(self, error: psycopg.Error) -> RowsRefused | ParticipantUnavailable:
        if blames_data(error) and not self._session.is_lost():
            return self._refused(error, None)
        if isinstance(error, DeadlinePassed):
            self._session.drop()
        self._abandon()
        return self._unavailable(plain(error))

    def _unavailable(self, what: str) -> ParticipantUnavailable:
        return ParticipantUnavailable(
            f"{self.where} did not do what was asked: {what}. Nothing is lost: rows wait in Kafka, "
            f"and it is tried again."
        )

    def _refused(
        self, error: psycopg.Error | SerializationError | UnicodeEncodeError, culprit: int | None
    ) -> RowsRefused:
        self._abandon()
        said = plain(error) if isinstance(error, psycopg.Error) else str(error)
        return RowsRefused(
            f"{self.where} refuses a row for table {self._table}: {said}. Nothing of its run was "
            f"applied.",
            culprit=culprit,
        )

    def _abandon(self) -> None:
        """Roll back what was begun and is not committed."""
        if self._is_writing:
            self._is_writing = False
            self._session.roll_back()

    # -- refused messages --

    def untold(self, numbers: AbstractSet[int]) -> list[RefusedMessage]:
        """See ``OutboxSink.untold``."""
        rows = self._answer(
            f"SELECT topic_id, number, log_offset, error, message"
            f" FROM {self._tables['onceflow_refused']}"
            " WHERE scope = %s AND sink = %s AND NOT is_told AND number = ANY(%s::int[])"
            " ORDER BY number, log_offset LIMIT %s",
            [self._scope, self.name, sorted(numbers), OUTBOX_UNTOLD_MAX],
        )
        return [RefusedMessage(*row) for row in rows]

    def told(self, messages: Sequence[RefusedMessage]) -> None:
        """See ``OutboxSink.told``."""
        self._answer(
            f"UPDATE {self._tables['onceflow_refused']} SET is_told = true"
            " WHERE scope = %s AND sink = %s"
            " AND (topic_id, number, log_offset)"
            " IN (SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[]))",
            [
                self._scope,
                self.name,
                [each.topic_id for each in messages],
                [each.number for each in messages],
                [each.offset for each in messages],
            ],
        )

    def close(self) -> None:
        """See ``OutboxSink.close``."""
        self._is_writing = False
        self._session.drop()


def _texts(
    rows: Sequence[ShapedRow],
) -> Iterator[tuple[tuple[str, ...], bool, tuple[str | None, ...]]]:
    """Rows as the texts that they would be written as."""
    for shape, values in rows:
        texts = tuple([None if value is None else str(value) for value in values])
        yield shape.columns, shape.is_delete, texts
