"""Batch agents and columnar aggregates on a real Kafka: exact over kills, one output per window."""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict

import pytest

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

START = """
    import os
    import faust
    import onceflow

    app = onceflow.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4,
        consumer_auto_offset_reset="earliest",
    )
"""

HOPPING = (
    START
    + """
    trades = app.topic(f"{app.conf.id}-trades", key_type=bytes, value_type=bytes)
    sums = app.topic(f"{app.conf.id}-sums", key_type=bytes, value_serializer="raw", partitions=4)
    totals = onceflow.WindowedAggregate(
        app, "totals", onceflow.Windows(20.0, 10.0), value="amount",
        aggregates=("count", "sum"), output=sums, partitions=4,
    )

    @app.agent(trades)
    async def add(stream):
        async for batch in stream.batches():
            totals.update(batch)
"""
)

COLUMNS = (
    START
    + """
    class Trade(faust.Record):
        symbol: str
        amount: int

    trades = app.topic(f"{app.conf.id}-trades", value_type=Trade, partitions=4)
    sizes = app.topic(f"{app.conf.id}-sizes", value_serializer="json", partitions=4)

    @app.agent(trades, on_error="skip")
    async def measure(stream):
        async for batch in stream.batches():
            table = batch.to_arrow()
            for row in table.select(["symbol", "amount"]).to_pylist():
                await sizes.send(value=row)
"""
)


@pytest.fixture
def run(kafka, unique, tmp_path):
    """Makes a `Program` of a source."""
    made = []

    def make(name, source):
        made.append(Program(tmp_path, source, bootstrap=kafka.bootstrap, app_id=unique(name)))
        return made[-1]

    yield make
    for program in made:
        program.stop_all()


def test_a_hopping_aggregate_is_exact_over_a_kill(run):
    """20,000 trades of 40 symbols, the worker killed within an epoch; the last outputs count."""
    program = run("hopping", HOPPING)
    output = f"{program.app_id}-sums"
    expected = defaultdict(lambda: [0, 0])
    rows = []
    for n in range(20_000):
        symbol, timestamp_ms, amount = n % 40, 100_000 + (n // 8) * 50, n % 7
        value = json.dumps({"amount": amount}).encode()
        rows.append((b"s%d" % symbol, value, symbol % 4, timestamp_ms))
        newest = timestamp_ms // 10_000 * 10_000
        for start in (newest - 10_000, newest):
            counted = expected[f"s{symbol}@{start}"]
            counted[0] += 1
            counted[1] += amount
    small = {"ONCEFLOW_COMMIT_RECORDS": "2000", "ONCEFLOW_RUN_RECORDS": "500"}
    worker = program.start("one", **small, ONCEFLOW_CRASH_POINT="before_commit:4")
    worker.wait_log("Ready", 60)
    program.send(f"{program.app_id}-trades", rows)
    assert worker.wait(60) == signal.SIGKILL, program.tails()
    program.start("two", **small)
    deadline = time.monotonic() + 60
    found = {}
    while sum(count for count, _ in found.values()) < 40_000:
        assert time.monotonic() < deadline, program.tails()
        found = {}
        for _, key, value in program.read(output, 4):
            row = json.loads(value)
            before = found.get(key.decode(), (0, 0))
            assert row["n"] > before[0], "a window went back or was told twice"
            found[key.decode()] = (row["n"], row["sum"])
    assert found == {key: tuple(values) for key, values in expected.items()}


def test_columns_of_a_record_type_and_an_agents_own_policy(run):
    """A record that is no trade ends by the agent's policy; the trades around it are measured."""
    program = run("columns", COLUMNS)
    trades = [{"symbol": f"s{n}", "amount": n} for n in range(50)]
    rows = [(None, json.dumps(trade).encode(), 0, None) for trade in trades]
    rows.insert(20, (None, b'{"symbol": "bad", "amount": "many"}', 0, None))
    worker = program.start("one")
    worker.wait_log("Ready", 60)
    program.send(f"{program.app_id}-trades", rows)
    found = [json.loads(v) for *_, v in program.wait_values(f"{program.app_id}-sizes", 50, 4)]
    assert sorted(row["amount"] for row in found) == list(range(50))
    assert worker.stop() == 0, program.tails()
