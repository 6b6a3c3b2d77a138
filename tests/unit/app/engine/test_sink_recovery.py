"""What dead workers left in sinks, resolved by the next one, over a log in memory and SQLite."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

import onceflow
from harness.coordinator_group import CLUSTER, coordinator_group, reaching
from harness.sqlite_participant import SqliteParticipant, committed_rows, prepared_branches
from onceflow.coordinator.client import CoordinatorClient
from onceflow.coordinator.vocabulary import Begun, Decision, Standing, Told
from onceflow.decisions import branch_steps as bs
from onceflow.decisions.marker import Handover, Marker
from onceflow.engine import resolving
from onceflow.engine.participants import Participants
from onceflow.engine.resolving import perform_step
from onceflow.engine.runtime import runtime_of
from onceflow.engine.scanning import scan_branches
from onceflow.errors import OnceflowError, ParticipantUnavailable
from onceflow.ids import BranchId, CommitEpoch, Incarnation, Partition
from onceflow.kafka.offsets import Committed
from onceflow.sinks.gid import Scope
from onceflow.sinks.participant import Standing as RowStanding
from onceflow.testing import TopologyDriver

DEAD = Incarnation("dead")
IN_WORDS = Partition("words", 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sink.db"


@pytest.fixture(autouse=True)
def fenced(monkeypatch):
    """Transactional ids that were fenced; there is no broker here."""
    ids = []
    monkeypatch.setattr(resolving, "fence", lambda _config, name, _timeout_s: ids.append(name))
    return ids


def new_app(path, **options):
    app = onceflow.App("sinks", topic_partitions=1, **options)
    sink = SqliteParticipant(path)

    @app.agent(app.topic("words", key_type=str, value_type=str), sink=[sink])
    async def copy(stream):
        async for word in stream:
            yield {"word": word}

    return app, sink


def left_behind(path, *commit_epochs, committed=0, incarnation=DEAD):
    """A sink as a dead worker left it: its last committed epoch, and prepared ones."""
    sink = SqliteParticipant(path)
    sink.open(Scope.of("memory", "sinks"))
    for each in filter(None, (committed, *commit_epochs)):
        branch = BranchId(incarnation, CommitEpoch(each))
        sink.prepare(branch, [sink.encode({"word": f"of epoch {each}"})])
        if each == committed:
            sink.commit(branch)
    return sink


def of_the_dead(path):
    """Epochs of the dead worker that are prepared."""
    return [each[2] for each in prepared_branches(path) if each[1] == DEAD]


async def worker(app, tmp_path, marker=None):
    """A driver whose group's offsets carry a marker."""
    driver = TopologyDriver(app, tmp_path)
    driver._log.create("words", 1, {})
    if marker is not None:
        driver._log.add([], {IN_WORDS: Committed(0, marker.encode())})
    return driver


def marker(k, released=Handover.HELD, incarnation=DEAD, commit_epoch=9):
    of_k = ("lite",)
    return Marker(
        incarnation, CommitEpoch(commit_epoch), CommitEpoch(k), released, participants=of_k
    )


async def test_a_branch_whose_epoch_kafka_committed_is_committed(tmp_path, path, fenced):
    left = left_behind(path, 3)
    app, _ = new_app(path)
    async with await worker(app, tmp_path, marker(3)) as driver:
        assert committed_rows(path) == [{"word": "of epoch 3"}]
        assert left.marker_row(DEAD).raised is RowStanding.RAISED
        await driver.feed("words", "next")
        await driver.settle()
    assert committed_rows(path) == [{"word": "of epoch 3"}, {"word": "next"}]
    assert fenced[:2] == ["sinks.dead.0", "sinks.dead.1"]


async def test_a_branch_that_no_marker_names_is_rolled_back_after_a_fence(tmp_path, path, fenced):
    left = left_behind(path, 4, committed=3)
    app, _ = new_app(path)
    async with await worker(app, tmp_path, marker(3)):
        assert committed_rows(path) == [{"word": "of epoch 3"}]
        assert prepared_branches(path) == []
        assert left.marker_row(DEAD).commit_epoch == 3, "the proof of commit is kept"
    assert fenced.count("sinks.dead.0") == 2, "once for the offsets, once for the branch"


@pytest.mark.parametrize(
    ("handover", "in_doubt"), [(Handover.HELD, []), (Handover.RELEASED, [3, 4])]
)
async def test_an_owner_that_left_no_branch_leaves_nothing_in_doubt_in_the_record(
    tmp_path, path, handover, in_doubt
):
    """It died before the first PREPARE of an epoch, and before it told the end of another."""
    left_behind(path, committed=3)
    app, _ = new_app(path)
    driver = await worker(app, tmp_path, marker(3, handover))
    scope = Scope.of("memory", "sinks").scope
    begun = [Begun(DEAD, each, [("words", [0])], ["lite"]) for each in (3, 4)]
    async with coordinator_group(tmp_path / "group") as port, AsyncExitStack() as closing:
        client = await closing.enter_async_context(CoordinatorClient(reaching(port)))
        await client.tell(Told(scope, "sinks", 7, begun))
        runtime = runtime_of(app)
        runtime.settings = runtime.settings.model_copy(
            update={"coordinator": f"127.0.0.1:{port}", "coordinator_cluster": CLUSTER}
        )
        await closing.enter_async_context(driver)
        await runtime.records.flush(20)
        rows = await client.transactions(scope, Standing.OPEN)
        assert [row.transaction.commit_epoch for row in rows] == in_doubt
        decided = (await client.transaction(scope, DEAD, 3)).rows[0].transaction.decision
        assert decided is (Decision.NONE if in_doubt else Decision.COMMIT)


async def test_who_released_judges_its_branches_itself(tmp_path, path, fenced):
    left = left_behind(path, 4, committed=3)
    app, _ = new_app(path)
    async with await worker(app, tmp_path, marker(3, Handover.RELEASED)) as driver:
        await driver.feed("words", "next")
        await driver.settle()
        assert of_the_dead(path) == [4]
        assert left.marker_row(DEAD).raised is RowStanding.ACTIVE
    assert fenced == []


async def test_a_scan_clears_what_no_takeover_looks_at(tmp_path, path, fenced):
    left_behind(path, 4, committed=3)
    app, _ = new_app(path)
    async with await worker(app, tmp_path) as driver:
        await driver.feed("words", "next")
        await driver.settle()
        assert await scan_branches(runtime_of(app)) == 1
        assert prepared_branches(path) == []
        assert await scan_branches(runtime_of(app)) == 0
    assert fenced == ["sinks.dead.0", "sinks.dead.1"]


async def test_a_scan_leaves_what_a_living_worker_has_prepared(tmp_path, path, fenced):
    left_behind(path, 4, committed=3)
    app, _ = new_app(path)
    async with await worker(app, tmp_path) as driver:
        runtime_of(app).partition_counts["others"] = 1
        driver._log.create("others", 1, {})
        driver._log.add([], {Partition("others", 0): Committed(0, marker(3).encode())})
        assert await scan_branches(runtime_of(app)) == 0
        assert of_the_dead(path) == [4]
    assert fenced == []


@pytest.mark.parametrize(
    ("shown", "k", "says", "contradiction"),
    [
        (2, 5, "restored from an older state", bs.Contradiction.BEHIND),
        (7, 5, "Kafka lost commits", bs.Contradiction.AHEAD),
    ],
)
async def test_a_sink_that_contradicts_kafka_ends_the_worker(
    tmp_path, path, shown, k, says, contradiction
):
    left_behind(path, committed=shown)
    app, _ = new_app(path)
    driver = await worker(app, tmp_path, marker(k))
    found = []

    async def contradicted(heuristic):
        found.append(heuristic)

    runtime_of(app).telling.contradicted = contradicted
    starting = asyncio.ensure_future(driver.__aenter__())
    async with asyncio.timeout(20):
        while driver._failure is None:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.01)
    # The process would be gone; here its start goes on, and the driver finds the failure.
    runtime_of(app).epochs.ready.set()
    with pytest.raises(OnceflowError, match=says) as left:
        await starting
    assert left.value.exit_code == 4
    [heuristic] = found
    assert heuristic.contradiction is contradiction
    assert heuristic.branch == BranchId(DEAD, CommitEpoch(max(shown, k)))
    text = runtime_of(app).metrics.exposition().decode()
    assert "onceflow_heuristic_outcomes_total 1.0" in text


async def test_a_row_that_a_late_prepare_holds_is_raised_after_that_branch(tmp_path, path):
    left = left_behind(path, committed=3)
    app, sink = new_app(path)
    raise_marker = sink.raise_marker

    def late(incarnation):
        if not any(call[0] == "raise" for call in sink.calls):
            left.prepare(BranchId(DEAD, CommitEpoch(4)), [])
        raise_marker(incarnation)

    sink.raise_marker = late
    async with await worker(app, tmp_path, marker(3)):
        assert prepared_branches(path) == []
        assert left.marker_row(DEAD).raised is RowStanding.RAISED


@pytest.mark.parametrize("released", list(Handover))
async def test_inv_2pc_2_a_marker_of_a_topic_that_is_read_no_more_proves_its_epoch(
    tmp_path, path, fenced, released
):
    left_behind(path, 4)
    app, _ = new_app(path)
    driver = await worker(app, tmp_path)
    driver._log.create("refunds", 1, {})
    proof = Committed(0, marker(4, released).encode())
    driver._log.add([], {Partition("refunds", 0): proof})
    async with driver:
        assert await scan_branches(runtime_of(app)) == 0
    assert of_the_dead(path) == [4]


async def test_a_sink_that_does_not_answer_holds_up_the_claim_and_nothing_is_given_up(
    tmp_path, path
):
    left_behind(path, 3)
    app, sink = new_app(path)
    down = ParticipantUnavailable("down")
    # Open lets through; the list, the commit and the raise fail first.
    sink.fail = [None, down, None, down, None, None, down]
    async with await worker(app, tmp_path, marker(3)):
        assert committed_rows(path) == [{"word": "of epoch 3"}]


async def test_steps_tell_what_they_found(path, tmp_path):
    left_behind(path, 4, committed=3)
    app, sink = new_app(path)
    async with await worker(app, tmp_path):
        runtime = runtime_of(app)
        assert isinstance(runtime.participants, Participants)
        branch = ("lite", BranchId(DEAD, CommitEpoch(4)))
        listed = await perform_step(runtime, bs.ListBranches(None))
        assert listed == bs.BranchesListed(frozenset({branch}))
        nobody = bs.ListBranches(frozenset({Incarnation("other")}))
        assert await perform_step(runtime, nobody) == bs.BranchesListed(frozenset())
        read = await perform_step(runtime, bs.ReadAllMarkers())
        assert IN_WORDS in read.markers
        rows = await perform_step(
            runtime, bs.ReadMarkerRows(frozenset({DEAD, runtime.incarnation}))
        )
        own = ("lite", runtime.incarnation)
        assert rows == bs.MarkerRowsRead({("lite", DEAD): CommitEpoch(3), own: CommitEpoch(0)})
        refused = await perform_step(runtime, bs.RaiseMarkers(frozenset({DEAD})))
        assert refused == bs.RaiseRefused()
        lost = ("lite", BranchId(DEAD, CommitEpoch(8)))
        finished = await perform_step(runtime, bs.FinishBranches(frozenset({lost}), frozenset()))
        assert finished == bs.BranchesFinished(frozenset({lost}))
        sink.fail = []
