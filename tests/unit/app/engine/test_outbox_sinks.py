"""Outbox sinks in the engine, over a log in memory and SQLite files.

What processes that die and real brokers do to them is tested in ``test_fault_outbox``.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from types import SimpleNamespace

import pytest

import onceflow
from onceflow.engine import outbox_sinks, outbox_watch
from onceflow.engine.configured import sinks_by_name
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError, DataAtRisk, ParticipantUnavailable, RowsRefused
from onceflow.sinks import SQLite, outbox_format
from onceflow.sinks.gid import Scope
from onceflow.testing import TopologyDriver, WorkerFailed

TABLE = {"word": "TEXT CHECK (word <> 'bad')"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "target.db"


def new_app(sink, **options):
    app = onceflow.App("outbox", topic_partitions=2, **options)
    words = app.topic("words", key_type=str, value_type=str)

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            if word == "raise":
                raise ValueError(word)
            yield {"nothing": 1} if word == "unknown" else {"word": word}

    return app


def new_sink(path, **options):
    return SQLite(path, table="t", create_table=TABLE, name="lite", **options)


async def feed(driver, *words, partition=0):
    for word in words:
        await driver.feed("words", word, partition=partition)


def rows(path, query="SELECT word FROM t ORDER BY rowid"):
    connection = sqlite3.connect(path, timeout=10)
    found = connection.execute(query).fetchall()
    connection.close()
    return [row[0] if len(row) == 1 else row for row in found]


async def eventually(check, *wanted):
    deadline_s = time.monotonic() + 20
    while (found := check()) not in wanted:
        assert time.monotonic() < deadline_s, found
        await asyncio.sleep(0.01)


async def shown(path, words):
    await eventually(lambda: "".join(rows(path)), words)


async def drive(app, tmp_path, *words, foreign=None, meanwhile=None):
    """Drive an app until its worker fails."""
    async with TopologyDriver(app, tmp_path) as driver:
        if foreign is not None:
            await driver.feed("outbox-lite-outbox", b"x", key=foreign, partition=1)
        if meanwhile is not None:
            meanwhile()
        await feed(driver, *words)
        await driver.settle()
        await driver.until(eventually(lambda: None, "never"))


def sample(app, name):
    """A metric of the sink; 0 before it was measured."""
    text = runtime_of(app).metrics.exposition().decode()
    line = f'{name}{{sink="lite"}} '
    found = [float(each[len(line) :]) for each in text.splitlines() if each.startswith(line)]
    return sum(found)


async def test_what_is_yielded_is_applied_after_the_commit_and_once(tmp_path, path):
    app = new_app(new_sink(path))
    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "b")
        await asyncio.sleep(0.05)
        assert rows(path) == []
        await driver.settle()
        await shown(path, "ab")
        await feed(driver, "c", partition=1)
        await driver.settle()
    assert rows(path) == ["a", "b", "c"], "a worker that stops applies what it committed"
    assert rows(path, "SELECT number, next_offset FROM onceflow_progress") == [(0, 2), (1, 1)]
    assert sample(app, "onceflow_outbox_applied_total") == 3
    duration = "onceflow_outbox_apply_seconds"
    assert sample(app, f"{duration}_count") >= 2


async def test_rows_of_an_aborted_attempt_are_not_applied(tmp_path, path):
    app = new_app(new_sink(path), on_error="skip")
    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "raise", "b", "unknown", "c")
        await driver.settle()
        await shown(path, "abc")
    assert len(driver.outputs("outbox-lite-outbox")) == 3


async def test_a_refused_row_is_kept_aside_and_told_and_the_others_are_applied(tmp_path, path):
    app = new_app(new_sink(path))
    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "bad", "b", "c", "bad")
        await driver.settle()
        await shown(path, "abc")
        aside = "SELECT log_offset FROM onceflow_refused WHERE is_told"
        await driver.until(eventually(lambda: rows(path, aside), [1, 4]))
        first, _ = driver.outputs("outbox-dead-letter")
        headers = dict(first.headers)
        assert headers["onceflow-topic"] == b"outbox-lite-outbox"
        assert (headers["onceflow-partition"], headers["onceflow-offset"]) == (b"0", b"1")
        assert b"CHECK constraint" in headers["onceflow-error"]
        assert b'"bad"' in headers["onceflow-rows"]
        assert (first.key, first.value) == (
            driver.outputs("outbox-lite-outbox")[1].key,
            driver.outputs("outbox-lite-outbox")[1].value,
        )
    assert rows(path, "SELECT next_offset FROM onceflow_progress") == [5]
    assert sample(app, "onceflow_outbox_refused_total") == 2


async def test_a_sink_that_stops_at_refused_rows_ends_the_worker_before_them(tmp_path, path):
    app = new_app(new_sink(path, on_error="stop"))
    with pytest.raises(WorkerFailed) as failed:
        await drive(app, tmp_path, "a", "bad", "b")
    assert isinstance(failed.value.__cause__, RowsRefused)
    assert failed.value.exit_code == 1
    assert rows(path) == ["a"]


async def test_rows_of_a_later_version_end_the_worker_and_stay_where_they_are(
    tmp_path, path, monkeypatch
):
    monkeypatch.setattr(outbox_format, "_VERSION", 2)
    encoded = outbox_format.encode_rows([(("word",), False, ("b",))])
    monkeypatch.undo()
    sink = new_sink(path)
    monkeypatch.setattr(sink, "encode", lambda _: encoded)
    with pytest.raises(WorkerFailed, match="has the version 2") as failed:
        await drive(new_app(sink), tmp_path, "b")
    assert failed.value.exit_code == 1
    assert rows(path) == rows(path, "SELECT number FROM onceflow_refused") == []


class AwaySink(SQLite):
    """A target that does not answer for a while."""

    is_away = False

    def write(self, runs):
        if self.is_away:
            raise ParticipantUnavailable("away")
        super().write(runs)


async def test_a_target_that_is_away_holds_nothing_up_and_gets_its_rows_later(
    tmp_path, path, monkeypatch
):
    monkeypatch.setattr(outbox_watch, "OUTBOX_MEASURE_S", 0.02)
    sink = AwaySink(path, table="t", create_table=TABLE, name="lite")
    app = new_app(sink)
    async with TopologyDriver(app, tmp_path) as driver:
        sink.is_away = True
        await feed(driver, "a", "b")
        await driver.settle()
        await feed(driver, "c")
        await driver.settle()
        await eventually(lambda: sample(app, "onceflow_outbox_lag"), 3)
        await eventually(lambda: sample(app, "onceflow_outbox_lag_seconds") > 0, True)
        assert rows(path) == []
        sink.is_away = False
        await shown(path, "abc")
        await eventually(lambda: sample(app, "onceflow_outbox_lag"), 0)
    text = runtime_of(app).metrics.exposition().decode()
    assert 'onceflow_participant_failures_total{participant="lite"}' in text


class OvertakenSink(SQLite):
    """Another applier does the same work first, once."""

    is_overtaken = False

    def write(self, runs):
        if not self.is_overtaken:
            self.is_overtaken = True
            other = new_sink(self._path)
            other.open(Scope(self._scope))
            other.write(runs)
            other.commit()
            other.close()
        super().write(runs)


async def test_rows_that_another_applier_applied_are_not_applied_again(tmp_path, path):
    sink = OvertakenSink(path, table="t", create_table=TABLE, name="lite")
    async with TopologyDriver(new_app(sink), tmp_path) as driver:
        await feed(driver, "a", "b")
        await driver.settle()
        await shown(path, "ab")
        await feed(driver, "c")
        await driver.settle()
        await shown(path, "abc")


async def run_against(tmp_path, path, statement):
    """Drive an app whose target was changed by others while it applies."""
    async with TopologyDriver(new_app(new_sink(path)), tmp_path) as driver:
        await feed(driver, "a", "b")
        await driver.settle()
        await shown(path, "ab")
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
        await feed(driver, "c")
        await driver.settle()
        await driver.until(eventually(lambda: None, "never"))


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE onceflow_progress SET next_offset = 9", "Kafka lost records"),
        ("UPDATE onceflow_progress SET topic_id = 'other'", "made again"),
    ],
)
async def test_a_target_that_does_not_fit_the_log_ends_the_worker(tmp_path, path, statement, why):
    with pytest.raises(WorkerFailed, match=why) as failed:
        await run_against(tmp_path, path, statement)
    assert isinstance(failed.value.__cause__, DataAtRisk)
    assert failed.value.exit_code == 4
    assert rows(path) == ["a", "b"]


async def test_a_target_that_was_set_back_gets_its_rows_again(tmp_path, path):
    """As one restored from a backup: rows and progress are of the same time."""

    async def set_back():
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("DELETE FROM t WHERE word = 'b'")
            connection.execute("UPDATE onceflow_progress SET next_offset = 1")
        connection.close()

    async with TopologyDriver(new_app(new_sink(path)), tmp_path) as driver:
        await feed(driver, "a", "b")
        await driver.settle()
        await shown(path, "ab")
        await set_back()
        await feed(driver, "c")
        await driver.settle()
        await shown(path, "abc")


async def test_rows_that_were_made_for_another_target_end_the_worker(tmp_path, path):
    with pytest.raises(WorkerFailed, match="for another target") as failed:
        await drive(new_app(new_sink(path)), tmp_path, foreign=b"of another host")
    assert failed.value.exit_code == 4


async def test_what_is_applied_is_deleted_from_the_topic(tmp_path, path, monkeypatch):
    monkeypatch.setattr(outbox_watch, "OUTBOX_MEASURE_S", 0.01)
    monkeypatch.setattr(outbox_watch, "TRIM_INTERVAL_S", 0.0)
    deleted = []
    app = new_app(new_sink(path))
    async with TopologyDriver(app, tmp_path) as driver:
        admin = runtime_of(app).clients.admin

        async def delete_records(before):
            deleted.append({partition.number: offset for partition, offset in before.items()})
            return before

        monkeypatch.setattr(admin, "delete_records", delete_records)
        await feed(driver, "a", "b")
        await driver.settle()
        await shown(path, "ab")
        await eventually(lambda: deleted[-1:], [{0: 2}])


async def test_a_topic_that_is_made_again_ends_the_worker(tmp_path, path, monkeypatch):
    monkeypatch.setattr(outbox_watch, "OUTBOX_MEASURE_S", 0.01)
    app = new_app(new_sink(path))

    async def topics(_names):
        return {}

    def delete():
        monkeypatch.setattr(runtime_of(app).clients.admin, "topics", topics)

    with pytest.raises(WorkerFailed, match="was deleted while the worker runs") as failed:
        await drive(app, tmp_path, meanwhile=delete)
    assert failed.value.exit_code == 4


@pytest.mark.parametrize("setting", ["retention.ms", "retention.bytes", "cleanup.policy"])
def test_a_topic_from_which_kafka_may_delete_is_refused(setting):
    safe = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    outbox_sinks.check_config("o", safe)
    with pytest.raises(ConfigError, match="before they are applied"):
        outbox_sinks.check_config("o", {**safe, setting: "1"})


def test_sinks_are_told_apart_by_name_and_need_topics(path):
    app = onceflow.App("outbox", topic_partitions=2)
    words, one, other = app.topic("words"), new_sink(path), new_sink(path)

    async def fun(stream):
        async for word in stream:
            yield {"word": word}

    def configured(*sinks, channel=words):
        agents = {n: app.agent(channel, name=str(n), sink=[s])(fun) for n, s in enumerate(sinks)}
        app_of_agents = SimpleNamespace(agents=agents)
        return sinks_by_name(app_of_agents, lambda agent: agent.outbox_sinks)

    assert configured(one, one) == ({"lite": one}, {"lite": {"words"}})
    with pytest.raises(ConfigError, match="Two sinks are named lite"):
        configured(one, other)
    with pytest.raises(ConfigError, match="reads no topic"):
        configured(one, channel=app.channel())


async def test_an_agent_with_outbox_sinks_must_yield(path):
    app = onceflow.App("outbox", topic_partitions=2)

    @app.agent(app.topic("words"), sink=[new_sink(path)])
    async def silent(stream):
        async for _ in stream:
            pass

    with pytest.raises(ConfigError, match="yields nothing"):
        await silent._start_one()


async def test_a_sink_added_while_the_worker_runs_ends_it(tmp_path, path):
    app = new_app(new_sink(path))

    def add():
        [agent] = [a for a in app.agents.values() if a.outbox_sinks]
        agent.add_sink(SQLite(path, table="t", name="late"))

    with pytest.raises(WorkerFailed, match="added while the worker runs") as failed:
        await drive(app, tmp_path, "a", meanwhile=add)
    assert failed.value.exit_code == 2
