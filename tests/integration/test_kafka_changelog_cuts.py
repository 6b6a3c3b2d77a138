"""A changelog is read whole, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from harness.proxy import KafkaProxy
from harness.topics import fill
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin
from onceflow.kafka.changelog import LOG_START, ChangelogReader
from onceflow.kafka.configuration import ClientConfig

pytestmark = pytest.mark.kafka


def read_while_cut(bootstrap, proxy, topic, after_s):
    reader = ChangelogReader(
        ClientConfig(bootstrap), {Partition(topic, number): LOG_START for number in range(4)}
    )
    try:
        time.sleep(after_s)
        proxy.cut()
        offsets, deadline = {}, time.monotonic() + 20
        while reader.remaining():
            assert time.monotonic() < deadline, "the changelog's end was not reached"
            for run in reader.poll(1_000, 0.1):
                offsets.setdefault(run.number, []).extend(run.offsets)
        return offsets
    finally:
        reader.close()


async def test_a_connection_cut_at_any_moment_of_the_start_costs_no_record(kafka, unique):
    topic = unique("changelog")
    admin = Admin(ClientConfig(kafka.bootstrap))
    await admin.create_topic(topic, 4)
    admin.close()
    await fill(kafka.bootstrap, topic, 400, 4)
    whole = {number: list(range(100)) for number in range(4)}
    with KafkaProxy(kafka.bootstrap) as proxy:
        for step in range(16):
            read = await asyncio.to_thread(
                read_while_cut, proxy.bootstrap, proxy, topic, step * 0.004
            )
            assert read == whole, step
