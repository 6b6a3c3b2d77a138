"""Rows of a MySQL sink as literals and statements, and its dsn; without a server."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest

from onceflow.errors import ConfigError, SerializationError
from onceflow.limits import MYSQL_STATEMENT_BYTES_MAX
from onceflow.sinks import Delete, MySQL
from onceflow.sinks.mysql_rows import RowWriter, identifier, qualified
from onceflow.sinks.mysql_session import parameters_of
from onceflow.sinks.mysql_types import Column, Kind, kind_of, literal

ID = uuid.UUID(int=7)
AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC).replace(tzinfo=None)
"""A time without a zone, which is taken as UTC."""


def column(kind: Kind, decimals: int = 0, name: str = "c") -> Column:
    return Column(name, str(kind), kind, decimals, is_required=False)


@pytest.mark.parametrize(
    ("kind", "decimals", "value", "text"),
    [
        (Kind.INTEGER, 0, 2**63, "9223372036854775808"),
        (Kind.INTEGER, 0, True, "1"),
        (Kind.FLOAT, 0, 0.1, "0.1"),
        (Kind.FLOAT, 0, 1e300, "1e+300"),
        (Kind.FLOAT, 0, 3, "3"),
        (Kind.DECIMAL, 2, Decimal("1.50"), "1.50"),
        (Kind.DECIMAL, 2, Decimal("1E+3"), "1000"),
        (Kind.DECIMAL, 2, 0.25, "0.25"),
        (Kind.DECIMAL, 0, 7, "7"),
        (Kind.TEXT, 0, "it's \\ \0 \x1a ü\n", "'it\\'s \\\\ \\0 \\Z ü\n'"),
        (Kind.TEXT, 0, ID, f"'{ID}'"),
        (Kind.BYTES, 0, b"\x00'\xff", "X'0027ff'"),
        (Kind.BYTES, 0, ID, f"X'{ID.hex}'"),
        (Kind.JSON, 0, {"a": [1, "'"]}, """'{"a":[1,"\\'"]}'"""),
        (Kind.JSON, 0, "text", "'text'"),
        (Kind.DATETIME, 6, AT, "'2026-01-02 03:04:05.000006'"),
        (
            Kind.DATETIME,
            0,
            datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=5))),
            "'2026-01-01 22:00:00'",
        ),
        (
            Kind.DATETIME,
            3,
            datetime(2026, 1, 2, 3, 4, 5, 6000, UTC),
            "'2026-01-02 03:04:05.006000'",
        ),
        (Kind.DATE, 0, date(2026, 1, 2), "'2026-01-02'"),
        (Kind.TIME, 0, time(1, 2, 3), "'01:02:03'"),
        (Kind.TIME, 0, -timedelta(hours=30, seconds=1), "'-30:00:01'"),
        (Kind.TIME, 6, timedelta(microseconds=5), "'00:00:00.000005'"),
        (Kind.TEXT, 0, None, "NULL"),
    ],
)
def test_a_value_becomes_its_literal(kind, decimals, value, text):
    assert literal(column(kind, decimals), value) == text


@pytest.mark.parametrize(
    ("kind", "decimals", "value"),
    [
        (Kind.INTEGER, 0, 1.0),
        (Kind.INTEGER, 0, "1"),
        (Kind.FLOAT, 0, float("nan")),
        (Kind.FLOAT, 0, 2**53 + 1),
        (Kind.FLOAT, 0, "1"),
        (Kind.DECIMAL, 2, Decimal("0.125")),
        (Kind.DECIMAL, 2, 0.125),
        (Kind.DECIMAL, 2, Decimal("Infinity")),
        (Kind.TEXT, 0, 1),
        (Kind.TEXT, 0, b"x"),
        (Kind.BYTES, 0, "x"),
        (Kind.JSON, 0, {"a": object()}),
        (Kind.JSON, 0, 1),
        (Kind.DATETIME, 0, AT),
        (Kind.DATETIME, 0, "2026-01-02"),
        (Kind.DATETIME, 0, date(2026, 1, 2)),
        (Kind.DATE, 0, AT),
        (Kind.TIME, 0, timedelta(microseconds=5)),
        (Kind.TIME, 0, time(1, tzinfo=UTC)),
        (Kind.TIME, 0, 3),
    ],
)
def test_a_value_that_would_be_changed_is_refused(kind, decimals, value):
    with pytest.raises(SerializationError, match="does not take"):
        literal(column(kind, decimals), value)


def test_types_are_known_by_name():
    assert kind_of("BIGINT") is Kind.INTEGER
    assert kind_of("longtext") is Kind.JSON
    assert kind_of("geometry") is None


def writer(*, key=("k",), row_bytes_max=1_000) -> RowWriter:
    columns = [
        Column("k", "int", Kind.INTEGER, 0, is_required=True),
        Column("a", "int", Kind.INTEGER, 0, is_required=False),
        Column("b", "text", Kind.TEXT, 0, is_required=False),
    ]
    return RowWriter("d.t", columns, key, row_bytes_max)


def statements(rows: RowWriter, *values) -> list[str]:
    return list(rows.statements([rows.encode(value) for value in values]))


def test_consecutive_rows_of_the_same_columns_go_into_one_statement_in_order():
    found = statements(
        writer(),
        [{"k": 1, "a": 1}, {"k": 1, "a": 2}],
        {"k": 2, "a": 3},
        Delete(1),
        Delete({"k": 2}),
        {"k": 1},
        pa.table({"k": [4, 5]}),
    )
    upsert = "INSERT INTO `d`.`t` (`k`, `a`) VALUES (1,1),(1,2),(2,3)"
    assert found == [
        f"{upsert} ON DUPLICATE KEY UPDATE `a` = VALUES(`a`)",
        "DELETE FROM `d`.`t` WHERE (`k`) IN ((1),(2))",
        "INSERT INTO `d`.`t` (`k`) VALUES (1),(4),(5) ON DUPLICATE KEY UPDATE `k` = VALUES(`k`)",
    ]


def test_a_sink_without_a_key_only_inserts():
    assert statements(writer(key=()), {"k": 1, "b": "x"}) == [
        "INSERT INTO `d`.`t` (`k`, `b`) VALUES (1,'x')"
    ]
    with pytest.raises(SerializationError, match="has no key"):
        writer(key=()).encode(Delete(1))


def test_long_statements_are_cut_between_rows():
    rows = writer(row_bytes_max=MYSQL_STATEMENT_BYTES_MAX)
    text = "x" * (MYSQL_STATEMENT_BYTES_MAX // 2)
    found = statements(rows, [{"k": number, "b": text} for number in range(3)])
    assert [part.count("x" * 100) > 0 for part in found] == [True] * 3
    encoded = rows.encode({"k": 1, "b": "é"})
    assert (encoded.rows, encoded.size_bytes) == (1, len("(1,'é')".encode()))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"k": 1, "z": 1}, "takes no column 'z'"),
        ({}, "without columns"),
        ({"a": 1}, "no value in column 'k'"),
        ({"k": None}, "part of the sink's key"),
        ({"k": 1, "b": "x" * 1_000}, "max_allowed_packet"),
        ({"k": 1, "b": "\ud800"}, "no Unicode"),
        (Delete(None), "no None"),
        (Delete("x"), "does not take"),
        (object(), "cannot become a row"),
    ],
)
def test_a_row_that_does_not_fit_the_table_is_refused(value, says):
    with pytest.raises(SerializationError, match=says):
        writer().encode(value)


def test_names_are_quoted():
    assert identifier("a`b") == "`a``b`"
    assert qualified("d.t.x") == "`d`.`t.x`"


def test_a_dsn_is_read_with_its_codes():
    assert parameters_of("mysql://us%40er:p%2Fw@host:1234/data%20base?ssl_ca=ca.pem") == {
        "host": "host",
        "port": 1234,
        "user": "us@er",
        "password": "p/w",
        "database": "data base",
        "ssl_ca": "ca.pem",
    }
    assert parameters_of("mariadb://host/d")["port"] == 3306


@pytest.mark.parametrize(
    "dsn", ["postgresql://host/d", "mysql://host", "mysql://host:x/d", "mysql://host/d?what=1"]
)
def test_another_dsn_is_refused_without_telling_the_password(dsn):
    with pytest.raises(ConfigError, match="dsn"):
        MySQL(dsn.replace("host", "user:secret@host"), table="t")
    with pytest.raises(ConfigError) as refused:
        MySQL(dsn.replace("host", "user:secret@host"), table="t")
    assert "secret" not in str(refused.value)


def test_arguments_of_a_sink_are_checked():
    dsn = "mysql://host/d"
    with pytest.raises(ConfigError, match="create_table has not"):
        MySQL(dsn, table="t", key=["k"], create_table={"a": "int"})
    with pytest.raises(ConfigError, match="before it was opened"):
        MySQL(dsn, table="t").encode({"k": 1})
    assert MySQL(dsn, table="t").name == MySQL("mysql://elsewhere/d", table="t").name
    assert MySQL(dsn, table="t").name != MySQL(dsn, table="u").name
