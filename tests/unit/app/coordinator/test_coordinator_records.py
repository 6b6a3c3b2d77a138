"""A worker's records and the client, against a group of one in the same loop."""

from __future__ import annotations

import asyncio

import pytest

from harness.coordinator_group import coordinator_group, reaching
from onceflow.coordinator import app_record
from onceflow.coordinator import records as records_module
from onceflow.coordinator.backlog import Backlog
from onceflow.coordinator.client import CoordinatorClient, RecordDeclines
from onceflow.coordinator.reaching import client_options
from onceflow.coordinator.records import Records, Teller
from onceflow.coordinator.vocabulary import (
    Aborted,
    Committed,
    Decision,
    Finding,
    Outcome,
    Prepared,
    Standing,
    Told,
    TxnState,
)
from onceflow.errors import ConfigError, OnceflowError, Unreachable
from onceflow.ids import BranchId, Partition
from onceflow.observe.metrics import WorkerMetrics
from onceflow.settings import Settings
from onceflow_consensus.kv import KeyValueMachine
from onceflow_consensus.server import ServerOptions, start_member
from onceflow_consensus.transport.addresses import Address, MemberAddresses
from onceflow_consensus.transport.requests import Consistency

SCOPE, APP = "5c09e0000000cafe", "orders"
PARTITIONS = [Partition("b", 1), Partition("a", 2), Partition("a", 0)]
PATIENCE_S = 20.0


def records_of(port, incarnation="w", **options):
    return Records(
        reaching(port, **options),
        Teller(SCOPE, APP, incarnation, "w-0"),
        metrics=WorkerMetrics(),
        clock_ms=lambda: 77,
    )


def shown(records):
    """What the metrics say: connected, waiting, lost."""
    lines = records._metrics.exposition().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("onceflow_coordinator"))
    names = (
        "onceflow_coordinator_connected",
        "onceflow_coordinator_waiting",
        "onceflow_coordinator_lost_total",
    )
    return tuple(float(values[name]) for name in names)


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_what_a_worker_notes_is_found_in_the_record(tmp_path):
    async with coordinator_group(tmp_path) as port:
        records = records_of(port)
        first, second, lost = BranchId("w", 7), BranchId("w", 8), BranchId("v", 3)
        records.begun(first, PARTITIONS, ["pg"])
        records.prepared(first, PARTITIONS, [("pg", "gid")], "m7")
        records.committed(first, "m7")
        records.ended(first)
        records.begun(second, PARTITIONS, ["pg"])
        records.aborted(lost)
        records.heuristic(lost, "pg", Finding.BRANCH_MISSING, "x" * 9_999)
        records.offsets(8, "m8", {Partition("a", 0): 5})
        records.start()
        async with CoordinatorClient(reaching(port)) as client:
            await until(lambda: records.is_connected and not records.waiting)
            (row,) = await client.transactions(APP, Standing.ENDED)
            assert (row.scope, row.app, row.transaction.decision) == (SCOPE, APP, Decision.COMMIT)
            assert row.transaction.partitions == [("a", [0, 2]), ("b", [1])]
            assert row.transaction.begun_unix_ms == 77
            rows = await client.transactions("", Standing.OPEN, Consistency.SESSION)
            assert [each.transaction.state for each in rows] == [TxnState.BEGUN, TxnState.ABORTED]
            shown = await client.transaction(SCOPE, "v", 3, Consistency.STALE)
            assert shown.rows[0].transaction.heuristics[0].participant == "pg"
            assert [each.lease.worker for each in (await client.workers(SCOPE)).rows] == ["w-0"]
            await until(lambda: not records._backlog.has_offsets)
            (offset,) = await client.offsets(SCOPE)
            assert (offset.offset, offset.marker) == (5, "m8")
            await records.stop(PATIENCE_S)
            assert (await client.workers(SCOPE)).rows == []
    assert (records.dropped, records.refused) == (0, 0)


async def test_of_an_owner_that_is_settled_nothing_stays_in_doubt(tmp_path, monkeypatch):
    monkeypatch.setattr(app_record, "COORDINATOR_ENDED_KEPT", 3)
    async with coordinator_group(tmp_path) as port:
        records = records_of(port)
        for commit_epoch in (6, 7, 8):
            records.begun(BranchId("v", commit_epoch), PARTITIONS, ["pg"])
        records.prepared(BranchId("v", 7), PARTITIONS, [("pg", "gid")], "m7")
        records.begun(BranchId("u", 9), PARTITIONS, ["pg"])
        records.settled(BranchId("v", 7))
        records.start()
        async with CoordinatorClient(reaching(port)) as client:
            await until(lambda: records.is_connected and not records.waiting)
            [row] = await client.transactions(APP, Standing.OPEN)
            assert row.transaction.incarnation == "u", "of others nothing is known"
            ended = await client.transactions(APP, Standing.ENDED)
            decisions = {each.transaction.commit_epoch: each.transaction.decision for each in ended}
            assert decisions == {6: Decision.NONE, 7: Decision.COMMIT, 8: Decision.NONE}
            for commit_epoch in (1, 2, 3):
                records.committed(BranchId("w", commit_epoch))
            records.settled(BranchId("w", 3))
            records.settled(BranchId("v", 7))
            records.settled(BranchId("nobody", 0))
            await until(lambda: not records.waiting)
            [row] = await client.transactions(APP, Standing.OPEN)
            assert row.transaction.incarnation == "u", "what is forgotten is not opened again"
        await records.stop(PATIENCE_S)
    assert (records.dropped, records.refused) == (0, 0)


async def test_notes_wait_for_the_group_and_are_told_when_it_is_there(tmp_path):
    async with coordinator_group(tmp_path) as port:
        pass
    records = records_of(port, timeout_s=0.2)
    records.committed(BranchId("w", 1))
    records.start()
    await until(lambda: shown(records) == (0, 1, 0))
    async with coordinator_group(tmp_path, port) as port:
        await until(lambda: records.is_connected and not records.waiting)
        receipt = records.prepared(BranchId("w", 2), PARTITIONS, [("pg", "gid")], "m2")
        await records.recorded(receipt, PATIENCE_S)
        await until(lambda: shown(records) == (1, 0, 0))
        async with CoordinatorClient(reaching(port)) as client:
            assert len(await client.transactions(APP, Standing.OPEN)) == 2
    # The group is gone: nothing is raised, and who must wait is told so.
    records.ended(BranchId("w", 2))
    receipt = records.prepared(BranchId("w", 3), PARTITIONS, [("pg", "gid")], "m3")
    with pytest.raises(Unreachable, match="Nothing is decided"):
        await records.recorded(receipt, 0.1)
    await records.stop(0.1)
    assert records.waiting == 2


async def test_a_process_that_ends_at_once_waits_for_what_it_noted_last(tmp_path):
    async with coordinator_group(tmp_path) as port:
        records = records_of(port)
        await records.flush(0.01)
        records.heuristic(BranchId("w", 1), "pg", Finding.ROW_BEHIND, "set back")
        records.start()
        await records.flush(PATIENCE_S)
        async with CoordinatorClient(reaching(port)) as client:
            assert len(await client.transactions(APP, Standing.HEURISTIC)) == 1
        await records.stop(PATIENCE_S)
    records.ended(BranchId("w", 2))
    await records.flush(0.01)
    assert records.waiting == 1


async def test_the_opposite_of_a_recorded_decision_is_refused_and_counted(tmp_path):
    """INV-META-1, as a worker meets it."""
    async with coordinator_group(tmp_path) as port, CoordinatorClient(reaching(port)) as client:
        told = Told(SCOPE, APP, 1, [Aborted("w", 1, "v")])
        assert await client.tell(told) == [Outcome.APPLIED]
        records = records_of(port)
        records.committed(BranchId("w", 1))
        records.start()
        await until(lambda: records.is_connected and not records.waiting)
        assert (records.refused, shown(records)) == (1, (1, 0, 1))
        alarms, total = await client.alarms()
        assert ([each.by for each in alarms], total) == (["w"], 1)
        await records.stop(PATIENCE_S)


async def test_one_change_that_is_declined_does_not_keep_the_others(tmp_path):
    async with coordinator_group(tmp_path) as port:
        records = records_of(port)
        bad = records.prepared(BranchId("w", 1), [Partition("", 0)], [("", "")], "m1")
        good = records.prepared(BranchId("w", 2), PARTITIONS, [("pg", "gid")], "m2")
        records.offsets(2, "m2", {Partition("", 0): 5})
        records.start()
        await records.recorded(good, PATIENCE_S)
        with pytest.raises(Unreachable):
            await records.recorded(bad, PATIENCE_S)
        await until(lambda: records.refused == 2)
        await records.stop(PATIENCE_S)


async def test_who_waits_for_a_change_that_was_given_up_is_told(monkeypatch):
    monkeypatch.setattr(records_module, "Backlog", lambda: Backlog(room=1))
    records = records_of(1)
    receipt = records.prepared(BranchId("w", 1), PARTITIONS, [], "m")
    records.committed(BranchId("w", 2))
    with pytest.raises(Unreachable):
        await records.recorded(receipt, PATIENCE_S)
    assert (records.waiting, records.dropped, shown(records)[2]) == (1, 1, 1)
    await records.stop(1)


async def test_calls_say_what_is_wrong_with_the_group(tmp_path):
    async with coordinator_group(tmp_path) as port:
        wrong = reaching(port, token="")
        other = type(wrong)("another", wrong.addresses, timeout_s=5)
        async with CoordinatorClient(other) as client:
            with pytest.raises(ConfigError, match="WRONG_CLUSTER"):
                await client.workers("")
        async with CoordinatorClient(reaching(port)) as client:
            with pytest.raises(RecordDeclines, match="declines"):
                await client.tell(Told("", APP, 1, []))
            await client.observe(SCOPE, APP)
            assert (await client.workers("")).log_time_ms > 0
    async with CoordinatorClient(reaching(port, timeout_s=0.1)) as client:
        with pytest.raises(Unreachable):
            await client.tell(Told(SCOPE, APP, 1, [Committed("w", 1, "", "w")]))
        with pytest.raises(Unreachable):
            await client.workers("")
    with pytest.raises(OnceflowError, match="not open"):
        await client.workers("")


async def test_a_group_that_keeps_keys_alone_is_told_apart(tmp_path):
    addresses = MemberAddresses(Address("127.0.0.1", 0), Address("127.0.0.1", 0))
    options = ServerOptions(1, "recorded", tmp_path, addresses, {1: addresses})
    member = await start_member(options, KeyValueMachine())
    try:
        async with CoordinatorClient(reaching(member.client_gate.port)) as client:
            with pytest.raises(OnceflowError, match="upgrade them first"):
                await client.tell(Told(SCOPE, APP, 1, [Prepared("w", 1, [], [], "")]))
            with pytest.raises(OnceflowError, match="upgrade them first"):
                await client.workers("")
        # What is noted waits until the members are upgraded; it is not thrown away.
        records = records_of(member.client_gate.port)
        records.committed(BranchId("w", 1))
        records.start()
        await until(lambda: records._was_failing)
        assert shown(records) == (0, 1, 0)
        await records.stop(0.1)
    finally:
        await member.stop()


def test_the_group_is_reached_as_the_settings_say(tmp_path):
    assert client_options(Settings.load({}, {}), 1.0) is None
    token = tmp_path / "token"
    token.write_text("secret\n")
    given = {"coordinator": "a:1, b:2", "coordinator_cluster": "blue"}
    files = {"coordinator_tls": "folder", "coordinator_token_file": str(token)}
    options = client_options(Settings.load(given | files, {}), 1.5)
    assert [str(each) for each in options.addresses] == ["a:1", "b:2"]
    assert (options.cluster_id, options.timeout_s, options.token) == ("blue", 1.5, "secret")
    assert str(options.tls.certificate) == "folder/tls.crt"
    with pytest.raises(ConfigError, match="cannot be read"):
        client_options(Settings.load(given | {"coordinator_token_file": "missing"}, {}), 1.0)
