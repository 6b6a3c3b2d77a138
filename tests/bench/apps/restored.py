"""A table that is restored from its changelog, and tells the row of each key asked for.

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
source = app.topic(os.environ["BENCH_IN"], key_serializer="json", value_serializer="raw")
output = app.topic(
    os.environ["BENCH_OUT"], key_serializer="json", value_serializer="raw", partitions=4
)
rows = app.Table("rows", partitions=4)


@app.agent(source)
async def tell(stream):
    """Answer each key with the row that the table has of it."""
    async for event in stream.events():
        row = rows.get(event.key) or "absent"
        await output.send(key=event.key, value=row.encode())
