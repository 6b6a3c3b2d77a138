"""The topology driver runs apps on the engine itself, over a log in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import faust
import pytest

import onceflow
from onceflow.errors import ConfigError
from onceflow.testing import Record, TopologyDriver, WorkerFailed

PARTITIONS = 3
GUIDE = Path(__file__).parents[4] / "app" / "docs" / "testing.md"


def new_app(**options):
    return onceflow.App("driven", topic_partitions=PARTITIONS, **options)


def pairs(records):
    return sorted((record.key, record.value) for record in records)


async def test_driver_counts_words_into_table_and_topic(tmp_path):
    app = new_app()
    words = app.topic("words", key_type=str, value_type=str)
    totals = app.topic("totals", key_type=str, value_type=int)
    counts = app.Table("counts", default=int)

    @app.agent(words)
    async def count(stream):
        async for word in stream:
            counts[word] += 1
            await totals.send(key=word, value=counts[word])

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("words", [(word, word) for word in ("a", "b", "a", "c", "a")])
        assert driver.outputs("totals") == []
        await driver.settle()
        assert driver.table("counts") == {"a": 3, "b": 1, "c": 1}
        await driver.feed("words", "b", key="b")
        await driver.settle()
        assert driver.table("counts") == {"a": 3, "b": 2, "c": 1}
        assert pairs(driver.outputs("totals")) == [
            (b"a", b"1"),
            (b"a", b"2"),
            (b"a", b"3"),
            (b"b", b"1"),
            (b"b", b"2"),
            (b"c", b"1"),
        ]


async def test_driver_shows_bytes_headers_timestamp_and_partition(tmp_path):
    app = faust.App("driven", broker="onceflow://localhost:9092", topic_partitions=PARTITIONS)
    source = app.topic("source", value_serializer="raw")
    target = app.topic("target", value_serializer="raw")

    @app.agent(source)
    async def copy(stream):
        async for event in stream.events():
            await target.send(
                key=event.key,
                value=event.value,
                partition=event.message.partition,
                timestamp=event.message.timestamp,
                headers=event.headers,
            )

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed(
            "source", b"\x00", key=b"k", partition=2, timestamp=12.5, headers={"trace": b"1"}
        )
        await driver.settle()
        assert driver.outputs("target") == [Record(b"k", b"\x00", 12.5, [("trace", b"1")], 2, 0)]


async def test_driver_repartitions_by_group_by(tmp_path):
    app = new_app()
    orders = app.topic("orders", key_type=str, value_serializer="json")
    spent = app.Table("spent", default=int)

    @app.agent(orders)
    async def add(stream):
        async for order in stream.group_by(lambda order: order["customer"], name="customer"):
            spent[order["customer"]] += order["amount"]

    async with TopologyDriver(app, tmp_path) as driver:
        for number in range(12):
            await driver.feed(
                "orders", {"customer": f"c{number % 2}", "amount": number}, key=f"order-{number}"
            )
        await driver.settle()
        assert driver.table("spent") == {"c0": 30, "c1": 36}


async def test_driver_sends_through_a_topic(tmp_path):
    app = new_app()
    first = app.topic("first", key_type=str, value_type=str)
    between = app.topic("between", key_type=str, value_type=str)
    seen = app.Table("seen", default=str)

    @app.agent(first)
    async def move(stream):
        async for key, word in stream.through(between).items():
            seen[key] = word

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("first", [("a", "x"), ("b", "y")])
        await driver.settle()
        assert driver.table("seen") == {"a": "x", "b": "y"}
        assert pairs(driver.outputs("between")) == [(b"a", b'"x"'), (b"b", b'"y"')]


async def test_driver_waits_for_lists_of_take(tmp_path):
    app = new_app()
    words = app.topic("words", key_type=str, value_type=str)
    lists = app.topic("lists", value_serializer="json")

    @app.agent(words)
    async def collect(stream):
        async for several in stream.take(3, within=0.2):
            await lists.send(value=list(several))

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("words", [("k", word) for word in "abcde"])
        await driver.settle()
        found = [json.loads(record.value) for record in driver.outputs("lists")]
        assert sorted(found) == [["a", "b", "c"], ["d", "e"]]


async def test_driver_closes_windows_by_the_time_of_records(tmp_path):
    app = new_app()
    clicks = app.topic("clicks", key_type=str, value_type=str)
    closed = app.topic("closed", key_type=str, value_serializer="json")

    async def close(key, value):
        await closed.send(key=key[0], value=value)

    table = app.Table("clicks_by_page", default=int, on_window_close=close)
    counts = table.tumbling(10.0, expires=10.0)

    @app.agent(clicks)
    async def count(stream):
        async for page in stream:
            counts[page] += 1

    async with TopologyDriver(app, tmp_path) as driver:
        for timestamp in (100.0, 101.0, 112.0):
            await driver.feed("clicks", "page", key="page", timestamp=timestamp)
        await driver.settle()
        assert [
            (key, window[0], count)
            for (key, window), count in sorted(driver.table("clicks_by_page").items())
        ] == [("page", 100.0, 2), ("page", 110.0, 1)]
        assert driver.outputs("closed") == []
        await driver.feed("clicks", "page", key="page", timestamp=200.0)
        await driver.settle()
        assert [json.loads(each.value) for each in driver.outputs("closed")] == [2, 1]
        assert len(driver.table("clicks_by_page")) == 1


async def test_driver_runs_batch_agents_with_aggregates(tmp_path):
    app = new_app()
    trades = app.topic("trades", key_type=bytes, value_type=bytes)
    sums = app.topic("sums", key_type=bytes, value_serializer="raw")
    totals = onceflow.WindowedAggregate(
        app,
        "totals",
        onceflow.Windows(10.0),
        value="amount",
        aggregates=("count", "sum"),
        output=sums,
        partitions=PARTITIONS,
    )

    @app.agent(trades)
    async def add(stream):
        async for batch in stream.batches():
            totals.update(batch)

    async with TopologyDriver(app, tmp_path) as driver:
        for amount in (1, 2, 3):
            await driver.feed(
                "trades", json.dumps({"amount": amount}).encode(), key=b"s", timestamp=100.0
            )
        await driver.settle()
        [output] = driver.outputs("sums")
        assert json.loads(output.value) == {"n": 3, "sum": 6}


def failing_app(on_error):
    app = new_app(on_error=on_error, retries_max=1, retry_backoff_ms=1)
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    counts = app.Table("counts", default=int)

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            counts[word] += 1
            await copies.send(key=word, value=word)
            if word == "bad":
                raise ValueError(word)

    return app


async def test_failing_record_goes_to_the_dead_letters_without_outputs(tmp_path):
    app = failing_app("dead_letter")
    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("words", [("k", "good"), ("k", "bad"), ("k", "last")])
        await driver.settle()
        assert pairs(driver.outputs("copies")) == [(b"good", b'"good"'), (b"last", b'"last"')]
        assert driver.table("counts") == {"good": 1, "last": 1}
        [letter] = driver.outputs("driven-dead-letter")
        assert (letter.key, letter.value) == (b"k", b'"bad"')
        assert dict(letter.headers)["onceflow-error"] == b"ValueError: bad"


async def test_failing_record_is_skipped_without_outputs(tmp_path):
    async with TopologyDriver(failing_app("skip"), tmp_path) as driver:
        await driver.feed_many("words", [("k", "bad"), ("k", "last")])
        await driver.settle()
        assert pairs(driver.outputs("copies")) == [(b"last", b'"last"')]
        assert driver.table("counts") == {"last": 1}
        assert driver.outputs("driven-dead-letter") == []


async def test_failing_record_stops_the_worker_and_nothing_of_it_is_committed(tmp_path):
    async with TopologyDriver(failing_app("stop"), tmp_path) as driver:
        await driver.feed("words", "bad", key="k")
        with pytest.raises(WorkerFailed, match="bad"):
            await driver.settle()
        assert driver.outputs("copies") == []


async def test_retried_record_has_its_effects_once(tmp_path):
    app = new_app(retry_backoff_ms=1)
    words = app.topic("words", key_type=str, value_type=str)
    copies = app.topic("copies", key_type=str, value_type=str)
    counts = app.Table("counts", default=int)
    attempts = []

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            counts[word] += 1
            await copies.send(key=word, value=word)
            attempts.append(word)
            if len(attempts) < 3:
                raise ValueError(word)

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "a", key="a")
        await driver.settle()
        assert len(attempts) == 3
        assert driver.table("counts") == {"a": 1}
        assert len(driver.outputs("copies")) == 1


async def test_driver_sends_what_agents_yield_to_sinks(tmp_path):
    app = new_app()
    words = app.topic("words", key_type=str, value_type=str)
    loud = app.topic("loud", value_type=str)

    @app.agent(words, sink=[loud])
    async def shout(stream):
        async for word in stream:
            yield word.upper()

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "hey", key="k")
        await driver.settle()
        assert [record.value for record in driver.outputs("loud")] == [b'"HEY"']


async def test_driver_reads_global_tables(tmp_path):
    app = new_app()
    rates = app.topic("rates", key_type=str, value_type=int)
    current = app.GlobalTable("current", default=int)

    @app.agent(rates)
    async def keep(stream):
        async for key, rate in stream.items():
            current[key] = rate

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed_many("rates", [("eur", 1), ("usd", 2), ("eur", 3)])
        await driver.settle()
        assert driver.table("current") == {"eur": 3, "usd": 2}


async def test_driver_answers_questions_to_agents(tmp_path):
    app = new_app()

    @app.agent(app.topic("numbers", value_type=int))
    async def double(stream):
        async for number in stream:
            yield number * 2

    async with TopologyDriver(app, tmp_path) as driver:
        assert await driver.until(double.ask(21)) == 42


async def test_driver_keeps_sends_outside_of_records_for_the_next_commit(tmp_path):
    app = new_app()
    words = app.topic("words", key_type=str, value_serializer="raw")
    seen = app.Table("seen", default=int)

    @app.agent(words)
    async def keep(stream):
        async for event in stream.events():
            seen[event.key] += 1

    async with TopologyDriver(app, tmp_path) as driver:
        sent = await words.send(key="a", value=b"")
        assert driver.outputs("words") == []
        await driver.settle()
        assert (await sent).offset == 0
        assert driver.table("seen") == {"a": 1}


async def test_settle_names_what_is_left_when_its_bound_is_over(tmp_path):
    app = new_app()
    words = app.topic("words", key_type=str, value_type=str)

    @app.agent(words)
    async def collect(stream):
        async for _ in stream.take(2, within=60):
            pass

    async with TopologyDriver(app, tmp_path, settle_s=0.3) as driver:
        await driver.feed("words", "a", key="a", partition=1)
        with pytest.raises(TimeoutError, match=r"words\[1\]: 1"):
            await driver.settle()


async def test_driver_refuses_unknown_tables_and_a_second_start(tmp_path):
    app = new_app()
    async with TopologyDriver(app, tmp_path) as driver:
        with pytest.raises(ConfigError, match="no table 'counts'"):
            driver.table("counts")
    with pytest.raises(ConfigError, match="started before"):
        async with TopologyDriver(app, tmp_path):
            pass


async def test_example_of_the_guide_passes(tmp_path):
    [example] = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    names = {"__name__": "guide"}
    exec(compile(example, str(GUIDE), "exec"), names)
    await names["test_totals_follow_the_orders"](tmp_path)
