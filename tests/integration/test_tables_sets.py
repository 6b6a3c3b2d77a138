"""Set tables on a real broker: the manager's operations, kills, and a rebuilt store."""

from __future__ import annotations

import json

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
    reports = app.topic(app.conf.id + "-out", value_serializer="json", partitions=1)
    members = app.SetTable(
        "members", start_manager=True, manager_topic_name=app.conf.id + "-setmanager"
    )

    @app.agent(inputs)
    async def change(stream):
        async for key, value in stream.items():
            operation, *rest = value
            if operation == "add":
                await members.manager.add(key, rest[0])
            elif operation == "discard":
                await members.manager.discard(key, rest[0])
            else:
                await reports.send(value=[rest[0], sorted(members[key])])
"""


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("sets"))
    yield made
    made.stop_all()


def seen(program, wanted):
    """Ask for the set of ``key`` until it is what it must be."""
    latest = None
    for attempt in range(100):
        before = len(program.read(f"{program.app_id}-out"))
        program.send(f"{program.app_id}-in", [(b"key", b'["ask",%d]' % attempt, None, None)])
        rows = program.wait_values(f"{program.app_id}-out", before + 1)
        latest = json.loads(rows[before][2])[1]
        if latest == wanted:
            return
    pytest.fail(f"the set is {latest}, not {wanted}\n{program.tails()}")


def test_the_set_manager_changes_sets_in_the_epochs_over_kills(program):
    worker = program.start("one")
    worker.wait_log("task_restored")
    send = [(b"key", b'["add",%d]' % n, None, None) for n in range(10)]
    program.send(f"{program.app_id}-in", [*send, (b"key", b'["discard",3]', None, None)])
    seen(program, [0, 1, 2, 4, 5, 6, 7, 8, 9])
    worker.kill()
    program.send(
        f"{program.app_id}-in", [(b"key", b'["discard",%d]' % n, None, None) for n in (0, 1)]
    )
    worker = program.start("two")
    seen(program, [2, 4, 5, 6, 7, 8, 9])
    rows = program.read(f"{program.app_id}-members-changelog", 2)
    assert len(rows) == len(set(rows)), "an operation is twice in the log"
