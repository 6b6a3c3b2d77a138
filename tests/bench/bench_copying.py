"""Kafka to PostgreSQL: ours exactly once, against a program that does the least, at least once.

    python tests/bench/bench_copying.py [--rows N] [--rounds N] [--only NAME,...]

It starts a Kafka and a PostgreSQL of its own and writes JSON rows of ten columns into four
partitions. ``bare`` consumes with confluent-kafka, decodes with orjson, copies with psycopg and
commits the database, then the offsets, once a second. Ours is ``onceflow worker`` with one process,
which commits every second, whose agent yields a batch's Arrow columns (``arrow``), a list of its
rows (``list``) or row by row (``record``). They take turns. Each is measured alike from outside:
from the first rows that are visible to the last, with the processor time of the whole process tree
but without the servers'. What lies in the table must be what lies in the topic, or the run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from textwrap import dedent

sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.ten_columns import COLUMNS, rows_of
from harness.postgres_server import PostgresServer
from harness.server_process import family
from onceflow.localkafka import LocalKafka

CHUNK = 10_000
LOOK_S = 0.25
RUN_S_MAX = 300.0
STOP_S = 30.0

BARE = """
    import json, os, time, orjson, psycopg
    from confluent_kafka import Consumer

    columns, table = json.loads(os.environ["COLUMNS"]), os.environ["TABLE"]
    consumer = Consumer({
        "bootstrap.servers": os.environ["BOOTSTRAP"], "group.id": table,
        "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 5, "queued.min.messages": 200000,
    })
    consumer.subscribe([os.environ["TOPIC"]])
    database = psycopg.connect(os.environ["DSN"])
    committed = time.monotonic()
    while True:
        values = [message.value() for message in consumer.consume(10000, 0.2)]
        if values:
            rows = orjson.loads(b"[" + b",".join(values) + b"]")
            lines = ["\\t".join([str(row[name]) for name in columns]) for row in rows]
            with database.cursor().copy(f"COPY {table} ({','.join(columns)}) FROM STDIN") as copy:
                copy.write("\\n".join(lines) + "\\n")
        if time.monotonic() - committed > 1:
            database.commit()
            if consumer.assignment():
                try:
                    consumer.commit(asynchronous=False)
                except Exception:
                    pass
            committed = time.monotonic()
"""

OURS = """
    import json, os, orjson, pyarrow as pa
    import onceflow
    from onceflow.sinks import PostgreSQL

    TYPES = {"bigint": pa.int64(), "text": pa.string(), "double precision": pa.float64(),
             "int": pa.int32(), "bool": pa.bool_()}
    COLUMNS, FORM = json.loads(os.environ["COLUMNS"]), os.environ["FORM"]
    SCHEMA = pa.schema([(name, TYPES[kind]) for name, kind in COLUMNS.items()])
    app = onceflow.App(
        os.environ["TABLE"], broker="onceflow://" + os.environ["BOOTSTRAP"],
        datadir=os.environ["DATA"], topic_partitions=4, topic_replication_factor=1,
        consumer_auto_offset_reset="earliest", web_enabled=False,
    )
    source = app.topic(os.environ["TOPIC"], key_type=bytes, value_type=bytes)

    @app.agent(source, sink=[PostgreSQL(os.environ["DSN"], table=os.environ["TABLE"])])
    async def copy(stream):
        if FORM == "record":
            async for value in stream:
                yield orjson.loads(value)
        async for batch in stream.batches():
            if FORM == "arrow":
                yield batch.to_arrow(SCHEMA)
            else:
                yield orjson.loads(b"[" + b",".join(batch.values) + b"]")
"""


def fill(bootstrap: str, topic: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, 4, 1)]).values():
        made.result()
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    chunks = (rows_of(min(CHUNK, count - first), first) for first in range(0, count, CHUNK))
    for row in (row for chunk in chunks for row in chunk):
        value = json.dumps(row)
        while True:
            try:
                producer.produce(topic, value, key=row["k"])
            except BufferError:
                producer.poll(0.1)
            else:
                break
    producer.flush()


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children, as far as they live."""
    ticks = 0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def watch(process: subprocess.Popen, database: psycopg.Connection, table: str, count: int):
    """(rows per second, rows per processor second) between the first and the last rows."""
    began, first = time.monotonic(), None
    while True:
        [(rows,)] = database.execute(f"SELECT count(*) FROM {table}").fetchall()
        now = (time.monotonic(), rows, cpu_s(process.pid))
        if first is None and rows:
            first = now
        if rows >= count:
            break
        if process.poll() is not None or now[0] - began > RUN_S_MAX:
            raise SystemExit(f"only {rows} of {count} rows are in table {table}")
        time.sleep(LOOK_S)
    wall_s, copied, spent_s = (late - early for late, early in zip(now, first, strict=True))
    if not copied:
        raise SystemExit("all rows came at once; use more of them")
    return copied / wall_s, copied / spent_s


def run(name: str, table: str, environ: dict[str, str], database, count: int):
    columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    database.execute(f"CREATE TABLE {table} ({columns})")
    folder = Path(tempfile.mkdtemp(prefix="onceflow-copying-"))
    try:
        (folder / "program.py").write_text(dedent(BARE if name == "bare" else OURS))
        command = [sys.executable, "program.py"]
        if name != "bare":
            onceflow = str(Path(sys.executable).with_name("onceflow"))
            command = [onceflow, "worker", "program:app", "--processes", "1"]
        ours = {"DATA": str(folder / "data"), "TABLE": table, "FORM": name, "PYTHONPATH": "."}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **environ, **ours}, cwd=folder, stdout=log, stderr=log
            )
        try:
            rates = watch(process, database, table, count)
        except SystemExit:
            print((folder / "log").read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        found = f"SELECT count(*), count(DISTINCT id), sum(id)::bigint FROM {table}"
        if database.execute(found).fetchone() != (count, count, count * (count - 1) // 2):
            raise SystemExit(f"{name}: the rows of the table are not those of the topic")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    database.execute(f"DROP TABLE {table}")
    return rates


def main() -> None:
    # Ended from outside it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="arrow,list,record")
    options = parser.parse_args()
    names = ["bare", *options.only.split(",")]
    kafka, server = LocalKafka(), PostgresServer()
    rates = {name: [] for name in names}
    try:
        kafka.start()
        server.start()
        fill(kafka.bootstrap, "rows", options.rows)
        environ = {
            "BOOTSTRAP": kafka.bootstrap,
            "TOPIC": "rows",
            "DSN": server.dsn(),
            "COLUMNS": json.dumps(COLUMNS),
            "ONCEFLOW_HTTP": "off",
            "ONCEFLOW_COMMIT_INTERVAL_MS": "1000",
        }
        with psycopg.connect(server.dsn(), autocommit=True) as database:
            for number in range(options.rounds):
                for name in names:
                    rates[name].append(
                        run(name, f"{name}_{number}", environ, database, options.rows)
                    )
    finally:
        server.process.remove()
        kafka.stop()
    bare = [statistics.median(figures) for figures in zip(*rates["bare"], strict=True)]
    for name, figures in rates.items():
        wall, cpu = (statistics.median(figure) for figure in zip(*figures, strict=True))
        print(
            f"{name:8} {wall:10,.0f} rows/s ({100 * wall / bare[0]:3.0f} % of bare)"
            f"  {cpu:10,.0f} rows per processor second ({100 * cpu / bare[1]:3.0f} %)"
        )


if __name__ == "__main__":
    main()
