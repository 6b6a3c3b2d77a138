"""An ordinary agent with a Record, two windowed tables and an output for every event.

    faust -A bench.apps.windowed worker

The very same program runs under stock Faust and, with another broker URL, under ours.
"""

from __future__ import annotations

import os

import faust

WINDOW_MS = 10_000

app = faust.App(
    os.environ["BENCH_GROUP"],
    broker=os.environ["BENCH_BROKER"],
    datadir=os.environ["BENCH_DATA"],
    store="memory://",
    topic_partitions=4,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)


class Sale(faust.Record, serializer="json"):
    """One event of the input."""

    k: str
    v: float
    ts: int


output = app.topic(os.environ["BENCH_OUT"], key_type=bytes, value_serializer="json")
count = app.Table("count", default=int, partitions=4)
count_of = count.tumbling(WINDOW_MS / 1000, expires=3600.0).relative_to_stream()
total = app.Table("total", default=float, partitions=4)
total_of = total.tumbling(WINDOW_MS / 1000, expires=3600.0).relative_to_stream()


@app.agent(app.topic(os.environ["BENCH_IN"], key_type=bytes, value_type=Sale))
async def tally(stream):
    """Count and sum per key and window, and tell both after every event."""
    async for sale in stream:
        count_of[sale.k] += 1
        total_of[sale.k] += sale.v
        start_ms = sale.ts // WINDOW_MS * WINDOW_MS
        await output.send(
            key=f"{sale.k}@{start_ms}".encode(),
            value={"n": count_of[sale.k].current(), "sum": total_of[sale.k].current()},
        )
