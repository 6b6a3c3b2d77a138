"""How sinks are found and opened when a worker starts, and what the group is told of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.sink_apps import copy_into, feed, new_app, until
from harness.sqlite_participant import SqliteParticipant
from onceflow.coordinator.vocabulary import Finding
from onceflow.decisions import branch_steps as bs
from onceflow.decisions.marker import parse
from onceflow.engine.participants import Participants
from onceflow.engine.runtime import runtime_of
from onceflow.engine.telling import check_recorded
from onceflow.errors import ConfigError, ParticipantUnavailable
from onceflow.ids import BranchId, CommitEpoch, Partition
from onceflow.sinks.gid import Scope, gid_of
from onceflow.testing import TopologyDriver
from onceflow.testing.memory_clients import makers
from onceflow.testing.memory_log import MemoryLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sink.db"


# -- start --


async def test_a_worker_does_not_start_where_a_sink_cannot_be_opened(path):
    app, words = new_app()
    sinks = [SqliteParticipant(path), SqliteParticipant(path.parent / "no" / "sink.db", "other")]

    copy_into(app, words, *sinks)

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

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        runtime_of(app).records = told = Told()
        await feed(driver, "a")
        await driver.settle()
        await until(lambda: not runtime_of(app).epochs.two_phase.in_doubt)
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
