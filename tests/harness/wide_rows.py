"""A row of every type that PostgreSQL's sinks write, with values that break careless quoting."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid

WIDE = {
    "id": "bigint",
    "word": "text",
    "ratio": "double precision",
    "price": "numeric(12,3)",
    "flag": "boolean",
    "seen": "timestamptz",
    "day": "date",
    "raw": "bytea",
    "info": "jsonb",
    "tags": "text[]",
    "span": "interval",
    "ident": "uuid",
}
NOON = dt.datetime(2024, 5, 6, 12, 0, 0, 123456, tzinfo=dt.UTC)
ROW = {
    "id": 7,
    "word": 'tab\t, line\n, \\N, "quoted", \r and {1,2}',
    "ratio": 0.1,
    "price": decimal.Decimal("12.340"),
    "flag": True,
    "seen": NOON,
    "day": dt.date(2024, 2, 29),
    "raw": b"\x00\xff\\",
    "info": {"a": ["1", None, "x\\y"]},
    "tags": ["a", None, 'b"c\\', "{}"],
    "span": dt.timedelta(days=-1, seconds=5, microseconds=7),
    "ident": uuid.UUID(int=5),
}
