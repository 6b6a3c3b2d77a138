"""What a worker does with the state that it finds: go on, replay the difference, or rebuild."""

from __future__ import annotations

import json
import re

import pytest
from confluent_kafka.admin import AdminClient

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
    reports = app.topic(app.conf.id + "-out", value_serializer="json", partitions=1)
    totals = app.Table("totals", default=int)

    @totals.on_recover
    async def recovered():
        print("RECOVERED " + str(sorted(totals.items())))

    @app.agent(inputs)
    async def count(stream):
        async for key, value in stream.items():
            totals[key] += 1
            await reports.send(value=[value, totals[key]])
"""


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("restoring"))
    yield made
    made.stop_all()


def feed(program, first, number_of):
    """Send records over ten keys, and wait for their reports; returns all reports so far."""
    rows = [(b"k%d" % (n % 10), b"%d" % n, None, None) for n in range(first, first + number_of)]
    program.send(f"{program.app_id}-in", rows)
    found = program.wait_values(f"{program.app_id}-out", first + number_of)
    return sorted(json.loads(value) for _, _, value in found)


def counted(number_of):
    return [[n, n // 10 + 1] for n in range(number_of)]


def restored_records(worker):
    """Changelog records that the worker's last start replayed."""
    return int(re.findall(r"task_restored.*?\"records\":\s*(\d+)", worker.log())[-1])


def test_a_warm_start_replays_the_difference_and_a_killed_one_loses_nothing(program):
    worker = program.start("w")
    worker.wait_log("task_restored")
    assert feed(program, 0, 200) == counted(200)
    worker.stop()
    worker = program.start("w")
    assert feed(program, 200, 100) == counted(300)
    assert restored_records(worker) == 0, worker.tail()
    worker.kill()
    worker = program.start("w")
    assert feed(program, 300, 100) == counted(400)
    assert "store_rebuilt" not in worker.log()
    assert "RECOVERED [('k0', 30)" in worker.log()


def test_a_lost_data_directory_is_rebuilt_from_the_changelog(program):
    worker = program.start("one")
    worker.wait_log("task_restored")
    assert feed(program, 0, 200) == counted(200)
    worker.stop()
    other = program.start("two")
    assert feed(program, 200, 100) == counted(300)
    assert restored_records(other) >= 10
    assert "RECOVERED [('k0', 20)" in other.log()


def test_a_changelog_that_was_made_anew_is_refused_and_its_store_rebuilt_on_demand(program):
    worker = program.start("w")
    worker.wait_log("task_restored")
    assert feed(program, 0, 100) == counted(100)
    worker.stop()
    admin = AdminClient({"bootstrap.servers": program.bootstrap})
    for gone in admin.delete_topics([f"{program.app_id}-totals-changelog"]).values():
        gone.result(30)
    worker = program.start("w")
    assert worker.wait(60) == 4, worker.tail()
    assert "was deleted and made again" in worker.log()
    (program.directory / "w" / "v1" / "onceflow" / "topics.json").unlink()
    worker = program.start("w")
    worker.wait_log("store_rebuilt")
    assert "deleted and created anew" in worker.log()
    found = feed(program, 100, 10)
    assert found == [*counted(100), *([n, 1] for n in range(100, 110))]
