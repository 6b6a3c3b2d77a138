"""The application of the mixed sink tests: MariaDB and files in the same epochs.

One agent yields into two sinks at once, a table of MariaDB that it appends to and JSON lines;
another one replaces rows by key. What a row says of its key's state shows lost and doubled records.

Environment: FAULT_APP and FAULT_BROKER as for ``sinkapp``; SINK_MARIADB (a dsn), SINK_FILES (a
directory), SINK_ROLL_S (``roll_interval_s`` of the files).
"""

from __future__ import annotations

import os

import faust

from harness.sink_agents import counted, last_seen
from onceflow.sinks import Files, MySQL

APP_ID = os.environ["FAULT_APP"]
PARTITIONS = int(os.environ["FAULT_PARTITIONS"])

app = faust.App(
    APP_ID,
    broker=os.environ["FAULT_BROKER"],
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
inputs = app.topic(f"{APP_ID}-in", key_type=str, value_serializer="json", partitions=PARTITIONS)
totals = app.Table("totals", default=list, partitions=PARTITIONS)
seen = app.Table("seen", default=int, partitions=PARTITIONS)

log = MySQL(
    os.environ["SINK_MARIADB"],
    table="log",
    create_table={"p": "int", "o": "bigint", "k": "varchar(20)", "c": "bigint", "t": "bigint"},
)
latest = MySQL(
    os.environ["SINK_MARIADB"],
    table="latest",
    key=["k"],
    create_table={"k": "varchar(20)", "c": "bigint"},
)
files = Files(
    os.environ["SINK_FILES"],
    partition_by="p",
    roll_interval_s=float(os.environ["SINK_ROLL_S"]),
    location="local",
)


@app.agent(inputs, name="counting", sink=[log, files])
async def counting(stream):
    async for row in counted(stream, totals):
        yield row


@app.agent(inputs, name="replacing", sink=[latest])
async def replacing(stream):
    async for row in last_seen(stream, seen):
        yield row
