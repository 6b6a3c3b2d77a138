"""Few records are folded without Arrow, many with it: both give the same bytes and errors."""

import json
import random
from contextlib import contextmanager
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.columns import aggregate, reading
from onceflow.columns.aggregate import AggregateSpec, WindowedFold
from onceflow.columns.batch import RecordBatch
from onceflow.columns.rows import window_start_ms
from onceflow.errors import ColumnDecodeError, ProcessingError

AGGREGATES = ["count", "sum", "min", "max", "mean"]
SHAPES = [(10, 10), (30, 10), (7, 7), (8, 2)]
EVERYTHING, NOTHING, SOME = 1_000_000, 0, 4
"""How many records are few: all, so that Arrow folds none, none at all, and a batch or two."""

TOP = 2**63 - 1
SMALL = st.integers(-1_000, 1_000)
LARGE = st.one_of(st.integers(-TOP - 1, TOP), st.sampled_from([TOP, -TOP - 1, 2**62, -(2**62)]))
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, 1e16, -1e16, 5e-324]),
)
HUGE = st.sampled_from([1.7e308, -1.7e308, 1.0])
NUMBERS = [SMALL, LARGE, FLOATS, HUGE, st.one_of(SMALL, FLOATS), st.one_of(LARGE, FLOATS)]
KEYS = [
    st.sampled_from(["a", "b", "\u00e4", ""]),
    st.sampled_from(["a", "17", 17, -(2**70)]),
    st.integers(0, 60),
]
TIMES_MS = st.one_of(
    st.sampled_from([-21, -1, 0, 3, 9, 10, 12, 25]), st.sampled_from([2**53, -(2**53)])
)
BAD_VALUES = [
    None,
    b"{",
    b'{"k":"a","v":1}',
    b'{"k":null,"v":1,"ts":0}',
    b'{"k":"a","v":1,"ts":%d}' % (2**53 + 1),
    b'{"k":"a","v":1,"ts":%d}' % -(2**64),
    b'{"k":"a","v":%d,"ts":0}' % 2**63,
    b'{"k":"a","v":1e999,"ts":0}',
]


@st.composite
def specs(draw):
    value = draw(st.sampled_from(["v", "v", "v", None, "ts"]))
    names = AGGREGATES if value else ["count"]
    return AggregateSpec(
        "w",
        draw(st.sampled_from(["k", None])),
        value,
        tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True))),
        *draw(st.sampled_from(SHAPES)),
        timestamp=draw(st.sampled_from(["ts", "record"])),
    )


@st.composite
def epochs(draw):
    """Lists of batches, each one a list of (Kafka key, value, Kafka timestamp)."""
    document = st.fixed_dictionaries(
        {
            "k": draw(st.sampled_from(KEYS)),
            "v": draw(st.sampled_from(NUMBERS)),
            "ts": TIMES_MS,
        }
    ).map(lambda fields: json.dumps(fields).encode())
    record = st.tuples(st.sampled_from([b"x", b"\xff", b""]), document, TIMES_MS)
    bad = st.tuples(st.just(None), st.sampled_from(BAD_VALUES), st.just(2**63))
    seldom = st.integers(0, 200).flatmap(lambda chance: bad if chance == 0 else record)
    batch = st.lists(seldom, min_size=1, max_size=12)
    return draw(st.lists(st.lists(batch, min_size=1, max_size=4), min_size=1, max_size=4))


class Worker:
    """One fold with its store."""

    def __init__(self, spec, few_records_max):
        self.few_records_max = few_records_max
        self.rows = {}
        self.tables = []
        with self.limit():
            self.fold = WindowedFold(spec)
            self.typed = WindowedFold(spec, output_values=self.values)

    @contextmanager
    def limit(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aggregate, "FEW_RECORDS_MAX", self.few_records_max)
            patch.setattr(reading, "FEW_RECORDS_MAX", self.few_records_max)
            yield

    def values(self, windows):
        """Note the Arrow columns that an output function of the user's sees."""
        table = windows.to_arrow()
        self.tables.append((str(table.schema), sorted(map(repr, table.to_pylist()))))
        return windows.keys

    def epoch(self, batches):
        """Give what the epoch changes, or its error; the store takes it."""
        with self.limit():
            try:
                for fold in (self.fold, self.typed):
                    for batch in batches:
                        fold.update(0, batch, lambda keys: [self.rows.get(key) for key in keys])
                folded, _ = self.fold.changed(0), self.typed.changed(0)
            except (ColumnDecodeError, ProcessingError) as error:
                self.fold.abort()
                self.typed.abort()
                return repr(error), getattr(error, "index", None)
            self.rows.update(zip(folded.store_keys, folded.rows, strict=True))
            self.fold.committed()
            self.typed.committed()
        return list(
            zip(
                folded.store_keys,
                folded.rows,
                folded.output_keys,
                folded.output_values,
                strict=True,
            )
        )


def batch_of(records, first_offset):
    keys, values, timestamps = map(list, zip(*records, strict=True))
    offsets = list(range(first_offset, first_offset + len(records)))
    return RecordBatch("t", 0, keys, values, offsets, timestamps)


def by_window(changes):
    """Give runs of (kind, start) with their changes; the order within a run is not promised."""
    return [
        (run, sorted(members))
        for run, members in groupby(
            changes, key=lambda change: (change[1][0] & 1, window_start_ms(change[0]))
        )
    ]


def check_alike(spec, all_epochs):
    """Run the epochs with and without Arrow, and with both; each is a list of lists of records."""
    few, many, some = (Worker(spec, limit) for limit in (EVERYTHING, NOTHING, SOME))
    offset = 0
    for records in all_epochs:
        batches = []
        for part in records:
            batches.append(batch_of(part, offset))
            offset += len(part)
        outcomes = [worker.epoch(batches) for worker in (few, many, some)]
        if isinstance(outcomes[0], list):
            outcomes = list(map(by_window, outcomes))
        assert outcomes[0] == outcomes[1]
        assert outcomes[2] == outcomes[1]
        assert few.rows == many.rows == some.rows
    assert few.tables == many.tables == some.tables


@settings(max_examples=150, deadline=None)
@given(specs(), epochs())
def test_few_records_are_folded_as_many_are(spec, all_epochs):
    check_alike(spec, all_epochs)


DENSE = {
    "integers": lambda chance: chance.randrange(-1_000, 1_000),
    "edges of 64 bits": lambda chance: chance.choice([2**62, -(2**62), 2**62 - 1, TOP, -TOP - 1]),
    "floats": lambda chance: chance.uniform(-1, 1) * 10 ** chance.randrange(-8, 8),
    "zeros": lambda chance: chance.choice([0.0, -0.0]),
    "huge floats": lambda chance: chance.choice([1.7e308, -1.7e308, 1e308, -1e308]),
    "both": lambda chance: chance.choice([-0.0, chance.uniform(-9, 9), chance.randrange(2**62)]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("numbers", sorted(DENSE))
def test_full_windows_are_folded_alike(shape, numbers):
    """Each window has records of several batches and epochs, and hopping ones of several panes."""
    chance = random.Random(f"{shape} {numbers}")
    spec = AggregateSpec("w", "k", "v", tuple(AGGREGATES), *shape, timestamp="ts")
    for _ in range(16):
        documents = [
            {"k": chance.choice("ab"), "v": DENSE[numbers](chance), "ts": chance.randrange(-9, 9)}
            for _ in range(chance.choice([1, 2, 10, 60]))
        ]
        records = [(None, json.dumps(document).encode(), 0) for document in documents]
        parts = [records[at : at + 5] for at in range(0, len(records), 5)]
        check_alike(spec, [parts[at : at + 4] for at in range(0, len(parts), 4)])


@pytest.mark.parametrize("few_records_max", [EVERYTHING, NOTHING])
def test_sums_of_floats_are_made_in_the_order_of_the_records(few_records_max):
    worker = Worker(AggregateSpec("w", "k", "v", ("sum",), 10, 10, "ts"), few_records_max)
    numbers = [0.1, 1e16, -1e16, 0.2, 0.3]
    records = [
        (None, json.dumps({"k": "a", "v": number, "ts": 0}).encode(), 0) for number in numbers
    ]
    ((_, _, _, value),) = worker.epoch([batch_of(records[:2], 0), batch_of(records[2:], 2)])
    total = 0.0
    for number in numbers:
        total += number
    assert json.loads(value) == {"sum": total} != {"sum": sum(sorted(numbers))}
