"""WindowedFold: what an epoch changes, whose fault an error is, and what is remembered."""

import json
import subprocess
import sys

import pytest

from onceflow.columns.aggregate import AggregateSpec, WindowedFold
from onceflow.columns.batch import RecordBatch
from onceflow.columns.rows import window_prefix, window_start_ms
from onceflow.errors import (
    ColumnDecodeError,
    ConfigError,
    InvariantViolation,
    ProcessingError,
    TaskCorrupted,
)

ALL = ("count", "sum", "min", "max", "mean")


def spec_of(aggregates=ALL, size_ms=10, step_ms=10, **fields):
    fields = {"key": "k", "value": "v", "timestamp": "ts", **fields}
    return AggregateSpec("sales", aggregates=aggregates, size_ms=size_ms, step_ms=step_ms, **fields)


def batch_of(values, keys=None, timestamps=None):
    count = len(values)
    values = [json.dumps(value).encode() if isinstance(value, dict) else value for value in values]
    return RecordBatch(
        "sales", 0, keys or [b"k"] * count, values, list(range(count)), timestamps or [0] * count
    )


def event(key, value, at_ms=0):
    return {"k": key, "v": value, "ts": at_ms}


class Store:
    """The committed rows of one partition, and the questions asked about them."""

    def __init__(self):
        self.rows = {}
        self.asked = []

    def fetch(self, keys):
        self.asked += keys
        return [self.rows.get(key) for key in keys]

    def absent(self, lower, upper):
        return not any(lower <= key < upper for key in self.rows)

    def epoch(self, fold, *batches, absent=False):
        """Run one epoch to its commit and give its outputs."""
        for batch in batches:
            fold.update(0, batch, self.fetch, self.absent if absent else None)
        folded = fold.changed(0)
        assert len(folded) == len(set(folded.store_keys)) == len(folded.rows)
        self.rows.update(zip(folded.store_keys, folded.rows, strict=True))
        fold.committed()
        return dict(zip(folded.output_keys, folded.output_values, strict=True))


def test_each_changed_window_comes_out_once_per_epoch():
    store, fold = Store(), WindowedFold(spec_of(("count", "sum")))
    first = [event("a", 1, 3), event("b", 2, 4), event("a", 5, 10)]
    assert store.epoch(fold, batch_of(first), batch_of([event("a", 7, 9)])) == {
        b"a@0": b'{"n":2,"sum":8}',
        b"b@0": b'{"n":1,"sum":2}',
        b"a@10": b'{"n":1,"sum":5}',
    }
    assert store.epoch(fold, batch_of([event("b", 1, 0)])) == {b"b@0": b'{"n":2,"sum":3}'}
    assert store.epoch(fold) == {}


def test_output_has_the_aggregates_in_the_order_of_the_spec():
    fold = WindowedFold(spec_of(("mean", "max", "count", "min", "sum")))
    outputs = Store().epoch(fold, batch_of([event("a", 1), event("a", 2)]))
    assert outputs == {b"a@0": b'{"mean":1.5,"max":2,"n":2,"min":1,"sum":3}'}


def test_hopping_windows_and_times_before_1970():
    fold = WindowedFold(spec_of(("count",), size_ms=20, step_ms=10, value=None))
    outputs = Store().epoch(fold, batch_of([event("a", 0, -5), event("a", 0, 0)]))
    assert outputs == {b"a@-20": b'{"n":1}', b"a@-10": b'{"n":2}', b"a@0": b'{"n":1}'}


def test_groups_by_the_record_key_and_timestamp_without_reading_values():
    fold = WindowedFold(spec_of(("count",), key=None, value=None, timestamp="record"))
    outputs = Store().epoch(fold, batch_of([None, b"\xff"], [b"\x00", b""], [25, -1]))
    assert outputs == {b"\x00@20": b'{"n":1}', b"@-10": b'{"n":1}'}


def test_integers_stay_exact_and_floats_read_back_as_the_same_number():
    store, fold = Store(), WindowedFold(spec_of(("sum", "max")))
    large = 2**53 + 1
    store.epoch(fold, batch_of([event("i", large), event("f", 0.1), event("f", 0.2)]))
    outputs = store.epoch(fold, batch_of([event("i", large), event("f", 0.3)]))
    assert outputs[b"i@0"] == b'{"sum":%d,"max":%d}' % (2 * large, large)
    assert json.loads(outputs[b"f@0"]) == {"sum": 0.1 + 0.2 + 0.3, "max": 0.3}


def test_sum_that_leaves_64_bits_only_on_the_way_is_exact():
    store, fold = Store(), WindowedFold(spec_of(("sum",)))
    top = 2**63 - 1
    outputs = store.epoch(fold, batch_of([event("a", top), event("a", top), event("a", -top)]))
    assert outputs == {b"a@0": b'{"sum":%d}' % top}


@pytest.mark.parametrize(
    "values", [[2**63 - 1, 1], [-(2**63), -1], [1.7e308, 1.7e308], [2**62, 2**62]]
)
@pytest.mark.parametrize("split", [1, 2])
def test_sum_that_does_not_fit_is_an_error_not_a_wrong_row(values, split):
    store, fold = Store(), WindowedFold(spec_of(("sum",)))
    events = [event("a", value) for value in values]
    batches = [batch_of(events)] if split == 1 else [batch_of(events[:1]), batch_of(events[1:])]
    for batch in batches[:-1]:
        store.epoch(fold, batch)
    with pytest.raises(ProcessingError, match="does not fit"):
        store.epoch(fold, batches[-1])


def test_window_becomes_float_with_its_first_float_whether_stored_or_not():
    store, fold = Store(), WindowedFold(spec_of())
    store.epoch(fold, batch_of([event("stored", 3)]))
    outputs = store.epoch(
        fold, batch_of([event("stored", 0.5), event("both", 1), event("both", 2.0), event("i", 9)])
    )
    assert outputs == {
        b"stored@0": b'{"n":2,"sum":3.5,"min":0.5,"max":3.0,"mean":1.75}',
        b"both@0": b'{"n":2,"sum":3.0,"min":1.0,"max":2.0,"mean":1.5}',
        b"i@0": b'{"n":1,"sum":9,"min":9,"max":9,"mean":9.0}',
    }
    assert store.epoch(fold, batch_of([event("both", 4)])) == {
        b"both@0": b'{"n":3,"sum":7.0,"min":1.0,"max":4.0,"mean":2.3333333333333335}'
    }


def test_integer_keys_count_as_their_digits():
    outputs = Store().epoch(
        WindowedFold(spec_of(("count",), value=None)), batch_of([event("17", 0), event(17, 0)])
    )
    assert outputs == {b"17@0": b'{"n":2}'}


def test_one_field_may_have_two_roles():
    fold = WindowedFold(spec_of(("max",), value="ts"))
    outputs = Store().epoch(fold, batch_of([event("a", 0, 3), event("a", 0, 5)]))
    assert outputs == {b"a@0": b'{"max":5}'}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "truncated"),
        (None, "tombstone"),
        ({"v": 1, "ts": 0}, "missing required field `k`"),
        ({"k": "a", "ts": 0}, "missing required field `v`"),
        ({"k": None, "v": 1, "ts": 0}, "got `null`"),
        ({"k": 1.5, "v": 1, "ts": 0}, "got `float`"),
        ({"k": "a", "v": "1", "ts": 0}, "got `str`"),
        ({"k": "a", "v": True, "ts": 0}, "got `bool`"),
        ({"k": "a", "v": None, "ts": 0}, "got `null`"),
        ({"k": "a", "v": 2**63, "ts": 0}, "64 bits"),
        ({"k": "a", "v": 1, "ts": 1.5}, "got `float`"),
        ({"k": "a", "v": 1, "ts": 2**60}, "out of bounds"),
        ({"k": "a", "v": 1, "ts": -(2**64)}, "64 bits"),
        (b'{"k":"a","v":1e999,"ts":0}', "out of range"),
        (b'{"k":"a","v":NaN,"ts":0}', "malformed"),
    ],
)
@pytest.mark.parametrize("neighbour", [1, 1.5])
def test_bad_record_is_named_and_its_batch_takes_no_effect(value, reason, neighbour):
    store, fold = Store(), WindowedFold(spec_of())
    good = event("a", neighbour)
    with pytest.raises(ColumnDecodeError, match=r"sales\[0\] offset 2: ") as caught:
        fold.update(0, batch_of([good, event("a", 1), value, good]), store.fetch)
    assert reason.lower() in str(caught.value).lower()
    assert caught.value.index == 2
    assert store.epoch(fold) == {}


def test_record_without_a_key_is_named_when_records_are_grouped_by_it():
    fold = WindowedFold(spec_of(("count",), key=None, value=None))
    with pytest.raises(ColumnDecodeError, match="offset 1: key"):
        fold.update(0, batch_of([event("a", 0)] * 2, [b"", None]), Store().fetch)


def test_batch_may_be_changed_after_its_update():
    fold = WindowedFold(spec_of(("count",), key=None, value=None, timestamp="record"))
    batch = batch_of([None], [b"a"], [5])
    fold.update(0, batch, Store().fetch)
    batch.keys[0], batch.timestamps[0] = b"b", 15
    assert fold.changed(0).output_keys == [b"a@0"]


def test_abort_leaves_no_trace_and_the_replay_counts_once():
    store, fold = Store(), WindowedFold(spec_of(("count", "sum")))
    store.epoch(fold, batch_of([event("a", 1)]))
    fold.update(0, batch_of([event("a", 10)]), store.fetch)
    fold.abort()
    fold.update(0, batch_of([event("a", 10)]), store.fetch)
    assert len(fold.changed(0)) == 1
    fold.abort()
    assert store.epoch(fold, batch_of([event("a", 10)])) == {b"a@0": b'{"n":2,"sum":11}'}


def test_epoch_cannot_commit_with_records_that_were_not_folded():
    store, fold = Store(), WindowedFold(spec_of())
    fold.update(0, batch_of([event("a", 1)]), store.fetch)
    with pytest.raises(InvariantViolation, match="INV-EPOCH-2"):
        fold.committed()


def test_sealed_partition_takes_no_update_until_its_epoch_ends():
    store, fold = Store(), WindowedFold(spec_of())
    fold.update(0, batch_of([event("a", 1)]), store.fetch)
    fold.changed(0)
    with pytest.raises(InvariantViolation, match="INV-EPOCH-3"):
        fold.update(0, batch_of([event("a", 1)]), store.fetch)


def test_committed_rows_are_not_read_again_until_forgotten():
    store, fold = Store(), WindowedFold(spec_of(("count",), value=None))
    store.epoch(fold, batch_of([event("a", 0)]))
    asked = len(store.asked)
    store.epoch(fold, batch_of([event("a", 0)]))
    assert len(store.asked) == asked == 1
    fold.forget(0)
    # Another worker had the partition meanwhile.
    other = WindowedFold(spec_of(("count",), value=None))
    store.epoch(other, batch_of([event("a", 0)]))
    assert store.epoch(fold, batch_of([event("a", 0)])) == {b"a@0": b'{"n":4}'}


def test_window_that_begins_while_we_run_is_never_read():
    store, fold = Store(), WindowedFold(spec_of(("count",), value=None))
    store.epoch(fold, batch_of([event("a", 0)]), absent=True)
    store.epoch(fold, batch_of([event("b", 0), event("a", 0)]), absent=True)
    assert store.asked == []
    resumed = WindowedFold(spec_of(("count",), value=None))
    outputs = store.epoch(resumed, batch_of([event("b", 0), event("c", 0)]), absent=True)
    assert outputs == {b"b@0": b'{"n":2}', b"c@0": b'{"n":1}'}
    assert len(store.asked) == 2


def test_cache_holds_no_more_rows_than_its_bound_and_reads_what_it_dropped():
    store, fold = Store(), WindowedFold(spec_of(("count",), value=None), cached_rows_max=3)
    for turn in range(1, 4):
        for key in "abcde":
            outputs = store.epoch(
                fold, batch_of([event(key, 0, 0), event(key, 0, 10)]), absent=True
            )
            assert outputs == {
                key.encode() + b"@0": b'{"n":%d}' % turn,
                key.encode() + b"@10": b'{"n":%d}' % turn,
            }
            assert len(fold._cache) <= 3


def test_expired_windows_lie_below_the_horizon_and_start_again_from_nothing():
    store, fold = Store(), WindowedFold(spec_of(("count",), value=None, expires_ms=5))
    store.epoch(fold, batch_of([event("a", 0, -10), event("a", 0, 0), event("a", 0, 14)]))
    assert fold.latest_ms(0) is None
    fold.update(0, batch_of([event("a", 0, 15), event("a", 0, 3)]), store.fetch)
    assert fold.latest_ms(0) == 15
    folded = fold.changed(0)
    horizon = fold.expired(0, 15)
    store.rows.update(zip(folded.store_keys, folded.rows, strict=True))
    fold.committed()
    # The window 0..9 ended at 10 and is kept until event time 14.
    assert {window_start_ms(key) for key in store.rows if key >= horizon} == {10}
    store.rows = {key: row for key, row in store.rows.items() if key >= horizon}
    assert store.epoch(fold, batch_of([event("a", 0, 1), event("a", 0, 16)]), absent=True) == {
        b"a@0": b'{"n":1}',
        b"a@10": b'{"n":3}',
    }
    assert WindowedFold(spec_of()).expired(0, 10**12) is None


def test_order_of_store_keys_is_the_order_of_time():
    starts = [-(2**53), -10, -1, 0, 1, 255, 256, 2**53]
    prefixes = [window_prefix(start_ms) for start_ms in starts]
    assert prefixes == sorted(prefixes)
    assert [window_start_ms(prefix + b"key") for prefix in prefixes] == starts


def test_rows_of_other_aggregates_are_not_misread():
    store = Store()
    store.epoch(WindowedFold(spec_of(("sum",))), batch_of([event("a", 1)]))
    with pytest.raises(TaskCorrupted, match="other aggregates"):
        store.epoch(WindowedFold(spec_of(("sum", "min"))), batch_of([event("a", 1)]))


def test_own_output_functions_get_typed_columns():
    seen = []

    def values(windows):
        table = windows.to_arrow()
        seen.append({name: str(table.schema.field(name).type) for name in table.column_names})
        return [b"%d" % count for count in table["count"].to_pylist()]

    fold = WindowedFold(
        spec_of(("count", "sum")), output_keys=lambda windows: windows.keys, output_values=values
    )
    outputs = Store().epoch(fold, batch_of([event("i", 1), event("f", 1.5)]))
    assert outputs == {b"i": b"1", b"f": b"1"}
    assert [types["sum"] for types in seen] == ["int64", "double"]
    assert list(seen[0]) == ["key", "start_ms", "count", "sum"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregates": ()},
        {"aggregates": ("median",)},
        {"aggregates": ("sum", "sum")},
        {"size_ms": 15},
        {"size_ms": 5},
        {"step_ms": 0},
        {"value": None},
        {"expires_ms": -1},
    ],
)
def test_spec_that_cannot_be_computed_is_refused(wrong):
    with pytest.raises(ConfigError, match="'sales'"):
        spec_of(**wrong)


def test_nothing_is_imported_after_an_aggregate_is_made():
    """pyarrow imports pandas, where it is installed, for its first array: seconds of an epoch."""
    program = """
import sys
from onceflow.columns.aggregate import AggregateSpec, WindowedFold
from onceflow.columns.batch import RecordBatch
fold = WindowedFold(AggregateSpec("sales", "k", "v", ("sum",), 10, 10, "ts"))
before = set(sys.modules)
values = [b'{"k":"a","v":1,"ts":0}'] * 1_000
fold.update(0, RecordBatch("t", 0, values, values, range(1_000), values), lambda keys: [None])
assert len(fold.changed(0)) == 1
print(sorted(set(sys.modules) - before))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "[]", ran.stderr
