"""Cost of the columnar aggregate by itself: decode, fold, merge with RocksDB's rows, rows, outputs.

    python tests/bench/bench_columns.py [RECORDS]

No Kafka: batches of 40-byte JSON lie in memory, epochs have 40,000 records in 4 partitions. Printed
are nanoseconds of processor time of the whole process, all threads, per record. Writing to RocksDB
is the same in every variant, so it is left out; reading from it is in. Each epoch's cost is the
least of five runs, which take turns, because what else runs on the machine costs cache. Every
variant's rows are compared with those of the first.

Variants: ``loop`` is a hand-written orjson + dict loop and ``polars`` a hand-written
``read_ndjson`` + ``group_by``, both with one pass over the changed windows in Python; ``fold`` is
``WindowedFold`` as the engine uses it; then without the question whether a window is empty
(``fold/reads``), and without any memory across epochs (``fold/nocache``).
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import orjson
import polars as pl
from rocksdict import Options, Rdict, WriteBatch

from onceflow.columns.aggregate import AggregateSpec, WindowedFold
from onceflow.columns.batch import RecordBatch

if TYPE_CHECKING:
    from collections.abc import Callable

PARTITIONS, EPOCH_RECORDS, WINDOW_MS, START_MS = 4, 40_000, 10_000, 1_700_000_000_000
ROW, START = struct.Struct("<qd"), struct.Struct(">Q")
SPEC = AggregateSpec("bench", "k", "v", ("count", "sum"), WINDOW_MS, WINDOW_MS, "ts")
REPEATS = 5
Epoch = list[tuple[int, RecordBatch]]


def epochs_of(records: int, keys: int, batch_records: int) -> list[Epoch]:
    """Make the input: 10,000 events per second of event time, keys at random."""
    chance = random.Random(7)
    epochs: list[Epoch] = []
    for first in range(0, records, EPOCH_RECORDS):
        columns: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        for i in range(first, first + EPOCH_RECORDS):
            key, at_ms = chance.randrange(keys), START_MS + i // 10
            columns[key % PARTITIONS].append(
                b'{"k":"%d","v":%d.5,"ts":%d}' % (key, chance.randrange(100), at_ms)
            )
        epoch: Epoch = []
        for partition, values in enumerate(columns):
            for at in range(0, len(values), batch_records):
                run = values[at : at + batch_records]
                numbers = list(range(at, at + len(run)))
                epoch.append(
                    (
                        partition,
                        RecordBatch("t", partition, [b""] * len(run), run, numbers, numbers),
                    )
                )
        epochs.append(epoch)
    return epochs


class Stores:
    """One RocksDB per partition, and the time spent writing to it, which is not counted."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(64 << 20)
        self.stores = [Rdict(str(Path(self.folder) / str(p)), options) for p in range(PARTITIONS)]
        self.write_s = 0.0
        self.read_keys = 0

    def fetch(self, partition: int) -> Callable[[list[bytes]], list[bytes | None]]:
        store = self.stores[partition]

        def read(keys: list[bytes]) -> list[bytes | None]:
            self.read_keys += len(keys)
            return store.get(keys)

        return read

    def absent(self, partition: int) -> Callable[[bytes, bytes], bool]:
        store = self.stores[partition]

        def empty(lower: bytes, upper: bytes) -> bool:
            found = next(iter(store.keys(from_key=lower)), None)
            return found is None or found >= upper

        return empty

    def write(self, partition: int, store_keys: list[bytes], rows: list[bytes]) -> None:
        started = time.process_time()
        batch = WriteBatch(raw_mode=True)
        for key, row in zip(store_keys, rows, strict=True):
            batch.put(key, row)
        self.stores[partition].write(batch)
        self.write_s += time.process_time() - started

    def content(self) -> list[tuple[bytes, bytes]]:
        return [pair for store in self.stores for pair in store.items()]


class ByHand:
    """What the hand-written variants share: one Python pass over the changed windows."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.overlay: list[dict[bytes, tuple[int, float]]] = [{} for _ in range(PARTITIONS)]

    def merge(
        self, partition: int, keys: list[bytes], counts: list[int], sums: list[float]
    ) -> None:
        top = self.overlay[partition]
        missing = [key for key in keys if key not in top]
        rows = self.stores.fetch(partition)(missing) if missing else []
        stored = dict(zip(missing, rows, strict=True))
        for key, count, total in zip(keys, counts, sums, strict=True):
            have = top.get(key)
            if have is None:
                row = stored.get(key)
                head, held = ROW.unpack(row) if row else (0, 0.0)
                have = (head >> 1, held)
            top[key] = (have[0] + count, have[1] + total)

    def seal(self) -> None:
        for partition, top in enumerate(self.overlay):
            rows = [ROW.pack(n * 2 + 1, total) for n, total in top.values()]
            for key, (n, total) in top.items():
                _output = (
                    key[8:] + b"@%d" % (START.unpack_from(key)[0] - (1 << 63)),
                    orjson.dumps({"n": n, "sum": total}),
                )
            self.stores.write(partition, list(top), rows)
            self.overlay[partition] = {}


def prefix(start_ms: int) -> bytes:
    return START.pack(start_ms + (1 << 63))


class Loop(ByHand):
    """orjson over one joined document, then a dict."""

    def update(self, partition: int, batch: RecordBatch) -> None:
        groups: dict[tuple[int, str], list] = {}
        for event in orjson.loads(b"[" + b",".join(batch.values) + b"]"):
            key = (event["ts"] // WINDOW_MS, event["k"])
            group = groups.get(key)
            if group is None:
                groups[key] = [1, event["v"]]
            else:
                group[0] += 1
                group[1] += event["v"]
        keys = [prefix(window * WINDOW_MS) + key.encode() for window, key in groups]
        self.merge(
            partition, keys, [g[0] for g in groups.values()], [g[1] for g in groups.values()]
        )


class Polars(ByHand):
    """polars' reader of JSON lines, then its group_by."""

    schema: ClassVar = {"k": pl.String, "v": pl.Float64, "ts": pl.Int64}

    def update(self, partition: int, batch: RecordBatch) -> None:
        frame = pl.read_ndjson(b"\n".join(batch.values), schema=self.schema)
        start = (pl.col("ts") // WINDOW_MS * WINDOW_MS).alias("w")
        groups = frame.group_by(start, "k").agg(pl.len().alias("n"), pl.col("v").sum().alias("s"))
        pairs = zip(groups["w"].to_list(), groups["k"].to_list(), strict=True)
        keys = [prefix(start_ms) + key.encode() for start_ms, key in pairs]
        self.merge(partition, keys, groups["n"].to_list(), groups["s"].to_list())


class Fold:
    """WindowedFold, as the engine uses it."""

    asks_absent, cached_rows_max = True, 250_000

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.fold = WindowedFold(SPEC, cached_rows_max=self.cached_rows_max)

    def update(self, partition: int, batch: RecordBatch) -> None:
        absent = self.stores.absent(partition) if self.asks_absent else None
        self.fold.update(partition, batch, self.stores.fetch(partition), absent)

    def seal(self) -> None:
        for partition in range(PARTITIONS):
            rows = self.fold.changed(partition)
            self.stores.write(partition, rows.store_keys, rows.rows)
        self.fold.committed()


class FoldReads(Fold):
    """The same, but each key of a window that begins is read."""

    asks_absent = False


class FoldNoCache(Fold):
    """The same, but every row is read in every epoch."""

    asks_absent, cached_rows_max = False, 0


VARIANTS = {
    "loop": Loop,
    "polars": Polars,
    "fold": Fold,
    "fold/reads": FoldReads,
    "fold/nocache": FoldNoCache,
}


Costs = list[tuple[float, float]]


def measure(variant: type, epochs: list[Epoch]) -> tuple[Costs, int, list[tuple[bytes, bytes]]]:
    """Give seconds of updates and of the seal of each epoch, how many keys were read, the rows."""
    stores = Stores()
    subject = variant(stores)
    costs: Costs = []
    for epoch in epochs:
        stores.write_s = 0.0
        started = time.process_time()
        for partition, batch in epoch:
            subject.update(partition, batch)
        sealing = time.process_time()
        subject.seal()
        costs.append((sealing - started, time.process_time() - sealing - stores.write_s))
    content = stores.content()
    for store in stores.stores:
        store.close()
    shutil.rmtree(stores.folder)
    return costs, stores.read_keys, content


def compare(records: int, keys: int, batch_records: int) -> None:
    """Print the line of each variant for one shape of input."""
    epochs = epochs_of(records, keys, batch_records)
    records = sum(len(batch) for epoch in epochs for _, batch in epoch)
    runs: dict[str, list[Costs]] = {name: [] for name in VARIANTS}
    reads: dict[str, int] = {}
    contents = []
    for _ in range(REPEATS):
        for name, variant in VARIANTS.items():
            costs, reads[name], content = measure(variant, epochs)
            runs[name].append(costs)
            contents.append(content)
    verdict = "same rows" if all(rows == contents[0] for rows in contents) else "ROWS DIFFER"
    for name, repeats in runs.items():
        update_ns, seal_ns = (
            sum(min(costs[at][part] for costs in repeats) for at in range(len(epochs)))
            / records
            * 1e9
            for part in (0, 1)
        )
        print(
            f"{keys:>7} {batch_records:>6} {name:<13} {update_ns:>7.0f} {seal_ns:>7.0f} "
            f"{update_ns + seal_ns:>7.0f}   {reads[name] / records:.2f} keys read per record, "
            f"{verdict}",
            flush=True,
        )


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    gc.freeze()
    gc.set_threshold(100_000)
    print(
        f"{'keys':>7} {'batch':>6} {'variant':<13} {'update':>7} {'seal':>7} {'total':>7} ns/record"
    )
    for keys in (1_000, 100_000):
        for batch_records in (500, 2_000, 10_000):
            compare(records, keys, batch_records)


if __name__ == "__main__":
    main()
