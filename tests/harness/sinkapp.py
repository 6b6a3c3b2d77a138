"""The application of the sink tests: ordinary Faust, run by ``faust -A harness.sinkapp worker``.

Two agents read the same input, one appends and one upserts, each into a sink of its own, so that an
epoch has two participants. What a row says of its key's state shows lost and doubled records.

Environment: FAULT_APP (application id and prefix of its topics), FAULT_BROKER (its broker URL),
SINK_SQLITE (a file), SINK_POSTGRES (a connection string), or SINK_OUTBOX (either of them, for sinks
whose rows follow Kafka's decision), SINK_STOP (``before:n`` or ``after:n``:
the process stops itself, as by SIGSTOP, before or after the n-th PREPARE of the first sink, or the
n-th time that an outbox's rows are written).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading

import faust

from harness.sink_agents import counted, last_seen
from harness.sqlite_participant import SqliteParticipant
from onceflow.sinks import PostgreSQL, SQLite

faulthandler.register(signal.SIGRTMIN)

APP_ID = os.environ["FAULT_APP"]
PARTITIONS = int(os.environ.get("FAULT_PARTITIONS", "4"))

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


LOG = {"p": "integer", "o": "bigint", "k": "text", "c": "bigint", "t": "bigint"}
LATEST = {"k": "text", "c": "bigint"}


def outbox_sinks(place):
    """The same two, in a SQLite file or a PostgreSQL database, without preparing."""
    if place.startswith("/"):
        kind, options = SQLite, {}
    else:
        kind, options = PostgreSQL, {"delivery": "outbox"}
    return (
        kind(place, table="log", create_table=LOG, name="log", **options),
        kind(place, table="latest", key=["k"], create_table=LATEST, name="latest", **options),
    )


def sinks():
    """The sink that appends, and the one that upserts."""
    if "SINK_OUTBOX" in os.environ:
        return outbox_sinks(os.environ["SINK_OUTBOX"])
    if "SINK_SQLITE" in os.environ:
        path = os.environ["SINK_SQLITE"]
        return SqliteParticipant(path, "log"), SqliteParticipant(path, "latest", key="k")
    dsn = os.environ["SINK_POSTGRES"]
    return (
        PostgreSQL(dsn, table="log", create_table=LOG, name="log"),
        PostgreSQL(dsn, table="latest", key=["k"], create_table=LATEST, name="latest"),
    )


appending, upserting = sinks()


def stop_at(moment):
    """Stop this process as SINK_STOP says; it goes on when somebody continues it."""
    wanted, _, passing = os.environ["SINK_STOP"].partition(":")
    if wanted == moment:
        stop_at.passed += 1
        if stop_at.passed == int(passing):
            # Sent to the process, it would let this thread go on until another one has taken it.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


stop_at.passed = 0

if "SINK_STOP" in os.environ and "SINK_OUTBOX" in os.environ:
    # A stopped process must not hold the file by its other sink, whose thread stops with it.
    turn = threading.Lock()

    def take_turns(sink, passes):
        write, commit = sink.write, sink.commit

        def write_alone(runs):
            turn.acquire()
            try:
                passes("before")
                write(runs)
                passes("after")
            except BaseException:
                turn.release()
                raise

        def commit_alone():
            try:
                commit()
            finally:
                turn.release()

        sink.write, sink.commit = write_alone, commit_alone

    take_turns(appending, stop_at)
    take_turns(upserting, lambda _: None)
elif "SINK_STOP" in os.environ:
    prepare = appending.prepare

    def stopping_prepare(branch, rows):
        stop_at("before")
        prepare(branch, rows)
        stop_at("after")

    appending.prepare = stopping_prepare


@app.agent(inputs, name="counting", sink=[appending])
async def counting(stream):
    async for row in counted(stream, totals):
        yield row


@app.agent(inputs, name="upserting", sink=[upserting])
async def upserting_agent(stream):
    async for row in last_seen(stream, seen):
        yield row
