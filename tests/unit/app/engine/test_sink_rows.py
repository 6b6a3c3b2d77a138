"""Agents with two-phase sinks, on the engine over a log in memory and a sink over SQLite."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

import onceflow
from harness.sqlite_participant import SqliteParticipant, committed_rows, prepared_branches
from onceflow.coordinator.vocabulary import Finding
from onceflow.decisions import branch_steps as bs
from onceflow.decisions.epoch_states import EpochState
from onceflow.decisions.marker import parse
from onceflow.engine.holding import Holding
from onceflow.engine.participants import Participants
from onceflow.engine.rows import EpochRows
from onceflow.engine.runtime import runtime_of
from onceflow.engine.telling import check_recorded
from onceflow.errors import (
    ConfigError,
    OnceflowError,
    OutsideRecord,
    ParticipantUnavailable,
    SerializationError,
    StaleAttempt,
    Superseded,
)
from onceflow.ids import BranchId, CommitEpoch, Partition
from onceflow.limits import PARTICIPANT_ROWS_BYTES_MAX
from onceflow.observe.events import LogEvent
from onceflow.sinks.gid import Scope, gid_of
from onceflow.sinks.participant import EncodedRows
from onceflow.testing import TopologyDriver
from onceflow.testing.memory_clients import makers
from onceflow.testing.memory_log import MemoryLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sink.db"


def new_app(**options):
    app = onceflow.App("sinks", topic_partitions=2, **options)
    return app, app.topic("words", key_type=str, value_type=str)


def rows_of(words):
    return [{"word": word} for word in words]


async def feed(driver, *words, partition=0):
    for word in words:
        await driver.feed("words", word, partition=partition)


def sample(app, name, **labels):
    text = runtime_of(app).metrics.exposition().decode()
    wanted = name + (
        "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""
    )
    return next(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted + " ")
    )


# -- the happy way --


async def test_what_an_agent_yields_is_committed_with_the_epoch(tmp_path, path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[copies, SqliteParticipant(path), called.append])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a", "bad", "b")
        await feed(driver, "c", partition=1)
        await driver.settle()
        assert [dead.value for dead in driver.outputs("sinks-dead-letter")] == [b'"bad"']
    assert sorted(row["word"] for row in committed_rows(path)) == ["a", "b", "c"]
    assert prepared_branches(path) == []


async def test_a_refused_row_stops_the_worker_where_the_agent_says_so(tmp_path, path):
    app, words = new_app(on_error="stop")

    @app.agent(words, sink=[SqliteParticipant(path, refuse="bad")])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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
        await driver_until(lambda: copied() == [b'"x"'])
        await driver.feed("others", "y")
        await driver_until(lambda: copied() == [b'"x"', b'"y"'])
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


async def driver_until(reached):
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - what is waited for is written by a thread
            await asyncio.sleep(0.01)


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

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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
        await driver_until(lambda: not epochs.holding.partitions)
        await feed(driver, "a")
        await driver.settle()
    assert committed_rows(path) == rows_of("a")


async def test_a_late_failure_of_an_aborted_epoch_holds_nothing_back(tmp_path, path):
    app, words = new_app()

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

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

    @app.agent(words, sink=[Forgetful(path)])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        await feed(driver, "a")
        with pytest.raises(OnceflowError, match="lite") as left:
            await driver.until(asyncio.sleep(5))
    assert left.value.exit_code == 4
    assert sample(app, "onceflow_heuristic_outcomes_total") == 1


# -- start --


async def test_a_worker_does_not_start_where_a_sink_cannot_be_opened(path):
    app, words = new_app()
    sinks = [SqliteParticipant(path), SqliteParticipant(path.parent / "no" / "sink.db", "other")]

    @app.agent(words, sink=sinks)
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    runtime = runtime_of(app)
    runtime.clients.makers = makers(MemoryLog())
    runtime.check_recorded = lambda _: None
    with pytest.raises(ParticipantUnavailable, match="unable to open"):
        await runtime.participants.start()
    await runtime.participants.stop()
    assert [each.calls for each in sinks] == [["open"], ["open"]]


def test_a_worker_with_sinks_and_nobody_who_keeps_a_record_is_refused():
    app, _ = new_app()
    with pytest.raises(ConfigError, match="onceflow worker"):
        check_recorded(runtime_of(app))


# -- what the coordinator's group is told --


class Told:
    """Takes what would be told to a group."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *what: self.calls.append((name, *what))

    async def stop(self, _bound_s):
        self.calls.append(("stop",))

    async def flush(self, _bound_s):
        self.calls.append(("flush",))


async def test_the_group_is_told_of_each_two_phase_epoch(tmp_path, path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    @app.agent(words, sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    async with TopologyDriver(app, tmp_path) as driver:
        runtime_of(app).records = told = Told()
        await feed(driver, "a")
        await driver.settle()
        await driver_until(lambda: not runtime_of(app).epochs.two_phase.in_doubt)
        sink.fail = [ParticipantUnavailable("down")]
        await feed(driver, "b")
        await driver.settle()
    steps = [call for call in told.calls if call[0] not in {"offsets", "stop"}]
    assert [call[0] for call in steps] == [
        *("begun", "prepared", "committed", "ended"),
        *("begun", "aborted", "ended"),
        *("begun", "prepared", "committed", "ended"),
    ]
    _, branch, partitions, gids, marker = steps[1]
    assert {Partition("words", 0), Partition("words", 1)} <= partitions
    assert [name for name, _ in gids] == ["lite"]
    assert gids[0][1] == gid_of(Scope.of("memory", "sinks"), branch, "lite")
    assert parse(marker).with_participants == branch.commit_epoch
    assert {call[1] for call in steps[:4]} == {branch}
    assert [call for call in told.calls if call[0] == "offsets"]


async def test_the_group_is_told_of_what_is_lost(tmp_path, path):
    app, _ = new_app()
    runtime = runtime_of(app)
    runtime.records = told = Told()
    branch = BranchId(runtime.incarnation, CommitEpoch(3))
    await runtime.telling.missing([("lite", branch)], "it is lost")
    lost = ("heuristic", branch, "lite", Finding.BRANCH_MISSING, "it is lost")
    assert told.calls == [lost, ("flush",)]
    behind = bs.HeuristicFound("it is behind", "lite", branch, bs.Contradiction.BEHIND)
    await runtime.telling.contradicted(behind)
    found = ("heuristic", branch, "lite", Finding.ROW_BEHIND, "it is behind")
    assert told.calls[2:] == [found, ("flush",)]


def configured(*agents):
    app = SimpleNamespace(agents=dict(enumerate(agents)))
    runtime = SimpleNamespace(app=app, gate=None)
    return Participants(runtime)._configured()


def test_sinks_are_told_apart_by_name(path):
    app, words = new_app()
    one, other = SqliteParticipant(path), SqliteParticipant(path)

    async def fun(stream):
        async for word in stream:
            yield {"word": word}

    def agent(name, *sinks, channel=words):
        return app.agent(channel, name=name, sink=sinks)(fun)

    assert configured(agent("a", one), agent("b", one)) == {"lite": one}
    with pytest.raises(ConfigError, match="Two sinks are named lite"):
        configured(agent("c", one), agent("d", other))
    with pytest.raises(ConfigError, match="9 two-phase sinks"):
        configured(agent("f", *(SqliteParticipant(path, f"s{n}") for n in range(9))))
    with pytest.raises(ConfigError, match="reads no topic"):
        configured(agent("e", one, channel=app.channel()))


async def test_an_agent_with_sinks_must_yield(path):
    app, words = new_app()

    @app.agent(words, sink=[SqliteParticipant(path)])
    async def silent(stream):
        async for _ in stream:
            pass

    with pytest.raises(ConfigError, match="yields nothing"):
        await silent._prepare_actor(silent.actor_from_stream(None), silent.beacon)


def test_a_participant_added_later_counts_once(path):
    app, words = new_app()
    sink = SqliteParticipant(path)

    @app.agent(words)
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    copy.add_sink(sink)
    copy.add_sink(sink)
    copy.add_sink(print)
    assert copy.participants == [sink]
    assert copy._sinks == [print]
