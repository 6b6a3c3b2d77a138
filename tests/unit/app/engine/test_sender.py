"""Where sends go: into the record's epoch, through the outbox, or outside of transactions."""

from __future__ import annotations

import asyncio
import time
import types

import pytest

from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.outbox import Accepted
from onceflow.engine.records import Batch, RecordEvent, RecordRef, current_event_ref
from onceflow.engine.sender import Sender
from onceflow.errors import (
    ConfigError,
    OutcomeUnknown,
    OutsideRecord,
    SerializationError,
    StaleAttempt,
)
from onceflow.ids import Partition, Stamp
from onceflow.kafka.errors import ProducerFull
from onceflow.limits import OUTBOX_RECORDS_MAX


class Transaction:
    """A producer that keeps what it was given, and reports deliveries when told."""

    def __init__(self):
        self.records, self.refusing, self.queued = [], None, 0

    def produce(self, topic, value, key, partition, timestamp_ms, headers, on_delivery=None):
        if self.refusing is not None:
            raise self.refusing
        self.records.append((topic, value, headers, on_delivery))

    def poll(self):
        self.refusing = None

    def deliver(self):
        for offset, (*_, on_delivery) in enumerate(self.records):
            if on_delivery is not None:
                message = types.SimpleNamespace(partition=lambda: 3, offset=lambda n=offset: n)
                on_delivery(None, message)


class Declarations:
    def __init__(self):
        self.existing, self.asked = {"out"}, []

    def ensure_soon(self, topic):
        self.asked.append(topic)

    def timestamp_ahead_ms(self, topic):
        return 10 * 3_600_000 if topic == "far" else 3_600_000


class Plain:
    def __init__(self):
        self.sent = []

    def send(self, topic, *rest):
        self.sent.append((topic, *rest))
        future = asyncio.get_running_loop().create_future()
        future.set_result(types.SimpleNamespace(topic=topic, number=1, offset=9))
        return future


@pytest.fixture
def sender():
    plain = Plain()
    made = Sender(Gate(Stamp(1, 1)), lambda: plain, Declarations())
    made.in_worker = True
    made.plain = plain
    return made


@pytest.fixture
def record(sender):
    """The record that is being processed while the test runs."""
    run = types.SimpleNamespace(
        partition=Partition("in", 0),
        number=0,
        offsets=[5],
        values=[b"1"],
        keys=[None],
        headers=None,
    )
    channel = types.SimpleNamespace(cursor=Cursor(sender.gate, lambda batch: None))
    event = RecordEvent(None, channel, Batch(run, sender.gate.stamp, 1), 0, None)
    token = current_event_ref.set(RecordRef(event))
    yield event
    current_event_ref.reset(token)


async def test_a_send_for_a_record_is_in_the_epoch_at_once(sender, record):
    transaction = Transaction()
    sender.begin(transaction)
    sent = sender.send("out", b"k", b"v")
    assert isinstance(sent, Accepted)
    assert (await sent).offset == -1
    assert [row[:2] for row in transaction.records] == [("out", b"v")]
    assert sender.has_effects()


async def test_a_send_for_a_finished_record_is_refused(sender, record):
    sender.begin(Transaction())
    record.live = False
    with pytest.raises(OutsideRecord, match="finished"):
        sender.send("out", None, b"v")


async def test_a_send_of_an_aborted_attempt_is_dropped(sender, record):
    sender.begin(Transaction())
    sender.gate.stamp = Stamp(1, 2)
    with pytest.raises(StaleAttempt):
        sender.send("out", None, b"v")


async def test_a_full_queue_is_waited_for(sender, record):
    transaction = Transaction()
    sender.begin(transaction)
    transaction.refusing = ProducerFull("full")
    sender.send("out", None, b"v")
    assert len(transaction.records) == 1


async def test_an_outbox_send_resolves_after_the_commit_with_its_place(sender):
    sent = sender.send("out", None, b"v")
    transaction = Transaction()
    sender.begin(transaction)
    transaction.deliver()
    sender.close()
    assert not sent.done()
    sender.committed()
    metadata = await sent
    assert (metadata.topic, metadata.partition, metadata.offset) == ("out", 3, 0)


async def test_outbox_sends_are_repeated_in_order_after_an_abort(sender):
    first = [sender.send("out", None, b"%d" % n) for n in range(3)]
    lost, kept = Transaction(), Transaction()
    sender.begin(lost)
    sender.aborted()
    later = sender.send("out", None, b"3")
    sender.begin(kept)
    assert [row[1] for row in kept.records] == [b"0", b"1", b"2", b"3"]
    sender.committed()
    assert all(future.done() for future in [*first, later])


async def test_outbox_sends_of_unknown_outcome_fail_with_what_to_do(sender):
    sent = sender.send("out", None, b"v")
    sender.begin(Transaction())
    sender.unknown()
    with pytest.raises(OutcomeUnknown, match="Read the topic"):
        await sent


async def test_an_outbox_send_that_is_too_large_fails_alone(sender):
    too_large = sender.send("out", None, b"v")
    transaction = Transaction()
    transaction.refusing = SerializationError("too large")
    sender.begin(transaction)
    with pytest.raises(SerializationError):
        await too_large
    transaction.refusing = None
    sender.send("out", None, b"fits")
    assert [row[1] for row in transaction.records] == [b"fits"]


async def test_the_outbox_is_bounded(sender):
    sender.waiting.extend([None] * OUTBOX_RECORDS_MAX)
    with pytest.raises(OutsideRecord, match="memory stays bounded"):
        sender.send("out", None, b"v")


async def test_without_a_worker_a_send_goes_at_once(sender):
    sender.in_worker = False
    metadata = await sender.send("out", None, b"v")
    assert (metadata.topic, metadata.partition, metadata.offset) == ("out", 1, 9)


async def test_at_least_once_goes_past_the_transaction(sender, record):
    transaction = Transaction()
    sender.begin(transaction)
    await sender.send("out", None, b"v", delivery="at_least_once")
    assert not transaction.records
    assert sender.plain.sent[0][:2] == ("out", b"v")


async def test_an_unknown_delivery_is_refused(sender):
    with pytest.raises(ConfigError, match="at_least_once"):
        sender.send("out", None, b"v", delivery="perhaps")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ({"a": b"1", "b": "text"}, [("a", b"1"), ("b", b"text")]),
        ([("a", b"1"), ("a", None)], [("a", b"1"), ("a", None)]),
        ((("a", "ü"),), [("a", "ü".encode())]),
    ],
)
async def test_headers_are_taken_in_all_forms(sender, record, given, expected):
    transaction = Transaction()
    sender.begin(transaction)
    sender.send("out", None, b"v", headers=given)
    assert transaction.records[0][2] == expected


async def test_a_header_that_kafka_cannot_take_is_its_records_fault(sender, record):
    sender.begin(Transaction())
    with pytest.raises(SerializationError, match="'n' of a record for out is a int"):
        sender.send("out", None, b"v", headers={"n": 1})


async def test_a_timestamp_beyond_the_topics_bound_is_refused(sender, record):
    sender.begin(Transaction())
    ahead = time.time() + 2 * 3600  # noqa: TID251 - the bound is on wall time
    with pytest.raises(SerializationError, match=r"message\.timestamp\.after"):
        sender.send("out", None, b"v", timestamp=ahead)
    sender.send("far", None, b"v", timestamp=ahead)


async def test_a_topic_that_nobody_has_seen_is_looked_for(sender, record):
    sender.begin(Transaction())
    sender.send("out", None, b"v")
    sender.send("elsewhere", None, b"v")
    assert sender.declarations.asked == ["elsewhere"]


async def test_listeners_may_add_headers(sender, record):
    transaction = Transaction()
    sender.begin(transaction)
    sender.announce = lambda headers, **_: headers.append(("traced", b"1"))
    sender.send("out", None, b"v", headers={"a": b"1"})
    assert transaction.records[0][2] == [("a", b"1"), ("traced", b"1")]
