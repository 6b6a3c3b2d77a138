"""Agents with two-phase sinks, on the engine over a log in memory and a sink over SQLite."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

import onceflow
from harness.sink_apps import copy_into, feed, new_app, rows_of, sample, until
from harness.sqlite_participant import SqliteParticipant, committed_rows, prepared_branches
from onceflow.decisions.epoch_states import EpochState
from onceflow.engine.holding import Holding
from onceflow.engine.rows import EpochRows
from onceflow.engine.runtime import runtime_of
from onceflow.errors import (
    ConfigError,
    OnceflowError,
    OutsideRecord,
    ParticipantUnavailable,
    SerializationError,
    StaleAttempt,
    Superseded,
)
from onceflow.ids import CommitEpoch, Partition
from onceflow.limits import PARTICIPANT_ROWS_BYTES_MAX
from onceflow.observe.events import LogEvent
from onceflow.sinks.participant import EncodedRows
from onceflow.testing import TopologyDriver


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sink.db"


# -- the happy way --


async def test_what_an_agent_yields_is_committed_with_the_epoch(tmp_path, path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "b")
        await driver.settle()
        await feed(driver, "c")
        await driver.settle()
    assert committed_rows(path) == rows_of("abc")
    assert prepared_branches(path) == []
    assert sample(app, "onceflow_branches_in_doubt") == 0
    assert sample(app, "onceflow_branch_oldest_age_seconds") == 0
    text = runtime_of(app).metrics.exposition().decode()
    for metric in ("onceflow_branch_prepare_seconds", "onceflow_branch_commit_seconds"):
        assert f'{metric}_count{{participant="lite"}} 2.0' in text
    assert sample(app, "onceflow_transaction_duration_seconds_count", phase="prepare") == 2


async def test_every_participant_prepares_each_epoch_that_has_rows_for_one(tmp_path, path):
    app, words = new_app()
    sinks = [SqliteParticipant(path, "one"), SqliteParticipant(path, "two", key="word")]

    @app.agent(words, sink=sinks[:1])
    async def first(stream):
        async for word in stream:
            if word != "none":
                yield {"word": word}

    @app.agent(words, sink=sinks[1:])
    async def second(stream):
        async for word in stream:
            if word == "both":
                yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "x")
        await driver.settle()
        await feed(driver, "none")
        await driver.settle()
        await feed(driver, "both")
        await driver.settle()
    prepared = [[call for call in each.calls if call[0] == "prepare"] for each in sinks]
    assert prepared[0] == prepared[1]
    assert len(prepared[0]) == 2, "an epoch without rows prepares nothing"
    assert committed_rows(path, "one") == rows_of(["x", "both"])
    assert committed_rows(path, "two") == rows_of(["both"])


async def test_batches_and_lists_yield_rows_of_many_records(tmp_path, path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for batch in stream.batches():
            yield [{"word": value.decode().strip('"')} for value in batch.values]

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, *"abcdef")
        await driver.settle()
    assert committed_rows(path) == rows_of("abcdef")


async def test_rows_of_lists_are_blamed_on_all_their_records(tmp_path, path):
    app, words = new_app(on_error="skip", retry_backoff_ms=1)
    sink = SqliteParticipant(path, refuse="c")

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for several in stream.take(3, within=0.05):
            for word in several:
                yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, *"abcdef")
        await driver.settle()
    assert committed_rows(path) == rows_of("abdef")


async def test_rows_of_a_repartitioned_stream_commit_with_its_own_records(tmp_path, path):
    app, words = new_app(on_error="dead_letter", retry_backoff_ms=1)
    sink = SqliteParticipant(path, refuse="bad")

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream.group_by(lambda word: word[0], name="first"):
            yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "bad", "c")
        await driver.settle()
        [dead] = driver.outputs("sinks-dead-letter")
        assert dict(dead.headers)["onceflow-topic"].endswith(b"-first-repartition")
    assert sorted(row["word"] for row in committed_rows(path)) == ["a", "c"]


async def test_actors_side_by_side_yield_rows_of_their_own_records(tmp_path, path):
    app, words = new_app(retry_backoff_ms=1)
    sink = SqliteParticipant(path)

    @app.agent(words, sink=[sink], concurrency=3)
    async def copy(stream):
        async for word in stream:
            await asyncio.sleep(0.001)
            yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, *"abcdefgh")
        await driver.settle()
    assert sorted(row["word"] for row in committed_rows(path)) == list("abcdefgh")


async def test_sinks_of_faust_and_participants_go_together(tmp_path, path):
    app, words = new_app()
    copies = app.topic("copies", value_serializer="json")
    called = []

    copy_into(app, words, copies, SqliteParticipant(path), called.append)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        await driver.settle()
        assert len(driver.outputs("copies")) == 1
    assert called == committed_rows(path) == rows_of("a")


# -- rows that go wrong --


async def test_a_value_that_cannot_become_rows_is_its_records_failure(tmp_path, path):
    app, words = new_app(on_error="dead_letter", retry_backoff_ms=1)

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word} if word != "bad" else word

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "bad", "b")
        await driver.settle()
        [dead] = driver.outputs("sinks-dead-letter")
        assert dead.value == b'"bad"'
    assert committed_rows(path) == rows_of("ab")


@pytest.mark.parametrize("how", ["refuse", "refuse_silently"])
@pytest.mark.parametrize("on_error", ["retry", "dead_letter"])
async def test_a_refused_row_blames_its_record_and_no_other(tmp_path, path, how, on_error):
    app, words = new_app(on_error=on_error, retries_max=2, retry_backoff_ms=1)
    sink = SqliteParticipant(path, **{how: "bad"})

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "bad", "b")
        await feed(driver, "c", partition=1)
        await driver.settle()
        assert [dead.value for dead in driver.outputs("sinks-dead-letter")] == [b'"bad"']
    assert sorted(row["word"] for row in committed_rows(path)) == ["a", "b", "c"]
    assert prepared_branches(path) == []


async def test_a_refused_row_stops_the_worker_where_the_agent_says_so(tmp_path, path):
    app, words = new_app(on_error="stop")

    copy_into(app, words, SqliteParticipant(path, refuse="bad"))

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "bad")
        with pytest.raises(OnceflowError, match="bad"):
            await driver.settle()


async def test_rows_of_an_aborted_attempt_are_dropped(tmp_path, path):
    app, words = new_app(retry_backoff_ms=1)
    failed = []

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}
            if word == "b" and not failed:
                failed.append(word)
                raise ValueError(word)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "b", "c")
        await driver.settle()
    assert committed_rows(path) == rows_of("abc")


def buffered(gate=None, blamed=(("words", 0), 5, 6, 1), stamp=None):
    """A buffer with one open participant, and a stream that is at a record."""
    gate = gate or SimpleNamespace(stamp=object())
    rows = EpochRows(gate)
    sized = SimpleNamespace(
        name="p", encode=lambda value: EncodedRows(1, value, None), stamp=gate.stamp
    )
    rows.opened["p"] = sized
    batch = SimpleNamespace(stamp=stamp or gate.stamp)
    event = SimpleNamespace(batch=batch)
    stream = SimpleNamespace(current_event=event, blamed=lambda: blamed, reader="agent")
    return rows, sized, stream


def test_rows_are_kept_by_participant_with_who_is_to_blame():
    rows, participant, stream = buffered()
    assert not rows.exist()
    rows.add(participant, 10, stream)
    rows.add(participant, 20, stream)
    assert rows.exist()
    assert rows.size_bytes == 30
    assert [(each.agent, each.blamed[1], each.encoded.size_bytes) for each in rows.of("p")] == [
        ("agent", 5, 10),
        ("agent", 5, 20),
    ]
    assert rows.of("q") == []
    rows.drop()
    assert (rows.size_bytes, rows.of("p"), rows.exist()) == (0, [], False)


def test_rows_of_one_epoch_are_bounded():
    rows, participant, stream = buffered()
    rows.add(participant, PARTICIPANT_ROWS_BYTES_MAX, stream)
    with pytest.raises(SerializationError, match="smaller ones"):
        rows.add(participant, 1, stream)
    assert rows.size_bytes == PARTICIPANT_ROWS_BYTES_MAX


def test_rows_without_a_record_or_of_a_ghost_or_for_a_sink_that_is_not_open_are_refused():
    rows, participant, stream = buffered(blamed=None)
    with pytest.raises(OutsideRecord):
        rows.add(participant, 1, stream)
    rows, participant, stream = buffered(stamp=object())
    with pytest.raises(StaleAttempt):
        rows.add(participant, 1, stream)
    rows, participant, stream = buffered()
    with pytest.raises(ConfigError, match="while the worker runs"):
        rows.add(SimpleNamespace(name="late"), 1, stream)
    assert not rows.exist()


def wait_for_rows(path):
    deadline_s = time.monotonic() + 10
    while not committed_rows(path):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


async def test_many_rows_end_the_epoch_before_its_interval(tmp_path, path):
    app, words = new_app()
    runtime_of(app).settings = runtime_of(app).settings.model_copy(update={"commit_bytes": 1 << 20})

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word * 300_000}

    async with TopologyDriver(app, tmp_path) as driver:
        for word in "abcdef":
            await feed(driver, word)
            await asyncio.sleep(0.01)
        await driver.until(asyncio.to_thread(wait_for_rows, path))
        await driver.settle()
    assert len(committed_rows(path)) == 6


# -- participants that fail --


async def test_a_participant_that_does_not_answer_is_asked_again_until_all_is_committed(
    tmp_path, path
):
    app, words = new_app()
    sink = SqliteParticipant(path)

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        down = ParticipantUnavailable("down")
        # The PREPARE, then its roll-back once, then the commit of the next attempt once.
        sink.fail = [down, down, None, None, None, down]
        await feed(driver, "a")
        await driver.settle()
    assert committed_rows(path) == rows_of("a")
    assert prepared_branches(path) == []
    assert sample(app, "onceflow_participant_failures_total", participant="lite") == 3


async def test_a_prepare_that_arrives_after_its_attempt_was_rolled_back_is_found(tmp_path, path):
    app, words = new_app()

    class Late(SqliteParticipant):
        late = None

        def prepare(self, branch, rows):
            if self.late is None:
                self.late = (branch, rows)
                raise ParticipantUnavailable("the answer was lost")
            super().prepare(branch, rows)

        def roll_back(self, branch):
            super().roll_back(branch)
            if ("roll_back", branch.commit_epoch) not in self.calls[:-1]:
                super().prepare(*self.late)

    sink = Late(path)

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        await driver.settle()
    assert committed_rows(path) == rows_of("a")
    assert prepared_branches(path) == []
    assert sample(app, "onceflow_branches_resolved_total", outcome="rolled_back") == 1


async def test_a_sink_that_is_down_stops_the_partitions_that_need_it_and_no_others(
    tmp_path, path, caplog
):
    app = onceflow.App("sinks", topic_partitions=1)
    words, others = app.topic("words", value_type=str), app.topic("others", value_type=str)
    copies = app.topic("copies", value_type=str)
    sink = SqliteParticipant(path)

    @app.agent(words, sink=[sink])
    async def writing(stream):
        async for word in stream:
            yield {"word": word}

    @app.agent(others)
    async def copying(stream):
        async for word in stream:
            await copies.send(value=word)

    def copied():
        return [record.value for record in driver.outputs("copies")]

    async with TopologyDriver(app, tmp_path) as driver:
        sink.down = True
        await driver.feed("words", "a")
        await driver.feed("others", "x")
        settling = asyncio.ensure_future(driver.settle())
        await until(lambda: copied() == [b'"x"'])
        await driver.feed("others", "y")
        await until(lambda: copied() == [b'"x"', b'"y"'])
        held = runtime_of(app).epochs.holding.partitions
        assert [each.topic for each in held] == ["words"]
        assert not settling.done()
        sink.down = False
        await settling
        assert copied() == [b'"x"', b'"y"']
    assert committed_rows(path) == rows_of("a")
    assert LogEvent.PARTITIONS_HELD_BACK in {
        record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)
    }


def test_what_is_held_back_is_read_again_after_a_wait_that_grows():
    loop = asyncio.new_event_loop()
    due, timers = [], []
    place, other = Partition("words", 0), Partition("words", 1)
    holding = Holding(lambda: due.append(holding.partitions))

    async def hold():
        asyncio.get_running_loop().call_later = lambda after_s, call: (
            timers.append((after_s, call)) or SimpleNamespace(cancel=lambda: None)
        )
        holding.hold(frozenset())
        holding.answered()
        assert not timers
        for _ in range(2):
            holding.hold(frozenset({place, other}))
            assert holding.partitions == {place, other}
            holding.answered()
            holding.answered()
            assert not holding.is_due
            timers[-1][1]()
            assert holding.is_due
            assert holding.release({place: 7}) == {place: 7}
            assert not holding.is_due
        holding.prepared()
        holding.hold(frozenset({place}))
        holding.answered()
        timers[-1][1]()
        holding.hold(frozenset({other}))
        assert not holding.is_due, "the trouble has begun anew"

    loop.run_until_complete(hold())
    loop.close()
    assert [after_s for after_s, _ in timers] == [0.1, 0.2, 0.1]
    assert due == [{place, other}, {place, other}, {place}]


async def test_what_is_held_back_waits_for_an_abort_that_is_under_way(tmp_path, path):
    app, words = new_app()

    copy_into(app, words, SqliteParticipant(path))

    async with TopologyDriver(app, tmp_path) as driver:
        epochs = runtime_of(app).epochs
        epochs.holding.partitions = frozenset({Partition("words", 0)})
        epochs.holding.is_due = True
        state, epochs.machine.state = epochs.machine.state, EpochState.ABORTING
        epochs.wake()
        await asyncio.sleep(0.05)
        assert epochs.holding.partitions, "the rewind that comes would read it a second time"
        epochs.machine.state = state
        epochs.wake()
        await until(lambda: not epochs.holding.partitions)
        await feed(driver, "a")
        await driver.settle()
    assert committed_rows(path) == rows_of("a")


async def test_a_late_failure_of_an_aborted_epoch_holds_nothing_back(tmp_path, path):
    app, words = new_app()

    copy_into(app, words, SqliteParticipant(path))

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        await driver.settle()
        epochs = runtime_of(app).epochs
        epochs.two_phase._hold(CommitEpoch(1), EpochState.PREPARING)
        epochs.two_phase._hold(epochs.machine.commit_epoch, EpochState.PREPARING)
        assert not epochs.holding.partitions


async def test_a_superseded_worker_leaves_to_be_started_again(tmp_path, path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        sink.fail = [Superseded("raised")]
        await feed(driver, "a")
        with pytest.raises(OnceflowError, match="raised") as left:
            await driver.settle()
    assert left.value.exit_code == 1


async def test_a_branch_that_is_lost_after_the_decision_ends_the_worker(tmp_path, path, caplog):
    app, words = new_app()

    class Forgetful(SqliteParticipant):
        def commit(self, branch):
            self.roll_back(branch)
            return super().commit(branch)

    copy_into(app, words, Forgetful(path))

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        with pytest.raises(OnceflowError, match="lite") as left:
            await driver.until(asyncio.sleep(5))
    assert left.value.exit_code == 4
    assert sample(app, "onceflow_heuristic_outcomes_total") == 1
