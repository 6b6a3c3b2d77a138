"""A batch agent with a columnar windowed aggregate; one output per changed window and commit.

    faust -A bench.apps.aggregate worker

The group, broker, topics and data directory come from the environment.
"""

from __future__ import annotations

import os

import onceflow

app = onceflow.App(
    os.environ["BENCH_GROUP"],
    broker=os.environ["BENCH_BROKER"],
    datadir=os.environ["BENCH_DATA"],
    topic_partitions=4,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
source = app.topic(os.environ["BENCH_IN"], key_type=bytes, value_type=bytes)
output = app.topic(os.environ["BENCH_OUT"], key_type=bytes, value_serializer="raw", partitions=4)
totals = app.windowed_aggregate(
    "totals", 10.0, value="v", aggregates=("count", "sum"), output=output, partitions=4
)


@app.agent(source)
async def add(stream):
    """Take each batch into the epoch."""
    async for batch in stream.batches():
        totals.update(batch)
