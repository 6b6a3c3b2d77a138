"""Groups of real processes that are killed, frozen, cut off and run out of disk, under load.

Whatever happens, what clients saw must be linearizable, what was acknowledged must be there, and
the members must agree in the end.
"""

from __future__ import annotations

import asyncio
import resource

import pytest
import pytest_asyncio

from harness.history import Recorder
from harness.links import LinkState
from harness.meta_group import READY_S, meta_group
from onceflow_consensus.transport.codec import CODECS

pytestmark = pytest.mark.timeout(300)

in_one_loop = pytest.mark.asyncio(loop_scope="module")
SNAPSHOT_LOG_BYTES = 1024 * 1024
ENGINES = [each.value for each in CODECS]


@pytest_asyncio.fixture(params=ENGINES, scope="module", loop_scope="module")
async def shared(request, tmp_path_factory):
    """One group for all tests of an engine: each leaves it whole."""
    options = {"engine": request.param, "snapshot-log-bytes": str(SNAPSHOT_LOG_BYTES)}
    async with meta_group(tmp_path_factory.mktemp("group"), **options) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def group(shared):
    await shared.leader()
    yield shared
    shared.mend()


async def agree(group, recorder, file):
    """Everybody has the same state, and the history of it is linearizable."""
    assert recorder.pinned > 0
    recorder.judge(file)
    await group.wait_equal()


@in_one_loop
async def test_killed_members_lose_nothing_that_was_acknowledged(group, tmp_path):
    async with Recorder(group, seed=1) as recorder:
        await recorder.wait_more(100)
        victim = await group.leader()
        group.kill(victim)
        await recorder.wait_more(100)
        group.start(victim)
        await recorder.wait_more(100)
        for member in group.ids:
            group.kill(member)
        for member in group.ids:
            group.start(member)
        await recorder.wait_more(100)
    await agree(group, recorder, tmp_path / "history.jsonl")


@in_one_loop
async def test_a_leader_that_was_frozen_serves_nothing_stale(group, tmp_path):
    async with Recorder(group, seed=2) as recorder:
        await recorder.wait_more(80)
        frozen = await group.leader()
        group.freeze(frozen)
        await recorder.wait_more(80)
        group.thaw(frozen)
        await recorder.wait_more(80)
    await agree(group, recorder, tmp_path / "history.jsonl")


@in_one_loop
@pytest.mark.parametrize("how", [LinkState.CUT, LinkState.SILENT])
async def test_a_leader_that_is_cut_off_serves_nothing_stale(group, tmp_path, how):
    async with Recorder(group, seed=3) as recorder:
        await recorder.wait_more(80)
        cut_off = await group.leader()
        group.isolate(cut_off, how)
        await recorder.wait_more(80)
        assert await group.leader() != cut_off
        group.heal()
        await recorder.wait_more(80)
    await agree(group, recorder, tmp_path / "history.jsonl")


@in_one_loop
async def test_a_member_without_disk_stops_and_the_others_go_on(group, tmp_path):
    async with Recorder(group, seed=4) as recorder:
        await recorder.wait_more(80)
        victim = await group.leader()
        process = group.processes[victim]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        assert await asyncio.to_thread(process.wait, READY_S) == 1
        assert "Check the disk" in group.log_of(victim).read_text()
        await recorder.wait_more(80)
        group.start(victim)
        await recorder.wait_more(80)
    await agree(group, recorder, tmp_path / "history.jsonl")


@in_one_loop
async def test_a_member_that_was_away_for_long_gets_a_snapshot(group):
    away = next(iter({*group.ids} - {await group.leader()}))
    group.kill(away)
    await group.write_much()
    group.start(away)
    await group.wait_equal()
    metrics = (await group.status(away))["metrics"]
    assert metrics["snapshots_received_total"] >= 1


def test_a_stale_read_in_a_history_is_found(tmp_path):
    recorder = Recorder(None, seed=0)
    recorder.lines = [
        {"process": 1, "type": kind, "op": op, "key": "x", "value": value, "time": time}
        for time, (kind, op, value) in enumerate(
            [
                ("invoke", "write", 1), ("ok", "write", 1), ("invoke", "write", 2),
                ("ok", "write", 2), ("invoke", "read", None), ("ok", "read", 1),
            ]
        )
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="not linearizable"):
        recorder.judge(tmp_path / "history.jsonl")
