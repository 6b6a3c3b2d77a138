"""An ordinary agent with a Record and one table, as any user of Faust writes it.

    faust -A bench.apps.record worker

The very same program runs under stock Faust and, with another broker URL, under ours.
"""

from __future__ import annotations

import os

import faust

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


count = app.Table("count", default=int, partitions=4)


@app.agent(app.topic(os.environ["BENCH_IN"], key_type=bytes, value_type=Sale))
async def tally(stream):
    """Count the events of each key."""
    async for sale in stream:
        count[sale.k] += 1
