"""Real members over loopback: what was acknowledged survives kills, pauses and restarts."""

from __future__ import annotations

import asyncio
import json
import signal

import msgspec
import pytest

from harness.consensus_group import ProcessGroup, get, put
from onceflow_consensus.kv import Found
from onceflow_consensus.transport.requests import GetStatus


@pytest.fixture
def group(tmp_path):
    group = ProcessGroup(tmp_path)
    yield group
    group.close()


async def status_of(group, peer_id):
    async with group.client(peer_id) as client:
        return json.loads((await client.ask(GetStatus)).body)


async def leader_of(group):
    """Who leads, once every member has heard of it."""
    for _ in range(200):
        found = {(await status_of(group, peer_id))["leader"] for peer_id in group.processes}
        if len(found) == 1 and None not in found:
            return found.pop()
        await asyncio.sleep(0.02)
    pytest.fail("the members agree on no leader")


async def read(client, key):
    return msgspec.msgpack.decode(await client.query(get(key)), type=Found).value


async def test_acknowledged_writes_survive_a_kill_of_every_member(group):
    group.start(1, 2, 3)
    async with group.client() as client:
        await asyncio.gather(*[client.submit(put(b"%d" % n, b"a%d" % n)) for n in range(50)])
        for peer_id in (1, 2, 3):
            group.kill(peer_id)
        group.start(1, 2, 3)
        values = await asyncio.gather(*[read(client, b"%d" % n) for n in range(50)])
    assert values == [b"a%d" % n for n in range(50)]


async def test_a_group_goes_on_without_its_killed_leader(group):
    group.start(1, 2, 3)
    async with group.client() as client:
        await client.submit(put(b"k", b"before"))
        raft_leader = await leader_of(group)
        group.kill(raft_leader)
        await client.submit(put(b"k", b"after"))
        assert await read(client, b"k") == b"after"
        group.start(raft_leader)
        await client.submit(put(b"k", b"again"))
    for _ in range(100):
        statuses = [await status_of(group, peer_id) for peer_id in (1, 2, 3)]
        if len({status["applied_index"] for status in statuses}) == 1:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail(f"a restarted member does not catch up: {statuses}")


async def test_a_paused_leader_answers_nothing_stale_when_it_wakes(group):
    group.start(1, 2, 3)
    async with group.client() as client:
        await client.submit(put(b"k", b"old"))
        raft_leader = await leader_of(group)
        group.signal(raft_leader, signal.SIGSTOP)
        await client.submit(put(b"k", b"fresh"))
        async with group.client(raft_leader) as behind:
            asked = asyncio.create_task(read(behind, b"k"))
            await asyncio.sleep(0.1)
            group.signal(raft_leader, signal.SIGCONT)
            assert await asked == b"fresh"


async def test_a_member_stops_in_order_and_goes_on(group):
    group.start(1, 2, 3)
    async with group.client() as client:
        await client.submit(put(b"k", b"v"))
        assert [group.terminate(peer_id) for peer_id in (1, 2, 3)] == [0, 0, 0]
        group.start(1, 2, 3)
        assert await read(client, b"k") == b"v"
