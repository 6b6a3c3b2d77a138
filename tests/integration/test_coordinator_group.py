"""The record on real groups of three processes, whose members are killed."""

from __future__ import annotations

import asyncio

import pytest

from harness.meta_group import HOST, READY_S, call, meta_group
from onceflow.coordinator.client import CoordinatorClient
from onceflow.coordinator.records import Records, Teller
from onceflow.coordinator.vocabulary import (
    Aborted,
    Committed,
    Decision,
    Outcome,
    Standing,
    Told,
)
from onceflow.ids import BranchId, Incarnation, Partition
from onceflow.observe.metrics import WorkerMetrics
from onceflow_consensus.client import ClientOptions
from onceflow_consensus.transport.addresses import parse_address
from onceflow_consensus.transport.requests import Consistency

pytestmark = pytest.mark.timeout(300)

SCOPE, APP, OWN = "5c09e0000000cafe", "orders", Incarnation("w")
EPOCHS = 60


def reaching(endpoints, timeout_s=READY_S):
    return ClientOptions(
        "onceflow", [parse_address(each) for each in endpoints], timeout_s=timeout_s
    )


def records_of(group):
    return Records(
        reaching(group.endpoints.split(","), timeout_s=5.0),
        Teller(SCOPE, APP, OWN, "w-0"),
        metrics=WorkerMetrics(),
        clock_ms=lambda: 1,
    )


def decision_of(commit_epoch):
    return Decision.COMMIT if commit_epoch % 3 else Decision.ABORT


async def work(records, epochs):
    """Note epochs as a worker does, one after the other."""
    for commit_epoch in epochs:
        branch = BranchId(OWN, commit_epoch)
        records.begun(branch, [Partition("t", 0)], ["pg"])
        records.prepared(branch, [Partition("t", 0)], [("pg", f"gid-{commit_epoch}")], "m")
        if decision_of(commit_epoch) is Decision.COMMIT:
            records.committed(branch, "m")
        else:
            records.aborted(branch)
        records.offsets(commit_epoch, "m", {Partition("t", 0): commit_epoch})
        if commit_epoch != EPOCHS:
            records.ended(branch)
        await asyncio.sleep(0.01)


async def until(holds):
    async with asyncio.timeout(READY_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def state_of(endpoints, consistency):
    async with CoordinatorClient(reaching(endpoints)) as client:
        rows = [
            row.transaction
            for standing in Standing
            for row in await client.transactions(SCOPE, standing, consistency)
        ]
        return rows, await client.offsets(SCOPE, consistency), await client.alarms(consistency)


async def test_records_flow_on_while_the_leader_is_killed(tmp_path):
    async with meta_group(tmp_path, **{"snapshot-log-bytes": "8000"}) as group:
        dead = await group.leader()
        records = records_of(group)
        records.start()
        await until(lambda: records.is_connected)
        working = asyncio.create_task(work(records, range(1, EPOCHS + 1)))
        await until(lambda: records._backlog._next > EPOCHS)
        group.kill(dead)
        group.start(dead)
        await working
        await until(lambda: records.is_connected and not records.waiting)
        assert (records.dropped, records.refused) == (0, 0)
        rows, _offsets, _ = await state_of(group.endpoints.split(","), Consistency.LINEARIZABLE)
        assert {row.commit_epoch: row.decision for row in rows} == {
            each: decision_of(each) for each in range(1, EPOCHS + 1)
        }
        await until(lambda: not records._backlog.has_offsets)
        await group.wait_equal()
        views = [
            await state_of([f"{HOST}:{port}"], Consistency.STALE)
            for port in group.client_ports.values()
        ]
        assert views[0] == views[1] == views[2], group.logs()
        assert [note.offset for note in views[0][1]] == [EPOCHS]

        # INV-META-1, across a change of the leader and a restart of everybody.
        for member in [*group.processes]:
            group.kill(member)
        for member in group.ids:
            group.start(member)
        async with CoordinatorClient(reaching(group.endpoints.split(","))) as client:
            opposite = [
                Aborted(OWN, each, "v")
                if decision_of(each) is Decision.COMMIT
                else Committed(OWN, each, "", "v")
                for each in (1, 3, EPOCHS)
            ]
            outcomes = await client.tell(Told(SCOPE, APP, 1, opposite))
            assert outcomes == [Outcome.CONTRADICTS] * 3
            assert (await client.alarms())[1] == 3
        assert (await call("kv", "put", "a", "b", f"--endpoints={group.endpoints}"))[0] == 0
        await records.stop(READY_S)
        assert not records.waiting


async def test_without_a_majority_records_wait_and_work_goes_on(tmp_path):
    async with meta_group(tmp_path, engine="paxos") as group:
        await group.leader()
        records = records_of(group)
        records._options = reaching(group.endpoints.split(","), timeout_s=0.5)
        records.start()
        await until(lambda: records.is_connected)
        killed = [1, 2]
        for member in killed:
            group.kill(member)
        await work(records, range(1, 21))
        await until(lambda: not records.is_connected)
        assert records.waiting
        for member in killed:
            group.start(member)
        await until(lambda: records.is_connected and not records.waiting)
        rows, _, _ = await state_of(group.endpoints.split(","), Consistency.LINEARIZABLE)
        assert len(rows) == 20
        await records.stop(READY_S)
