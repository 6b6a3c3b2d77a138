"""Several agents on one topic, as different in speed as they come."""

from __future__ import annotations

import json

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from harness.app_workers import Program

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

APP = """
    import asyncio
    import os
    import faust

    app = faust.App(
        os.environ["APP"], broker=os.environ["BROKER"], topic_partitions=1,
        consumer_auto_offset_reset="earliest",
    )
    source = app.topic(f"{app.conf.id}-in", value_serializer="json", partitions=1)
    quick_out = app.topic(f"{app.conf.id}-quick", value_serializer="json", partitions=1)
    slow_out = app.topic(f"{app.conf.id}-slow", value_serializer="json", partitions=1)

    @app.agent(source)
    async def quick(stream):
        async for value in stream:
            await quick_out.send(value=value)

    @app.agent(source)
    async def slow(stream):
        async for value in stream:
            await asyncio.sleep(0.005)
            await slow_out.send(value=value)
"""


def test_a_slow_agent_beside_a_quick_one_blames_no_record_and_both_are_exact(
    tmp_path, kafka, unique
):
    """The slow one needs several times the record bound for what the quick one reads at once."""
    program = Program(tmp_path, APP, bootstrap=kafka.bootstrap, app_id=unique("shared"))
    source = f"{program.app_id}-in"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(source, 1, 1)])[source].result(20)
    program.send(source, [(None, json.dumps(n).encode(), 0, None) for n in range(1_500)])
    worker = program.start("one", ONCEFLOW_RECORD_BOUND_S="3")
    try:
        for output in ("slow", "quick"):
            rows = program.wait_values(f"{program.app_id}-{output}", 1_500, timeout_s=80)
            assert [json.loads(value) for *_, value in rows] == list(range(1_500))
        assert "record_failed" not in worker.log()
        assert worker.stop() == 0
    finally:
        program.stop_all()
