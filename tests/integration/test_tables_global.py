"""A GlobalTable on several workers: what one writes, all read."""

from __future__ import annotations

import pytest

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SOURCE = """
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=4,
        consumer_auto_offset_reset="earliest",
    )
    facts = app.topic(app.conf.id + "-facts", key_type=str, value_serializer="json")
    asked = app.topic(app.conf.id + "-asked", key_type=str, value_serializer="json")
    told = app.topic(app.conf.id + "-told", key_type=str, value_serializer="json", partitions=1)
    known = app.GlobalTable("known")

    @app.agent(facts)
    async def remember(stream):
        async for key, value in stream.items():
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value

    @app.agent(asked)
    async def answer(stream):
        async for key, value in stream.items():
            names = [f"k{n}" for n in range(40)]
            await told.send(
                key=key,
                value=[value, [known.get(name) for name in names], len(known)],
            )
"""


@pytest.fixture
def program(kafka, unique, tmp_path):
    made = Program(tmp_path, SOURCE, bootstrap=kafka.bootstrap, app_id=unique("global-table"))
    yield made
    made.stop_all()


def ask(program, ident, partitions=range(4)):
    rows = [(b"p%d" % n, b'"%s"' % ident.encode(), n, None) for n in partitions]
    program.send(f"{program.app_id}-asked", rows)


def answers(program, wanted):
    import json  # noqa: PLC0415 - beside its only use

    rows = program.wait_values(f"{program.app_id}-told", wanted)
    return [(key.decode(), *json.loads(value)) for _, key, value in rows]


def facts(program, version, number_of=40):
    rows = [(b"k%d" % n, b"%d" % (version * 100 + n), None, None) for n in range(number_of)]
    program.send(f"{program.app_id}-facts", rows)


def settled(program, workers, version):
    """Ask all partitions until every one of them sees a version; returns the last answers."""
    expected = [version * 100 + n for n in range(40)]
    for attempt in range(60):
        before = len(program.read(f"{program.app_id}-told"))
        ask(program, f"v{version}-{attempt}")
        latest = answers(program, before + 4)[before : before + 4]
        if all(seen == expected and count == 40 for _, _, seen, count in latest):
            assert {key for key, *_ in latest} == {"p0", "p1", "p2", "p3"}
            return
    pytest.fail(f"never all of version {version}: {latest}\n{program.tails()}")


def test_all_workers_see_all_partitions_over_updates_kills_and_restarts(program):
    first = program.start("w1")
    first.wait_log("task_restored", 60)
    facts(program, 1)
    settled(program, [first], 1)
    second = program.start("w2")
    second.wait_log("task_restored", 60)
    facts(program, 2)
    settled(program, [first, second], 2)
    first.kill()
    facts(program, 3)
    settled(program, [second], 3)
    first = program.start("w1")
    facts(program, 4)
    settled(program, [first, second], 4)
    assert first.running, first.tail()
    assert second.running, second.tail()
    assert second.stop() in (0, 15), second.tail()
    facts(program, 5)
    settled(program, [first], 5)
    assert "global_table_conflict" not in first.log() + second.log()
