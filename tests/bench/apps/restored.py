"""A table of raw rows that is restored from its changelog, and tells the row of each key asked for.

faust -A bench.apps.restored worker
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
rows = app.Table("rows", key_type=bytes, value_type=bytes, partitions=4)


@app.agent(source)
async def tell(stream):
    """Answer each key with the row that the table has of it."""
    async for event in stream.events():
        await output.send(key=event.key, value=rows.get(event.key) or b"absent")
