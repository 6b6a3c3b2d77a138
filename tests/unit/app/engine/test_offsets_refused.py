"""Offsets that are refused, or never answered, on the engine over a log in memory."""

from __future__ import annotations

import threading

import pytest

import onceflow
from onceflow.engine import transactions
from onceflow.errors import OutcomeUnknown, TransactionAborted
from onceflow.kafka.producer import EndOutcome, EndResult
from onceflow.testing import TopologyDriver, WorkerFailed
from onceflow.testing.memory_clients import MemoryTransactions


@pytest.fixture
def refuse(monkeypatch):
    """Lets Kafka refuse the offsets of some epochs: ``refuse(times, is_spent)`` from there on."""
    left, spent = [0], [False]
    send_offsets = MemoryTransactions.send_offsets
    abort_transaction = MemoryTransactions.abort_transaction

    def refusing(self, offsets, group_metadata):
        if left[0]:
            left[0] -= 1
            message = "offsets are refused"
            raise TransactionAborted(message)
        send_offsets(self, offsets, group_metadata)

    def aborting(self, timeout_s):
        abort_transaction(self, timeout_s)
        return EndResult(EndOutcome.ABORTED, spent[0], 0.0)

    monkeypatch.setattr(MemoryTransactions, "send_offsets", refusing)
    monkeypatch.setattr(MemoryTransactions, "abort_transaction", aborting)

    def start(times, is_spent):
        left[0], spent[0] = times, is_spent

    return start


@pytest.mark.parametrize(("times", "is_spent"), [(1, False), (2, True)])
async def test_refused_offsets_are_replayed_when_the_gate_opens_and_not_before(
    tmp_path, refuse, times, is_spent
):
    """The replayed records come while the worker waits for news of the group: they have to wait."""
    app = onceflow.App("refused", topic_partitions=1)
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    grouped = app.topic("grouped", key_type=str, value_type=str)
    counts = app.Table("counts", default=int)

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            await copies.send(value=word)

    @app.agent(words)
    async def group(stream):
        async for word in stream.group_by(lambda value: value, name="word"):
            counts[word] += 1
            await grouped.send(key=word, value=word)

    async with TopologyDriver(app, tmp_path, settle_s=15) as driver:
        await driver.feed_many("words", [("k", "a")])
        await driver.settle()
        refuse(times, is_spent)
        await driver.feed_many("words", [("k", word) for word in "bcabca"])
        await driver.settle()
        assert len(driver.outputs("copies")) == len(driver.outputs("grouped")) == 7
        assert driver.table("counts") == {"a": 3, "b": 2, "c": 2}


async def test_offsets_that_are_never_answered_end_the_worker_with_3_within_their_bound(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(transactions, "SEND_OFFSETS_S_MAX", 0.5)
    app = onceflow.App("unanswered", topic_partitions=1)
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    answered = threading.Event()

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            await copies.send(value=word)

    async with TopologyDriver(app, tmp_path, settle_s=10) as driver:
        monkeypatch.setattr(MemoryTransactions, "send_offsets", lambda *_: answered.wait(20))
        await driver.feed_many("words", [("k", "a")])
        with pytest.raises(WorkerFailed, match="Whether it took effect is not known") as failed:
            await driver.settle()
        assert failed.value.exit_code == 3
        assert isinstance(failed.value.__cause__, OutcomeUnknown)
        assert "send_offsets (allowed: 0.5 s)" in str(failed.value)
        assert driver.outputs("copies") == []
        answered.set()
