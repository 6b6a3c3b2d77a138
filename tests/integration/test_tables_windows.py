"""Windows on a real broker: each one is closed once, whatever happens to the worker."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SOURCE = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=2,
        consumer_auto_offset_reset="earliest",
    )
    inputs = app.topic(app.conf.id + "-in", key_type=str, value_serializer="json")
    closed = app.topic(app.conf.id + "-closed", value_serializer="json", partitions=1)
    closings = app.Table("closings", default=int)

    async def window_closed(key, value):
        closings["all"] += 1
        await closed.send(value=[key[0], key[1][0], value, closings["all"]])

    counts = app.Table(
        "counts", default=int, on_window_close=window_closed
    ).tumbling(10, expires=20, key_index=True)

    @app.agent(inputs)
    async def count(stream):
        async for key, value in stream.items():
            counts[key] += 1
"""

BEGUN_S = 1_700_000_000
SECONDS = 300


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("windows"))
    yield made
    made.stop_all()


def feed(program, first_s, last_s):
    """One record per key, partition and second."""
    rows = []
    for second in range(first_s, last_s):
        for number in (0, 1):
            key = b"%d-%d" % (number, second % 3)
            rows.append((key, b"1", number, (BEGUN_S + second) * 1000))
    program.send(f"{program.app_id}-in", rows)


def closed_until(last_s):
    """Windows that are over when event time has reached a second, with their counts."""
    counts = Counter(
        (f"{number}-{second % 3}", BEGUN_S + second // 10 * 10)
        for second in range(last_s)
        for number in (0, 1)
    )
    moment_s = BEGUN_S + (last_s - 1 - 20) // 10 * 10
    return {(key, start): n for (key, start), n in counts.items() if start + 10 <= moment_s}


def test_each_window_is_closed_once_with_its_count_over_kills(program):
    worker = program.start("w")
    worker.wait_log("task_restored")
    points = [
        ("after_produce:3", 60),
        ("before_commit:4", 120),
        ("after_commit:3", 180),
        ("before_apply:5", 240),
    ]
    sent = 0
    for point, until_s in points:
        worker.stop()
        begun = len(worker.log())
        worker = program.start("w", ONCEFLOW_CRASH_POINT=point)
        worker.wait_log("task_restored", since=begun)
        for second in range(sent, until_s, 10):
            feed(program, second, second + 10)
            time.sleep(0.15)  # so that there are several epochs
        sent = until_s
        worker.wait(60)
        worker = program.start("w")
    feed(program, sent, SECONDS)
    wanted = closed_until(SECONDS)
    rows = program.wait_values(f"{program.app_id}-closed", len(wanted), timeout_s=60)
    told = [json.loads(value) for _, _, value in rows]
    assert {(key, int(start)): count for key, start, count, _ in told} == wanted
    assert len(told) == len(wanted), "a window was closed twice"
    for number in "01":
        counters = [n for key, _, _, n in told if key.startswith(number)]
        assert counters == list(range(1, len(counters) + 1)), "the table missed a closing"
    worker.stop()
    changelog = f"{program.app_id}-counts-changelog"
    left = {key: value for _, key, value in program.read(changelog, 2)}
    open_windows = {json.loads(key)[1][0] for key, value in left.items() if value is not None}
    assert open_windows == {BEGUN_S + start for start in (270, 280, 290)}
    index = f"{program.app_id}-counts-key_index-changelog"
    indexed = {key: value for _, key, value in program.read(index, 2)}
    assert sorted(indexed) == [b'"%d-%d"' % (n, k) for n in (0, 1) for k in range(3)]
