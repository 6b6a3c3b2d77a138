"""Members in one loop: reads, sessions, refusals, snapshots, membership, transfer, stopping."""

from __future__ import annotations

import asyncio
import threading

import pytest

from harness.consensus_group import put
from harness.consensus_members import WAIT_S, members_of, read, status, until
from onceflow_consensus.errors import GroupUnreachable, RequestRefused, StorageFailed
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.replica import Engine
from onceflow_consensus.server.options import Timing
from onceflow_consensus.transport.requests import ChangeMember, Consistency, GetStatus, Transfer


@pytest.fixture(params=Engine)
def engine(request):
    return request.param


async def test_every_consistency_reads_what_was_written(tmp_path, engine):
    async with members_of(tmp_path, engine=engine) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            assert await read(client, b"k") == b"v"
            assert await read(client, b"k", Consistency.SESSION) == b"v"
            assert await read(client, b"k", Consistency.STALE, 1) == b"v"


async def test_a_follower_reads_as_the_leader_does(tmp_path, engine):
    async with members_of(tmp_path, engine=engine) as members:
        await members.start()
        raft_leader = (await members.leader()).options.peer_id
        follower = next(each for each in members.running if each != raft_leader)
        async with members.client() as client, members.client(follower) as other:
            for number in range(20):
                await client.submit(put(b"k", b"%d" % number))
                assert await read(other, b"k") == b"%d" % number
            assert await read(other, b"k", Consistency.STALE, 1000) == b"19"
            assert members.running[follower].counters.queries_total == 21


async def test_a_bounded_read_is_refused_without_a_leader(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
        await members.stop(1, 2)
        async with members.client(3, timeout_s=1.2) as client:
            await asyncio.sleep(0.3)
            assert await read(client, b"k", Consistency.STALE) in (b"v", b"")
            with pytest.raises(GroupUnreachable):
                await read(client, b"k", Consistency.STALE, 100)


async def test_many_commands_become_few_entries(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            leading = await members.leader()
            before = leading.counters.entries_applied_total
            await asyncio.gather(*[client.submit(put(b"%d" % n, b"v")) for n in range(1000)])
            assert leading.counters.entries_applied_total - before <= 20
            assert leading.counters.commands_total >= 1001


async def test_a_command_that_is_too_large_is_refused_for_good(tmp_path):
    async with members_of(tmp_path, 1) as members:
        await members.start()
        async with members.client() as client:
            with pytest.raises(RequestRefused, match="at most 1048576 bytes"):
                await client.submit(bytes(1024 * 1024 + 1))
            await client.submit(put(b"k", b"v"))


async def test_wrong_tokens_and_groups_are_refused(tmp_path):
    async with members_of(tmp_path, 1, client_token="right") as members:
        await members.start()
        async with members.client(token="wrong") as client:
            with pytest.raises(RequestRefused, match="NOT_AUTHENTICATED"):
                await client.submit(put(b"k", b"v"))
        async with members.client(token="right") as client:
            await client.submit(put(b"k", b"v"))


async def test_a_member_of_another_group_is_kept_out(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start(1, 2)
        await members.start(3, cluster_id="another")
        stranger = members.running[3]
        await until(lambda: "another group" in stranger.links.refusal_of(1))
        assert members.running[1].counters.connections_refused_total > 0
        await members.leader()


async def test_a_log_is_compacted_and_a_laggard_gets_a_snapshot(tmp_path, engine):
    async with members_of(tmp_path, snapshot_log_bytes=20_000, engine=engine) as members:
        await members.start(1, 2)
        async with members.client(1, 2) as client:
            for number in range(300):
                await client.submit(put(b"%d" % number, bytes(300)))
            leading = await members.leader()
            await until(lambda: leading.counters.snapshots_taken_total > 2)
            # The tail is kept for those that are a little behind, so the third is further behind.
            assert leading.data.log.first_index > 2
            await members.start(3)
            behind = members.running[3]
            await until(lambda: behind.data.applied_index == leading.data.applied_index)
            assert behind.counters.snapshots_received_total > 0
            assert leading.counters.snapshots_sent_total > 0
            assert len([*(tmp_path / "1" / "state").iterdir()]) <= 2
            await members.stop(3)
            await members.start(3)
            assert members.running[3].data.applied_index > 2


async def test_a_member_joins_as_a_learner_and_is_promoted(tmp_path, engine):
    async with members_of(tmp_path, engine=engine) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            await members.join(4)
            texts = str(members.joined.peer), str(members.joined.client)
            await client.ask(lambda number: ChangeMember(number, "l", 4, *texts))
            joined = members.running[4]
            leading = await members.leader()
            await until(lambda: joined.data.applied_index == leading.data.applied_index)
            await client.ask(lambda number: ChangeMember(number, "v", 4))
            found = await status(client, GetStatus)
            assert [(each["id"], each["role"]) for each in found["members"]] == [
                (1, "voter"), (2, "voter"), (3, "voter"), (4, "voter"),
            ]  # fmt: skip
            await until(lambda: 4 in leading.data.book and 4 in members.running[1].data.book)
            assert found["members"][3]["client_address"] == texts[1]


async def test_a_removed_id_is_not_given_out_again(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            leading = await members.leader()
            gone = next(each for each in (1, 2, 3) if each != leading.options.peer_id)
            await client.ask(lambda number: ChangeMember(number, "r", gone))
            await members.stop(gone)
            with pytest.raises(RequestRefused, match="give the new one another id"):
                await client.ask(lambda number: ChangeMember(number, "v", gone, "h:1", "h:2"))
            with pytest.raises(RequestRefused, match="is no address"):
                await client.ask(lambda number: ChangeMember(number, "v", 9, "h:1"))
            with pytest.raises(RequestRefused, match="is no operation"):
                await client.ask(lambda number: ChangeMember(number, "x", 9, "h:1", "h:2"))
            await client.submit(put(b"k", b"after"))


async def test_leadership_is_handed_over(tmp_path, engine):
    async with members_of(tmp_path, engine=engine) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            leading = await members.leader()
            to = next(each for each in (1, 2, 3) if each != leading.options.peer_id)
            await client.ask(lambda number: Transfer(number, to))
            assert members.running[to].driver.role is Role.LEADER
            with pytest.raises(RequestRefused, match="no voter"):
                await client.ask(lambda number: Transfer(number, 9))
            await client.submit(put(b"k", b"after"))


async def test_a_leader_that_stops_in_order_leaves_another_one_behind(tmp_path):
    # Nobody notices a missing leader by itself for ten seconds.
    async with members_of(tmp_path, timing=Timing(election_ticks=400)) as members:
        await members.start()
        first = members.running[1].driver
        await until(lambda: len(members.running[1].links.connected) == 2)
        first.replica.campaign()
        first.wake()
        await until(lambda: first.role is Role.LEADER)
        async with members.client(2, 3) as client:
            await client.submit(put(b"k", b"v"))
            await members.stop(1)
            async with asyncio.timeout(8):
                assert await read(client, b"k") == b"v"
        assert (await members.leader()).counters.elections_won_total == 1


async def test_a_failed_disk_stops_the_member_and_the_others_go_on(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            leading = await members.leader()
            failed = leading.failed

            def fail(name):
                raise StorageFailed(f"cannot sync {name}: as the test wants")

            leading.data.disk.sync = fail
            await client.submit(put(b"k", b"after"))
            with pytest.raises(StorageFailed, match="as the test wants"):
                await failed
            assert await read(client, b"k") == b"after"


async def test_a_stalled_disk_makes_another_member_lead(tmp_path):
    async with members_of(tmp_path) as members:
        await members.start()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
            leading = await members.leader()
            sync = leading.data.disk.sync
            held = asyncio.Event()
            loop = asyncio.get_running_loop()

            def stall(name):
                # In the loop, which all members share here, nothing may stand still.
                if threading.current_thread() is not threading.main_thread():
                    asyncio.run_coroutine_threadsafe(held.wait(), loop).result(WAIT_S)
                sync(name)

            leading.data.disk.sync = stall
            # Large enough that the writer's thread writes it.
            await client.submit(put(b"k", bytes(9000)))
            assert leading.counters.disk_stalls_total == 1
            held.set()
            await until(lambda: leading.driver.role is Role.FOLLOWER)
            assert await read(client, b"k") == bytes(9000)
