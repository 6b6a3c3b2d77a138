"""WindowedFold equals a naive model, wherever batches and epochs end, aborted or not."""

import json
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.columns import aggregate
from onceflow.columns.aggregate import AggregateSpec, WindowedFold
from onceflow.columns.batch import RecordBatch
from onceflow.columns.rows import window_start_ms

NUMBERS = {
    "small integers": st.integers(-1_000, 1_000),
    # Their sums need all of 64 bits: up to 60 of them stay below 2**63.
    "large integers": st.integers(-(2**57), 2**57),
    # Halves: sums of floats are exact, so that the order in which they are made does not matter.
    "halves": st.integers(-1_000, 1_000).map(lambda twice: twice / 2),
    "mixed": st.one_of(
        st.integers(-1_000, 1_000), st.integers(-1_000, 1_000).map(lambda twice: twice / 2)
    ),
}
SHAPES = [(10, 10), (30, 10), (7, 7), (8, 2)]


# Few keys and times, so that windows are met again and again.
KEYS = ["a", "b", "\u00e4"]
TIMES_MS = [-21, -1, 0, 3, 9, 10, 12, 25]


class End(Enum):
    """How an epoch ends."""

    COMMIT = "commit"
    ABORT_OPEN = "abort before any partition is sealed"
    ABORT_HALF = "abort after one partition is sealed"
    ABORT_SEALED = "abort after all are sealed"
    RESTART = "commit, then another worker takes over"
    MOVE = "commit, then partition 0 leaves, is written by another worker, and comes back"


@st.composite
def runs(draw):
    """Two partitions' records, and the epochs in which they are consumed."""
    numbers = NUMBERS[draw(st.sampled_from(sorted(NUMBERS)))]
    record = st.tuples(st.sampled_from(KEYS), numbers, st.sampled_from(TIMES_MS))
    logs = [draw(st.lists(record, min_size=size, max_size=30)) for size in (20, 0)]
    batch = st.tuples(st.sampled_from([0, 0, 1]), st.integers(1, 3))
    epoch = st.tuples(st.sampled_from(End), st.lists(batch, min_size=1, max_size=3))
    return logs, draw(st.lists(epoch, min_size=4, max_size=10))


class Model:
    """One partition, computed record by record."""

    def __init__(self, size_ms, step_ms):
        self.size_ms, self.step_ms = size_ms, step_ms
        self.windows = {}
        self.touched = set()
        self.latest_ms = None

    def add(self, key, value, at_ms):
        start_ms = at_ms // self.step_ms * self.step_ms
        while start_ms > at_ms - self.size_ms:
            self.windows.setdefault((start_ms, key), []).append(value)
            self.touched.add((start_ms, key))
            start_ms -= self.step_ms
        self.latest_ms = at_ms if self.latest_ms is None else max(self.latest_ms, at_ms)

    def outputs(self):
        """Give the output of each window touched since the last call."""
        found = {}
        for start_ms, key in self.touched:
            values = self.windows[start_ms, key]
            number = float if any(type(value) is float for value in values) else int
            total = number(sum(values))
            found[f"{key}@{start_ms}".encode()] = {
                "n": len(values),
                "sum": total,
                "min": number(min(values)),
                "max": number(max(values)),
                "mean": float(total) / len(values),
            }
        self.touched.clear()
        return found

    def expire(self, expires_ms):
        self.windows = {
            (start_ms, key): values
            for (start_ms, key), values in self.windows.items()
            if start_ms + self.size_ms > self.latest_ms - expires_ms
        }


def batch_of(partition, records, first_offset):
    values = [json.dumps({"k": k, "v": v, "ts": ts}).encode() for k, v, ts in records]
    offsets = list(range(first_offset, first_offset + len(values)))
    return RecordBatch("t", partition, [None] * len(values), values, offsets, offsets)


class Run:
    """A fold with its stores, fed from logs, beside its model."""

    def __init__(self, logs, shape, cached_rows_max, expires_ms, *, asks_absent):
        self.expires_ms, self.asks_absent = expires_ms, asks_absent
        self.cached_rows_max = cached_rows_max
        self.spec = AggregateSpec(
            "w",
            "k",
            "v",
            ("count", "sum", "min", "max", "mean"),
            *shape,
            timestamp="ts",
            expires_ms=expires_ms,
        )
        self.fold = self.new_fold()
        self.logs = logs
        self.positions = [0, 0]
        self.stores = [{}, {}]
        self.models = [Model(*shape), Model(*shape)]

    def new_fold(self):
        return WindowedFold(self.spec, cached_rows_max=self.cached_rows_max)

    def epoch(self, end, batches):
        positions = list(self.positions)
        for partition, count in batches:
            first = positions[partition]
            records = self.logs[partition][first : first + count]
            positions[partition] += len(records)
            store = self.stores[partition]
            self.fold.update(
                partition,
                batch_of(partition, records, first),
                lambda keys, store=store: [store.get(key) for key in keys],
                (lambda low, high, store=store: not any(low <= key < high for key in store))
                if self.asks_absent
                else None,
            )
        sealed_count = {End.ABORT_OPEN: 0, End.ABORT_HALF: 1}.get(end, 2)
        sealed = [self.fold.changed(partition) for partition in range(sealed_count)]
        if end in (End.ABORT_OPEN, End.ABORT_HALF, End.ABORT_SEALED):
            self.fold.abort()
            return
        for partition, folded in enumerate(sealed):
            self.check(partition, positions[partition], folded)
        self.positions = positions
        self.fold.committed()
        if end is End.RESTART:
            self.fold = self.new_fold()
        elif end is End.MOVE:
            self.fold.forget(0)
            here, self.fold = self.fold, self.new_fold()
            self.epoch(End.COMMIT, [(0, 3)])
            self.fold = here

    def check(self, partition, position, folded):
        model, store = self.models[partition], self.stores[partition]
        for record in self.logs[partition][self.positions[partition] : position]:
            model.add(*record)
        outputs = dict(zip(folded.output_keys, map(json.loads, folded.output_values), strict=True))
        expected = model.outputs()
        assert outputs == expected
        for key, value in outputs.items():
            types = {name: type(number) for name, number in value.items()}
            assert types == {name: type(number) for name, number in expected[key].items()}
        assert len(folded) == len(outputs)
        store.update(zip(folded.store_keys, folded.rows, strict=True))
        if self.expires_ms is not None and model.latest_ms is not None:
            model.expire(self.expires_ms)
            horizon = self.fold.expired(partition, model.latest_ms)
            for key in [key for key in store if key < horizon]:
                del store[key]
        stored = {(window_start_ms(key), key[8:].decode()) for key in store}
        assert stored == set(model.windows)


@settings(max_examples=120, deadline=None)
@given(
    runs(),
    st.sampled_from(SHAPES),
    st.sampled_from([0, 2, 1_000]),
    st.sampled_from([None, 0, 25]),
    st.booleans(),
    st.sampled_from([1, 5, 65_536]),
)
def test_fold_equals_the_model(
    logs_and_epochs, shape, cached_rows_max, expires_ms, asks_absent, unfolded_records_max
):
    logs, epochs = logs_and_epochs
    run = Run(logs, shape, cached_rows_max, expires_ms, asks_absent=asks_absent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "UNFOLDED_RECORDS_MAX", unfolded_records_max)
        for end, batches in epochs:
            run.epoch(end, batches)
        run.epoch(End.COMMIT, [(0, 30), (1, 30)])
    assert run.positions == [len(log) for log in logs]
