from __future__ import annotations

import pytest
from faust.windows import HoppingWindow, TumblingWindow
from hypothesis import assume, given
from hypothesis import strategies as st

from onceflow.decisions.windows import HoppingWindows, WindowRange, tumbling
from onceflow.errors import ConfigError

WHOLE = st.integers(1, 100_000)
# Faust counts steps in a C int: beyond it its own arithmetic overflows.
TIMES = st.floats(-1e6, 2e9, allow_nan=False)
EXPIRY = st.sampled_from([0, 1, 60, 90.5, 3600.0, 10**7])


@given(WHOLE, WHOLE, EXPIRY, TIMES, st.floats(0, 1e6), st.floats(0, 1e6))
def test_windows_come_out_as_faust_s_to_the_last_bit(size, step, expires, at, back, later):
    assume(size / step < 300)
    faust, ours = HoppingWindow(size, step, expires), HoppingWindows(size, step, expires)
    assert ours.ranges(at) == faust.ranges(at)
    assert ours.current(at) == faust.current(at)
    assert ours.earliest(at) == faust.earliest(at)
    assert ours.delta(at, back) == faust.delta(at, back)
    assert ours.stale(at, at + later) == faust.stale(at, at + later)


@given(WHOLE, TIMES)
def test_tumbling_windows_come_out_as_faust_s(size, at):
    assert tumbling(size).ranges(at) == TumblingWindow(size).ranges(at)
    assert tumbling(size).current(at) == TumblingWindow(size).current(at)


def test_a_record_lies_in_as_many_windows_as_the_size_has_steps():
    found: list[WindowRange] = HoppingWindows(60, 20).ranges(100.5)
    assert found == [(60.0, 119.9), (80.0, 139.9), (100.0, 159.9)]


@pytest.mark.parametrize(("size", "step"), [(0.5, 0.5), (3, 1.5), (1, 0.5), (0, 1), (-1, 1)])
def test_sizes_that_faust_cannot_count_in_are_refused_with_the_reason(size, step):
    with pytest.raises(ConfigError, match="count in whole seconds"):
        HoppingWindows(size, step)


def test_a_negative_expiry_is_refused():
    with pytest.raises(ConfigError, match="use 0 to keep them for ever"):
        tumbling(10, -1)


def test_windows_expire_by_stream_time_and_never_without_an_expiry():
    assert tumbling(10, 60).expired_before(1_000.0) == 940.0
    assert tumbling(10).expired_before(1_000.0) is None
    assert not tumbling(10).stale(0.0, 1e9)


def test_one_second_steps_go_on_after_2038():
    assert tumbling(1).ranges(3e9) == [(3e9, 3e9 + 0.9)]
