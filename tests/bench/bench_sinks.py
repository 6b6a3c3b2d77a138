"""Cost of the PostgreSQL sink by itself, against COPY of the same rows.

    python tests/bench/bench_sinks.py [ROWS_PER_EPOCH]

No Kafka: rows of ten columns lie in memory, decoded. ``copy`` formats them with one join per row
and copies them in a transaction, which is the least that a program without guarantees does. The
others encode, prepare with a marker row, and commit. ``dicts`` yields row by row, ``list`` a list
of rows, ``arrow`` a table; ``…/key`` replace rows by key, half of which exist. Printed is the best
of five epochs, which take turns: rows per second of wall time, microseconds of processor time of
this process per row (the server's own comes on top, on another core if there is one), and the time
that an epoch takes beyond ``copy`` for its guarantee.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
import pyarrow as pa

from bench.ten_columns import COLUMNS, rows_of
from harness.postgres_server import PostgresPlace, PostgresServer
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks import PostgreSQL

REPEATS = 5


class Copy:
    """COPY in a transaction, without any guarantee about Kafka."""

    def __init__(self, place: PostgresPlace) -> None:
        place.sql(f"CREATE TABLE copied ({', '.join(f'{n} {t}' for n, t in COLUMNS.items())})")
        self._connection = psycopg.connect(place.dsn())

    def __call__(self, number: int, rows: list[dict[str, object]]) -> None:
        names = list(COLUMNS)
        text = "\n".join(["\t".join([str(row[name]) for name in names]) for row in rows]) + "\n"
        with self._connection.cursor().copy(f"COPY copied ({', '.join(names)}) FROM STDIN") as copy:
            copy.write(text)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


class Sink:
    """One way of yielding rows to the sink."""

    def __init__(self, place: PostgresPlace, table: str, shape, key=None) -> None:
        self._shape = shape
        self._sink = PostgreSQL(place.dsn(), table=table, key=key, create_table=COLUMNS)
        self._sink.open(place.scope)

    def __call__(self, number: int, rows: list[dict[str, object]]) -> None:
        branch = BranchId(Incarnation("bench"), CommitEpoch(number))
        encode = self._sink.encode
        self._sink.prepare(branch, [encode(value) for value in self._shape(rows)])
        self._sink.commit(branch)

    def close(self) -> None:
        self._sink.close()


def single(rows):
    return rows


def listed(rows):
    return [rows]


def arrow(rows):
    return [TABLES[id(rows)]]


TABLES: dict[int, pa.Table] = {}


def main(count: int) -> None:
    server = PostgresServer().start()
    try:
        place = PostgresPlace(server, "bench")
        variants = {
            "copy": Copy(place),
            "dicts": Sink(place, "dicts", single),
            "list": Sink(place, "listed", listed),
            "arrow": Sink(place, "arrow", arrow),
            "list/key": Sink(place, "listed_key", listed, ["id"]),
            "arrow/key": Sink(place, "arrow_key", arrow, ["id"]),
        }
        best = dict.fromkeys(variants, (float("inf"), float("inf")))
        for epoch in range(1, REPEATS + 2):
            rows = rows_of(count, epoch * count // 2)
            TABLES[id(rows)] = pa.table({name: [row[name] for row in rows] for name in COLUMNS})
            for name, run in variants.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run(epoch, rows)
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
                if epoch > 1:
                    best[name] = min(best[name], spent)
            TABLES.clear()
        copy_s = best["copy"][0]
        for name, (wall_s, cpu_s) in best.items():
            print(
                f"{name:10} {count / wall_s:10,.0f} rows/s  {1e6 * cpu_s / count:6.2f} us/row"
                f"  {100 * copy_s / wall_s:5.0f} % of copy  {1e3 * (wall_s - copy_s):7.1f} ms more"
            )
        for run in variants.values():
            run.close()
    finally:
        server.process.remove()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
