"""The poll thread on a real broker: exact positions, bounded flight, rebalances."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from harness.kafka_wire import Api
from harness.polling import Recorder, until
from harness.proxy import Fault, KafkaProxy
from harness.topics import fill
from onceflow.errors import DataAtRisk, Fenced, TransactionAborted
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig, GroupProtocol
from onceflow.kafka.flight import Flow
from onceflow.kafka.poll import Bounds

pytestmark = pytest.mark.kafka

PROTOCOLS = [GroupProtocol.CLASSIC, GroupProtocol.CONSUMER]


@pytest.fixture
async def admin(kafka):
    client = Admin(ClientConfig(kafka.bootstrap))
    yield client
    client.close()


async def test_every_record_arrives_once_and_in_order(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 20_000, 4)
    async with Recorder(kafka.bootstrap, unique("group")) as reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.delivered >= 20_000)
        await asyncio.sleep(0.2)
    assert reader.delivered == 20_000
    for number in range(4):
        rows = reader.records[Partition(topic, number)]
        assert [offset for offset, _ in rows] == list(range(5_000))
        assert rows[17][1] == b"%d:17" % number
    assert reader.kinds() == ["assigned", "revoked", "released"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_fifty_random_seeks_under_load_neither_skip_nor_double(kafka, admin, unique, seed):
    topic = unique("in")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 120_000, 4)
    draw = random.Random(seed)
    partitions = [Partition(topic, number) for number in range(4)]
    reader = Recorder(
        kafka.bootstrap,
        unique("group"),
        start=False,
        bounds=Bounds(poll_records_max=draw.choice([50, 700, 4_000]), flight_records_max=20_000),
    )
    expected = {}

    def check(run):
        if reader.thread.is_current(run):
            for offset, value in zip(run.offsets, run.values, strict=True):
                assert offset == expected[run.partition]
                assert value == b"%d:%d" % (run.number, offset)
                expected[run.partition] += 1

    reader.on_run = check
    async with reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.of("assigned"))
        for turn in range(50):
            some = draw.sample(partitions, draw.randint(1, 4)) if turn else partitions
            offsets = {p: draw.randrange(30_000) for p in some}
            started = asyncio.ensure_future(reader.thread.start_at(offsets))
            await asyncio.sleep(0)  # the generation counts from the call on, not from its end
            expected.update(offsets)
            if draw.random() < 0.3:
                # Positions change again before the first has been taken.
                again = {p: draw.randrange(30_000) for p in some}
                later = asyncio.ensure_future(reader.thread.start_at(again))
                await asyncio.sleep(0)
                expected.update(again)
                await later
            await started
            await asyncio.sleep(draw.choice([0, 0, 0.001, 0.01, 0.05]))
        last = dict.fromkeys(partitions, 29_000)
        started = asyncio.ensure_future(reader.thread.start_at(last))
        await asyncio.sleep(0)
        expected.update(last)
        await started
        await until(lambda: all(next_ == 30_000 for next_ in expected.values()))
    assert not reader.of("failure")


async def test_a_pause_right_after_a_start_keeps_the_position(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 30_000, 1)
    partition = Partition(topic, 0)
    bounds = Bounds(flight_records_max=500, poll_records_max=500, hold_s=0.02)
    reader = Recorder(kafka.bootstrap, unique("group"), start=False, account=False, bounds=bounds)
    async with reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.of("assigned"))
        await reader.thread.start_at({partition: 0})
        await until(lambda: reader.thread.flow is Flow.PAUSED)
        reader.records.clear()
        await reader.thread.start_at({partition: 12_345})
        assert reader.thread.flow is Flow.PAUSED
        flight = reader.thread.flight
        reader.thread.account(flight.records, flight.size_bytes)
        await until(lambda: reader.records.get(partition))
        assert reader.records[partition][0][0] == 12_345


async def test_the_flight_stays_bounded_while_the_loop_finishes_nothing(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 40_000, 4)
    bounds = Bounds(flight_records_max=3_000, poll_records_max=1_000, hold_s=0.05)
    reader = Recorder(kafka.bootstrap, unique("group"), account=False, bounds=bounds)
    highest = 0
    async with reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.thread.flow is Flow.PAUSED)
        await asyncio.sleep(0.5)
        flight = reader.thread.flight
        assert 3_000 <= flight.records < 3_000 + 1_000
        assert flight.size_bytes > 0
        assert reader.thread.heartbeat_age_s < 0.3
        while reader.delivered < 40_000:
            highest = max(highest, flight.records)
            reader.thread.account(flight.records, flight.size_bytes)
            await asyncio.sleep(0.002)
    assert highest < 3_000 + 1_000
    for number in range(4):
        offsets = [offset for offset, _ in reader.records[Partition(topic, number)]]
        assert offsets == list(range(10_000))


async def test_a_start_after_a_pause_delivers_at_once(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 1_000, 1)
    partition = Partition(topic, 0)
    waited_s = []
    async with Recorder(kafka.bootstrap, unique("group")) as reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.delivered == 1_000)
        for _ in range(5):
            reader.thread.pause([partition])
            await asyncio.sleep(0.3)  # librdkafka's fetching thread finds nothing to fetch, sleeps
            before, begun_s = reader.delivered, time.monotonic()
            await reader.thread.start_at({partition: 0})
            await until(lambda before=before: reader.delivered > before)
            waited_s.append(time.monotonic() - begun_s)
    # By itself it looks again only after a second. A machine under load delays some, not most.
    assert sorted(waited_s)[2] < 0.5, waited_s


async def test_a_flight_that_is_held_still_serves_a_rebalance(kafka, admin, unique):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 40_000, 4)
    bounds = Bounds(flight_records_max=3_000, poll_records_max=1_000, hold_s=60.0)
    first = Recorder(kafka.bootstrap, group, account=False, bounds=bounds)
    second = Recorder(kafka.bootstrap, group)
    async with first:
        await first.thread.subscribe([topic])
        await until(lambda: first.thread.flow is Flow.HELD)
        async with second:
            await second.thread.subscribe([topic])
            await until(lambda: second.of("assigned"))
            assert first.thread.flow is Flow.HELD
        # A record each tenth of a second is what serving the rebalance costs.
        assert first.thread.flight.records < 3_000 + 1_000 + 300


async def test_a_large_record_counts_by_its_bytes(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 200, 1, padding=50_000)
    bounds = Bounds(flight_bytes_max=1_000_000, poll_records_max=10, hold_s=0.05)
    reader = Recorder(kafka.bootstrap, unique("group"), account=False, bounds=bounds)
    async with reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.thread.flow is Flow.PAUSED)
        assert 1_000_000 <= reader.thread.flight.size_bytes < 1_000_000 + 15 * 51_000
        assert reader.delivered < 40


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_second_member_takes_half_and_gives_it_back(kafka, admin, unique, protocol):
    topic = unique("in")
    group = unique("group")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 4_000, 4)
    first = Recorder(kafka.bootstrap, group, protocol=protocol)
    second = Recorder(kafka.bootstrap, group, protocol=protocol)
    everything = frozenset(Partition(topic, number) for number in range(4))
    async with first:
        await first.thread.subscribe([topic])
        await until(lambda: first.delivered == 4_000)
        async with second:
            await second.thread.subscribe([topic])
            await until(lambda: second.thread.assignment and second.thread.assignment.partitions)
            await until(lambda: len(first.of("assigned")) == 2)
            mine, theirs = first.thread.assignment, second.thread.assignment
            assert len(mine.partitions) == len(theirs.partitions) == 2
            assert mine.partitions | theirs.partitions == everything
            assert mine.number == 2
            assert mine.member_id != theirs.member_id
            assert mine.group_metadata is not first.of("assigned")[0].group_metadata
            if protocol is GroupProtocol.CLASSIC:
                assert first.of("revoked") == [everything]
                assert mine.added == mine.partitions
            else:
                assert first.of("revoked") == [theirs.partitions]
                assert mine.added == frozenset()
            # What arrives from here on reaches each partition's present owner, once.
            await fill(kafka.bootstrap, topic, 4_000, 4, start=1_000)
            await until(lambda: first.delivered + second.delivered >= 4_000 + 4_000 + 2_000)
        await until(
            lambda: first.thread.assignment and first.thread.assignment.partitions == everything
        )
        await asyncio.sleep(0.3)
    for partition in theirs.partitions:
        assert [offset for offset, _ in second.records[partition]] == list(range(2_000))
    for partition in mine.partitions:
        assert [offset for offset, _ in first.records[partition]] == list(range(2_000))
    assert not first.of("failure")
    assert not second.of("failure")
    # Given up only after the engine's answer, and before the next assignment.
    assert first.kinds()[:4] == ["assigned", "revoked", "released", "assigned"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_revocation_that_takes_too_long_is_given_up_and_told(
    kafka, admin, unique, protocol
):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 2)
    first = Recorder(kafka.bootstrap, group, protocol=protocol, bounds=Bounds(revoke_s=0.5))
    first.revoke_s = 30.0
    async with first:
        await first.thread.subscribe([topic])
        await until(lambda: first.of("assigned"))
        async with Recorder(kafka.bootstrap, group, protocol=protocol) as second:
            await second.thread.subscribe([topic])
            await until(lambda: second.thread.assignment and second.thread.assignment.partitions)
            await until(lambda: first.of("failure"))
        first.revoke_s = 0.0
    (error,) = first.of("failure")[:1]
    assert isinstance(error, TransactionAborted)
    assert "unreleased" in str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_partitions_that_change_owner_under_load_go_on_without_gap(
    kafka, admin, unique, protocol
):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 4)
    await fill(kafka.bootstrap, topic, 200_000, 4)
    bounds = Bounds(poll_records_max=200, flight_records_max=400)
    first = Recorder(kafka.bootstrap, group, protocol=protocol, bounds=bounds)

    async def join_for_a_moment():
        second = Recorder(kafka.bootstrap, group, protocol=protocol, bounds=bounds)
        # Both know what either has read, as if it were the committed offset.
        second.records = first.records
        async with second:
            await second.thread.subscribe([topic])
            await until(lambda: second.thread.assignment and second.thread.assignment.partitions)
            await asyncio.sleep(0.2)

    async with first:
        await first.thread.subscribe([topic])
        await until(lambda: first.delivered > 1_000)
        for _ in range(2):
            await join_for_a_moment()
        await until(lambda: sum(map(len, first.records.values())) >= 200_000)
    assert not first.of("failure")
    for number in range(4):
        rows = first.records[Partition(topic, number)]
        assert [offset for offset, _ in rows] == list(range(50_000))


async def test_a_second_worker_of_the_same_name_takes_over_and_the_first_is_fenced(
    kafka, admin, unique
):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 1)
    async with Recorder(kafka.bootstrap, group, worker_id="w") as first:
        await first.thread.subscribe([topic])
        await until(lambda: first.of("assigned"))
        async with Recorder(kafka.bootstrap, group, worker_id="w") as second:
            await second.thread.subscribe([topic])
            await until(lambda: second.of("assigned"))
            await until(lambda: first.of("failure"))
    assert isinstance(first.of("failure")[0], Fenced)
    assert "ONCEFLOW_WORKER_ID" in str(first.of("failure")[0])


async def test_the_group_is_left_at_once_when_stopped(kafka, admin, unique):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 2)
    async with Recorder(kafka.bootstrap, group, session_timeout_ms=30_000) as first:
        await first.thread.subscribe([topic])
        await until(lambda: first.of("assigned"))
    assert first.kinds() == ["assigned", "revoked", "released"]
    started = time.monotonic()
    async with Recorder(kafka.bootstrap, group, session_timeout_ms=30_000) as second:
        await second.thread.subscribe([topic])
        await until(lambda: second.of("assigned"))
    assert time.monotonic() - started < 5


async def test_commands_after_the_end_are_refused_not_waited_for(kafka, unique):
    async with Recorder(kafka.bootstrap, unique("group")) as reader:
        pass
    with pytest.raises(Exception, match="poll thread has ended"):
        await asyncio.wait_for(reader.thread.subscribe(["any"]), 5)


async def test_a_position_that_the_log_no_longer_has_is_data_at_risk(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 100, 1)
    await admin.delete_records({Partition(topic, 0): 60})
    async with Recorder(kafka.bootstrap, unique("group"), start=False) as reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.of("assigned"))
        await reader.thread.start_at({Partition(topic, 0): 10})
        await until(lambda: reader.of("failure"))
    assert isinstance(reader.of("failure")[0], DataAtRisk)
    assert reader.delivered == 0


@pytest.mark.parametrize("protocol", list(GroupProtocol))
async def test_a_partition_whose_position_was_refused_can_be_started_elsewhere(
    kafka, admin, unique, protocol
):
    topic = unique("in")
    await admin.create_topic(topic, 2)
    await fill(kafka.bootstrap, topic, 200, 2)
    await admin.delete_records({Partition(topic, 0): 60})
    group = unique("group")
    async with Recorder(kafka.bootstrap, group, start=False, protocol=protocol) as reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.of("assigned"))
        await reader.thread.start_at({Partition(topic, 0): 10, Partition(topic, 1): 90})
        await until(lambda: reader.of("failure") and reader.delivered == 10)
        await reader.thread.start_at({Partition(topic, 0): 70})
        await until(lambda: reader.delivered == 40)
        await asyncio.sleep(0.5)
    assert [offset for offset, _ in reader.records[Partition(topic, 0)]] == list(range(70, 100))
    assert [offset for offset, _ in reader.records[Partition(topic, 1)]] == list(range(90, 100))


async def test_a_late_answer_about_the_beginning_does_not_move_a_started_partition(
    kafka, admin, unique
):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 1_000, 1)
    with KafkaProxy(kafka.bootstrap) as proxy:
        asked = proxy.rule(Api.LIST_OFFSETS, Fault.HOLD_RESPONSE)
        again = proxy.rule(Api.LIST_OFFSETS, Fault.COUNT, times=9)
        async with Recorder(proxy.bootstrap, unique("group"), start=False) as reader:
            await reader.thread.subscribe([topic])
            await asyncio.to_thread(asked.wait_hit)
            await until(lambda: reader.of("assigned"))
            await reader.thread.start_at({Partition(topic, 0): 900})
            asked.release()
            await until(lambda: reader.delivered >= 100)
            await asyncio.to_thread(again.wait_hit)
            await fill(kafka.bootstrap, topic, 50, 1)
            await until(lambda: reader.delivered >= 150)
            await asyncio.sleep(0.5)
        assert not reader.of("failure")
    offsets = [offset for offset, _ in reader.records[Partition(topic, 0)]]
    assert offsets == list(range(900, 1_050))


async def test_headers_timestamps_and_tombstones_arrive_as_sent(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    runs = []
    await fill(
        kafka.bootstrap,
        topic,
        3,
        1,
        rows=[
            {"key": None, "value": b"plain", "timestamp": 1_000},
            {"key": b"k", "value": None, "timestamp": 2_000},
            {"key": b"", "value": b"", "timestamp": 3_000, "headers": [("h", b"1"), ("h", None)]},
        ],
    )
    async with Recorder(kafka.bootstrap, unique("group")) as reader:
        reader.on_run = runs.append
        await reader.thread.subscribe([topic])
        await until(lambda: reader.delivered == 3)
    assert [k for run in runs for k in run.keys] == [None, b"k", b""]
    assert [v for run in runs for v in run.values] == [b"plain", None, b""]
    assert [t for run in runs for t in run.timestamps] == [1_000, 2_000, 3_000]
    assert runs[-1].headers[-1] == [("h", b"1"), ("h", None)]
    assert sum(run.size_bytes for run in runs) == 6


async def test_an_error_in_taking_records_in_is_told_as_a_failure(kafka, admin, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 10, 1)
    reader = Recorder(kafka.bootstrap, unique("group"))

    def refuse(_):
        raise ValueError("not taken in")

    reader.on_run = refuse
    async with reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.of("failure"))
    assert str(reader.of("failure")[0]) == "not taken in"
