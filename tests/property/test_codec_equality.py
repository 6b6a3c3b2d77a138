"""Our resolved codecs give the bytes and objects of Faust's own, whatever is sent or received."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import ClassVar, Optional

import faust
import pytest
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.errors import SerializationError


class Point(faust.Record):
    x: int
    y: float = 0.5


class Shape(faust.Record):
    name: str
    points: list[Point]
    made: datetime
    tags: Optional[dict[str, int]] = None  # noqa: UP045 - as users of Faust write it


class Renamed(faust.Record):
    inner: int = faust.models.fields.IntegerField(field="inner", input_name="outer")


class Picky(faust.Record, validation=True):
    size: int
    unknown: ClassVar[int] = 0


app = faust.App("codecs", broker="onceflow://localhost:1")
TOPICS = {
    "auto": app.topic("auto"),
    "record": app.topic("record", value_type=Shape, key_type=Point),
    "renamed": app.topic("renamed", value_type=Renamed),
    "picky": app.topic("picky", value_type=Picky),
    "text": app.topic("text", key_type=str, value_type=str),
    "raw text": app.topic("raw-text", key_type=str, value_type=str, value_serializer="raw"),
    "raw bytes": app.topic("raw-bytes", value_type=bytes, value_serializer="raw"),
    "number": app.topic("number", key_type=int, value_type=int),
    "decimal": app.topic("decimal", value_type=Decimal),
    "json key": app.topic("json-key", key_serializer="json"),
    "pickled": app.topic("base64", value_serializer="json|binary"),
    "empty": app.topic("empty", value_type=Point, allow_empty=True),
}

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)
points = st.builds(Point, x=st.integers(-9, 9), y=st.floats(allow_nan=False))
shapes = st.builds(
    Shape,
    name=st.text(),
    points=st.lists(points, max_size=3),
    made=st.datetimes(timezones=st.just(UTC)),
    tags=st.none() | st.dictionaries(st.text(), st.integers(0, 9), max_size=3),
)
sendable = json_values | points | shapes | st.binary() | st.decimals(allow_nan=False)
wire = st.one_of(
    st.none(),
    st.binary(),
    st.just(b'{"name": "a", "points": [{"x": 1}], "made": "2024-01-02T03:04:05Z"}'),
    st.just(b'{"x": 1, "extra": 2}'),
    st.just(b'{"x": 1, "__faust": {"ns": "codecs.Unknown"}}'),
    st.just(b'{"outer": 3}'),
    st.just(b'{"size": "large"}'),
    st.sampled_from([b"1", b"1.5", b"null", b'"text"', b"[1]", b"{}", b""]),
)


def outcome(call, *arguments):
    """What a call gives, or the kind of error that it raises."""
    try:
        return "value", call(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever Faust raises, ours has to
        return "error", type(error)


def same(ours, theirs):
    assert ours[0] == theirs[0], (ours, theirs)
    if ours[0] == "error":
        assert ours[1] is theirs[1], (ours, theirs)
    else:
        assert type(ours[1]) is type(theirs[1])
        # Not-a-number is not equal to itself, but is written alike.
        assert ours[1] == theirs[1] or repr(ours[1]) == repr(theirs[1])


@pytest.mark.parametrize("name", TOPICS)
@given(value=sendable)
@settings(max_examples=60, deadline=None)
def test_what_is_sent_are_fausts_bytes(name, value):
    topic = TOPICS[name]
    encode_value = outcome(topic.codecs.encode_value, value)
    same(encode_value, outcome(lambda: topic.prepare_value(value, None, None, {})[0]))
    encode_key = outcome(topic.codecs.encode_key, value)
    same(encode_key, outcome(lambda: topic.prepare_key(value, None, None, {})[0]))


@pytest.mark.parametrize("name", TOPICS)
@given(raw=wire)
@settings(max_examples=60, deadline=None)
def test_what_is_received_are_fausts_objects(name, raw):
    topic = TOPICS[name]
    message = ConsumerMessage("t", 0, 0, 0.0, 0, [], None, raw, None, tp=TP("t", 0))

    def faust_value():
        if raw is None and topic.schema.allow_empty:
            return None
        return topic.schema.loads_value(app, message)

    same(outcome(topic.codecs.decode_value, raw), outcome(faust_value))


async def test_what_cannot_be_encoded_names_the_topic():
    with pytest.raises(SerializationError, match="A record for auto cannot be encoded"):
        await TOPICS["auto"].send(value=object())
