"""The application of the fault tests: ordinary Faust, run by ``faust -A harness.faultapp worker``.

Everything it writes tells which input it came from and what state it saw: ``echo`` carries the
key's running count, so that a lost, doubled or stale update shows in the very next output.

Environment: FAULT_APP (application id and prefix of its topics), FAULT_BROKER (its broker URL),
FAULT_STALL_S (how long an input that says ``stall`` blocks the process, once per FAULT_STALL_FILE).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import faust

# A worker that hangs tells where, into its log (the usual signals are Faust's own).
faulthandler.register(signal.SIGRTMIN)

APP_ID = os.environ["FAULT_APP"]
PARTITIONS = int(os.environ.get("FAULT_PARTITIONS", "4"))
WINDOW_S = 2.0

app = faust.App(
    APP_ID,
    broker=os.environ["FAULT_BROKER"],
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)


def topic(name):
    return app.topic(
        f"{APP_ID}-{name}", key_type=str, value_serializer="json", partitions=PARTITIONS
    )


inputs, echo, audit, grouped = topic("in"), topic("echo"), topic("audit"), topic("grouped")

totals = app.Table("totals", default=list, partitions=PARTITIONS)
windows = app.Table("windows", default=int, partitions=PARTITIONS).tumbling(WINDOW_S)
seen = app.Table("seen", default=int, partitions=PARTITIONS)
groups = app.Table("groups", default=list, partitions=PARTITIONS)


def misbehave(value):
    """What an input says that its agent is to do to the process."""
    if value.get("poison"):
        os._exit(9)
    if value.get("stall"):
        done = Path(os.environ["FAULT_STALL_FILE"])
        if not done.exists():
            done.touch()
            time.sleep(float(os.environ["FAULT_STALL_S"]))


@app.agent(inputs, name="counting")
async def counting(stream):
    async for event in stream.events():
        value, message = event.value, event.message
        misbehave(value)
        key = value["k"]
        count, total = totals[key] or (0, 0)
        count, total = count + 1, total + value["v"]
        totals[key] = [count, total]
        windows[key] = windows[key].current() + 1
        await echo.send(
            key=key,
            value={"p": message.partition, "o": message.offset, "k": key, "c": count, "t": total},
            partition=message.partition,
        )


@app.agent(inputs, name="auditing")
async def auditing(stream):
    async for event in stream.events():
        value, message = event.value, event.message
        seen[value["k"]] += 1
        await audit.send(
            key=value["k"],
            value={"p": message.partition, "o": message.offset, "c": seen[value["k"]]},
            partition=message.partition,
        )


@app.agent(inputs, name="grouping")
async def grouping(stream):
    async for value in stream.group_by(lambda value: value["g"], name="g"):
        count, total = groups[value["g"]] or (0, 0)
        count, total = count + 1, total + value["v"]
        groups[value["g"]] = [count, total]
        await grouped.send(
            key=value["g"], value={"n": value["n"], "g": value["g"], "c": count, "t": total}
        )
