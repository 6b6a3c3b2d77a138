"""What may be yielded to a sink, and what a deletion names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import pytest

from onceflow.errors import SerializationError
from onceflow.sinks import Delete
from onceflow.sinks.rows import items_of, key_values


class Pair(NamedTuple):
    a: int
    b: int


class Struct(msgspec.Struct):
    a: int


@dataclass(slots=True)
class Slotted:
    a: int


class Record:  # as faust.Record
    def asdict(self):
        return {"a": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, [{"a": 1}]),
        (Pair(1, 2), [{"a": 1, "b": 2}]),
        (Struct(1), [{"a": 1}]),
        (Slotted(1), [{"a": 1}]),
        (Record(), [{"a": 1}]),
        ([{"a": 1}, Struct(2), Delete(3)], [{"a": 1}, {"a": 2}, Delete(3)]),
        (({"a": 1}, Record()), [{"a": 1}, {"a": 1}]),
        ([], []),
    ],
)
def test_what_tells_its_fields_is_a_row(value, expected):
    assert list(items_of(value)) == expected


@pytest.mark.parametrize("value", ["text", 5, None, object(), Slotted, [["nested"]]])
def test_anything_else_is_refused(value):
    with pytest.raises(SerializationError, match="cannot become a row"):
        items_of(value)


def test_a_deletion_names_its_key_in_any_of_three_ways():
    assert key_values(Delete(1), ["a"]) == (1,)
    assert key_values(Delete((1, 2)), ["a", "b"]) == (1, 2)
    assert key_values(Delete({"b": 2, "a": 1}), ["a", "b"]) == (1, 2)


@pytest.mark.parametrize("key", [None, (1,), (1, None), (1, 2, 3), {"a": 1}, {"a": 1, "c": 2}])
def test_a_deletion_that_does_not_fit_the_key_is_refused(key):
    with pytest.raises(SerializationError):
        key_values(Delete(key), ["a", "b"])
