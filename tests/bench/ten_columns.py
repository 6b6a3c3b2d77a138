"""Rows of ten columns, from a seed."""

from __future__ import annotations

import random

COLUMNS = {
    "id": "bigint",
    "k": "text",
    "v": "double precision",
    "ts": "bigint",
    "a": "int",
    "b": "int",
    "c": "text",
    "d": "text",
    "e": "double precision",
    "f": "bool",
}


def rows_of(count: int, first: int) -> list[dict[str, object]]:
    chance = random.Random(first)
    return [
        {
            "id": first + i,
            "k": f"user-{chance.randrange(1000)}",
            "v": chance.random(),
            "ts": 1_700_000_000_000 + i,
            "a": chance.randrange(100),
            "b": chance.randrange(10**6),
            "c": "abc",
            "d": "de f",
            "e": chance.random(),
            "f": i % 2 == 0,
        }
        for i in range(count)
    ]
