"""Store keys: order, round trips, and what stock Faust writes."""

from __future__ import annotations

import faust
import orjson
import pytest
from faust.serializers.registry import Registry
from faust.windows import HoppingWindow, TumblingWindow

from onceflow.errors import DeserializationError, InvariantViolation
from onceflow.limits import WINDOW_CODES_MAX
from onceflow.state.keys import (
    decode_seconds,
    encode_seconds,
    expired_ranges,
    from_changelog,
    from_changelog_many,
    split_window_key,
    to_changelog,
    to_changelog_many,
    window_bounds,
    window_key,
)


class Customer(faust.Record, serializer="json"):
    name: str


FAUST_KEYS = ["k", "", 'quo"te,[', "ü\n", 7, 1.5, None, True, ["a", ["b", 1]], Customer(name="z")]


@pytest.mark.parametrize("key", FAUST_KEYS, ids=repr)
@pytest.mark.parametrize("timestamp_s", [0.0, 17.9, 1_700_000_000.123, -61.0])
def test_every_key_that_stock_faust_writes_round_trips(key, timestamp_s):
    windows = [*TumblingWindow(60).ranges(timestamp_s), *HoppingWindow(10, 5).ranges(timestamp_s)]
    for start_s, end_s in windows:
        changelog_key = Registry().dumps_key(None, (key, (start_s, end_s)), serializer="json")
        inner = Registry().dumps_key(None, [key], serializer="json")[1:-1]
        store_key = from_changelog(changelog_key)
        assert store_key == window_key(inner, start_s, end_s)
        assert to_changelog(store_key) == changelog_key
        assert split_window_key(store_key) == (inner, start_s, end_s)


def test_windows_sort_by_start_then_end_then_key():
    starts = [-1e300, -60.0, -0.0, 0.0, 5e-324, 59.9, 60.0, 1.7e9, 1e300]
    keys = [
        window_key(inner, start, end)
        for start in starts
        for end in starts
        for inner in (b"1", b"2")
    ]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_seconds_keep_the_sign_of_zero():
    assert str(decode_seconds(encode_seconds(-0.0))) == "-0.0"
    assert encode_seconds(-0.0) < encode_seconds(0.0)


@pytest.mark.parametrize(
    "key",
    [
        b'["k",[0,59.9]]',
        b'["k",[0.00,59.9]]',
        b'["k",[0.0, 59.9]]',
        b'["k",[0.0,59.9]] ',
        b'["k",[1e1,59.9]]',
        b'["k",[-0.0,59.9]]',
        b'["k",[123456789012345678,2.0]]',
    ],
)
def test_a_foreign_spelling_stays_a_key_of_its_own(key):
    store_key = from_changelog(key)
    assert to_changelog(store_key) == key
    assert split_window_key(store_key).inner == b'"k"'
    parsed = orjson.loads(key)[1]
    usual = b'["k",' + orjson.dumps([float(bound) for bound in parsed]) + b"]"
    assert (from_changelog(usual) == store_key) == (usual == key)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"k",
        b'"k"',
        b'["k"]',
        b'["k",[1.0]]',
        b'["k",[1.0,2.0,3.0]]',
        b'["k",[1.0,"2"]]',
        b'["k",[1.0,null]]',
        b'["k",[1.0,1e999]]',
        b'["k",[[1.0,2.0]]]',
        b'"k",[1.0,2.0]]',
        b'["k",[1.0,2.0]',
    ],
)
def test_a_key_that_is_not_windowed_is_refused_by_name(key):
    with pytest.raises(DeserializationError, match="not of a windowed table"):
        from_changelog(key)


def test_a_refused_key_stays_refused_after_its_bounds_were_seen():
    from_changelog(b'["k",[1.0,2.0]]')
    with pytest.raises(DeserializationError):
        from_changelog(b'"k",[1.0,2.0]]')


def test_columns_are_the_single_conversions():
    keys = [b'["k%d",[%d.0,%d.9]]' % (n, n % 3 * 60, n % 3 * 60 + 59) for n in range(100)]
    assert from_changelog_many(keys) == [from_changelog(key) for key in keys]
    assert to_changelog_many(from_changelog_many(keys)) == keys


def test_more_windows_than_are_remembered_still_round_trip():
    keys = [b'["k",[%d.0,%d.9]]' % (n, n + 59) for n in range(WINDOW_CODES_MAX + 10)]
    assert to_changelog_many(from_changelog_many(keys)) == keys


def test_expired_range_holds_exactly_the_windows_that_start_before_the_horizon():
    start, stop = expired_ranges("counts", 60.0)
    before = [window_key(b"1", bound, bound + 59.9) for bound in (-60.0, 0.0, 59.999)]
    after = [window_key(b"1", bound, bound + 59.9) for bound in (60.0, 120.0)]
    assert all(start <= key < stop for key in before)
    assert not any(start <= key < stop for key in after)


@pytest.mark.parametrize("bound", [float("nan"), float("inf")])
def test_a_window_bound_must_be_finite(bound):
    with pytest.raises(InvariantViolation, match="INV-KEY-1"):
        window_bounds(0.0, bound)
    with pytest.raises(InvariantViolation, match="INV-KEY-1"):
        expired_ranges("counts", bound)
