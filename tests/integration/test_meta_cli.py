"""``onceflow meta`` against real members: what it prints, changes, refuses, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from harness.meta_group import HOST, READY_S, call, free_ports, meta_group
from onceflow_consensus.testing.trace_judge import main as judge_traces
from onceflow_consensus.transport.codec import CODECS

pytestmark = pytest.mark.timeout(300)

CERTIFICATES = Path(__file__).parents[1] / "harness" / "certificates"
STATUS_FIELDS = {"id", "role", "term", "leader", "commit_index", "applied_index", "members"}


@pytest.fixture
async def alone(tmp_path):
    """A group of one, and a way to ask it."""
    async with meta_group(tmp_path, size=1) as group:
        await group.leader()
        yield lambda *arguments: call(*arguments, f"--endpoints={group.endpoints}")


async def test_keys_are_put_compared_deleted_and_listed(alone):
    assert await alone("kv", "put", "a/x", "one") == (0, "version 1\n", "")
    assert await alone("kv", "get", "a/x") == (0, "one\n", "")
    assert await alone("kv", "cas", "a/x", "one", "two") == (0, "version 2\n", "")
    code, out, err = await alone("kv", "cas", "a/x", "one", "three")
    assert (code, out) == (1, "")
    assert "version 2" in err
    assert (await alone("kv", "cas", "a/y", "0", "new", "--by=version"))[0] == 0
    assert (await alone("kv", "cas", "a/y", "0", "new", "--by=version"))[0] == 1
    assert (await alone("kv", "get", "missing"))[0] == 1
    assert (await alone("kv", "delete", "missing"))[0] == 1
    code, out, _ = await alone("kv", "scan", "a/", "-o", "json")
    page = json.loads(out)
    assert page["keys"] == [
        {"key": "a/x", "value": "two", "version": 2},
        {"key": "a/y", "value": "new", "version": 3},
    ]
    assert await alone("kv", "scan", "a/", "--limit=1") == (
        0, "a/x\t2\ttwo\n", "there are more keys: --after 'a/x'\n",
    )  # fmt: skip
    assert (await alone("kv", "scan", "a/", "--after=a/x"))[1] == "a/y\t3\tnew\n"
    assert (await alone("kv", "delete", "a/x"))[0] == 0
    assert (await alone("kv", "put", "k", "v" * 600_000))[0] == 2


async def test_reads_name_their_consistency_and_machines_get_the_index(alone):
    _, out, _ = await alone("kv", "put", "k", "v", "-o", "json")
    written = json.loads(out)
    assert written.keys() == {"key", "done", "version", "index"}
    for options in (
        ("--consistency=linearizable",),
        ("--consistency=session", f"--min-index={written['index']}"),
        ("--consistency=stale",),
        ("--consistency=stale", "--max-age-ms=200"),
    ):
        code, out, _ = await alone("kv", "get", "k", *options, "-o", "json")
        found = json.loads(out)
        assert (code, found["value"], found["version"]) == (0, "v", 1)
        assert found["index"] >= written["index"]
    code, out, _ = await alone("kv", "get", "missing", "-o", "json")
    assert (code, json.loads(out)["value"]) == (1, None)
    code, _, err = await alone(
        "kv", "get", "k", "--consistency=session", "--min-index=1000000", "--timeout=1"
    )
    assert code == 3
    assert "more than half of the members" in err


async def test_status_has_the_fields_of_its_contract(alone):
    code, out, _ = await alone("status", "-o", "json")
    status = json.loads(out)
    assert code == 0
    assert status.keys() >= STATUS_FIELDS
    assert (status["id"], status["role"], status["leader"]) == (1, "leader", 1)
    assert status["applied_index"] == status["commit_index"] > 0
    assert [member["id"] for member in status["members"]] == [1]
    code, out, _ = await alone("members", "-o", "json")
    assert json.loads(out)[0]["role"] == "voter"
    assert "leader" in (await alone("status"))[1]
    assert HOST in (await alone("members"))[1]


async def test_who_does_not_answer_is_exit_code_3_and_who_refuses_is_2(tmp_path):
    (closed,) = free_ports(1)
    code, out, err = await call("status", f"--endpoints={HOST}:{closed}", "--timeout=0.3")
    assert (code, out) == (3, "")
    assert f"{HOST}:{closed}" in err
    token = tmp_path / "token"
    token.write_text("open sesame")
    async with meta_group(tmp_path, size=1, **{"token-file": str(token)}) as group:
        at = f"--endpoints={group.endpoints}"
        code, _, err = await call("kv", "put", "a", "b", at, f"--token-file={token}")
        assert code == 0
        code, _, err = await call("status", at)
        assert code == 2
        assert "--token-file" in err
        code, _, err = await call("status", at, "--cluster=other", f"--token-file={token}")
        assert code == 2
        assert "--cluster" in err


async def test_members_and_clients_speak_tls_and_strangers_do_not(tmp_path):
    ours, strangers = CERTIFICATES / "ours", CERTIFICATES / "strangers"
    options = {"peer-tls": str(ours), "client-tls": str(ours)}
    async with meta_group(tmp_path, **options) as group:
        at = f"--endpoints={group.endpoints}"
        assert (await call("kv", "put", "a", "b", at, f"--tls={ours}"))[0] == 0
        assert await call("kv", "get", "a", at, f"--tls={ours}") == (0, "b\n", "")
        for other in ((), (f"--tls={strangers}",)):
            assert (await call("kv", "get", "a", at, *other, "--timeout=0.5"))[0] == 3


@pytest.mark.parametrize("engine", [each.value for each in CODECS])
async def test_a_member_is_replaced_and_leadership_handed_over(tmp_path, engine):
    async with meta_group(tmp_path, size=4, founders=3, engine=engine) as group:
        await group.leader()
        at = f"--endpoints={group.endpoints}"
        await call("kv", "put", "a", "b", at)
        group.start(4, "--join")
        fourth = f"4={group.addresses_of(4)}"
        code, out, err = await call("members", "add", fourth, at)
        assert (code, err) == (0, "")
        await group.wait_equal()
        assert (await call("members", "promote", "4", at))[0] == 0
        target = 1 if await group.leader() != 1 else 3
        assert await call("transfer", str(target), at) == (0, f"member {target} leads\n", "")
        code, _, err = await call("transfer", "9", at)
        assert code == 2
        assert "no voter" in err
        assert (await call("members", "remove", "2", at))[0] == 0
        # The first member that answers may be one that has not heard of it yet.
        for _ in range(100):
            _, out, _ = await call("members", "-o", "json", at)
            roles = {each["id"]: each["role"] for each in json.loads(out)}
            if 2 not in roles:
                break
            await asyncio.sleep(0.05)
        assert roles == {1: "voter", 3: "voter", 4: "voter"}
        group.kill(2)
        assert await call("kv", "get", "a", at) == (0, "b\n", "")
        code, _, err = await call("members", "add", fourth.replace("4=", "2=", 1), at)
        assert code == 2
        assert "another id" in err


@pytest.mark.parametrize("engine", [each.value for each in CODECS])
async def test_a_group_is_restored_from_a_backup_as_another_group(tmp_path, engine):
    file = tmp_path / "meta.bin"
    async with meta_group(tmp_path / "old", engine=engine) as group:
        at = f"--endpoints={group.endpoints}"
        for key in ("a", "b"):
            assert (await call("kv", "put", key, key, at))[0] == 0
        code, out, _ = await call("backup", str(file), at, "-o", "json")
        taken = json.loads(out)
        assert (code, taken["bytes"]) == (0, file.stat().st_size)
        assert (await call("backup", str(file), at))[0] == 2
        group.kill(1)
        group.kill(2)
        assert (await call("backup", str(tmp_path / "no.bin"), at, "--timeout=0.5"))[0] == 3
        assert (await call("backup", "--stale", str(tmp_path / "stale.bin"), at))[0] == 0
        assert not (tmp_path / "no.bin").exists()

    async with meta_group(tmp_path / "new", cluster="new", engine=engine, running=0) as group:
        for member in group.ids:
            code, out, err = await call("restore", str(file), *group.options_of(member))
            assert (code, err) == (0, "")
            assert f"index {taken['index']}" in out
            group.start(member)
        at = (f"--endpoints={group.endpoints}", "--cluster=new")
        assert await call("kv", "get", "b", *at) == (0, "b\n", "")
        assert await call("kv", "put", "c", "c", *at) == (0, "version 3\n", "")
        code, _, err = await call("restore", str(file), *group.options_of(1))
        assert code == 2
        assert "not empty" in err


async def test_a_damaged_backup_is_exit_code_4_and_makes_nothing(tmp_path):
    async with meta_group(tmp_path / "old", size=1) as group:
        at = (f"--endpoints={group.endpoints}",)
        assert (await call("kv", "put", "a", "b", *at))[0] == 0
        assert (await call("backup", str(tmp_path / "good.bin"), *at))[0] == 0
    content = bytearray((tmp_path / "good.bin").read_bytes())
    content[len(content) // 2] ^= 1
    for name, damaged in (("bad.bin", content), ("cut.bin", content[:-3])):
        (tmp_path / name).write_bytes(damaged)
        target = tmp_path / f"{name}.restored"
        code, _, err = await call("restore", str(tmp_path / name), f"--dir={target}")
        assert code == 4
        assert "cannot be used" in err
        assert not target.exists()


async def test_a_damaged_log_and_a_directory_in_use_are_refused(tmp_path):
    async with meta_group(tmp_path, size=1) as group:
        at = (f"--endpoints={group.endpoints}",)
        for number in range(5):
            assert (await call("kv", "put", "a", str(number), *at))[0] == 0
        again = group.start(1)
        assert await asyncio.to_thread(again.wait, READY_S) == 2
        assert "another process" in group.log_of(1).read_text()
    (segment,) = (group.directory_of(1) / "log").glob("*.seg*")
    content = bytearray(segment.read_bytes())
    end = len(bytes(content).rstrip(b"\0"))
    content[end // 2] ^= 1
    segment.write_bytes(content)
    broken = group.start(1)
    assert await asyncio.to_thread(broken.wait, READY_S) == 4
    assert "learner" in group.log_of(1).read_text()


async def test_a_member_serves_its_measurements_and_its_health(tmp_path):
    (port,) = free_ports(1)
    address = f"{HOST}:{port}"
    async with meta_group(tmp_path, size=1, http=address) as group:
        await group.leader()
        await call("kv", "put", "a", "b", f"--endpoints={group.endpoints}")
        code, metrics = await fetch(f"http://{address}/metrics")
        assert code == 200
        for _ in range(50):
            _, metrics = await fetch(f"http://{address}/metrics")
            if "onceflow_meta_commands_total 3.0" in metrics:
                break
            await asyncio.sleep(0.05)
        assert "onceflow_meta_is_leader 1.0" in metrics
        assert "onceflow_meta_commands_total 3.0" in metrics
        assert "onceflow_meta_open_transactions 0.0" in metrics
        code, verdict = await fetch(f"http://{address}/health/ready")
        assert (code, json.loads(verdict)["leader"]) == (200, 1)
        assert (await fetch(f"http://{address}/health/live"))[0] == 200


async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_what_members_trace_is_judged_to_be_possible(tmp_path, capsys):
    async with meta_group(tmp_path, running=0) as group:
        traces = {member: tmp_path / f"trace-{member}.jsonl" for member in group.ids}
        for member, trace in traces.items():
            group.start(member, f"--trace={trace}")
        at = f"--endpoints={group.endpoints}"
        assert (await call("kv", "put", "a", "b", at))[0] == 0
        victim = await group.leader()
        group.kill(victim)
        assert (await call("kv", "put", "a", "c", at))[0] == 0
        group.start(victim, f"--trace={traces[victim]}")
        await group.wait_equal()
    names = {json.loads(line)["event"]["name"] for line in traces[victim].read_text().splitlines()}
    assert names >= {"InitState", "BecomeLeader", "BecomeFollower", "Commit"}
    assert await asyncio.to_thread(judge_traces, [str(trace) for trace in traces.values()]) == 0
    assert (await call("serve", f"--dir={tmp_path}/d", f"--trace={tmp_path}/no/file"))[0] == 2


async def test_a_member_ends_in_order_when_it_is_told_to(tmp_path):
    async with meta_group(tmp_path, size=1) as group:
        await group.leader()
        process = group.processes[1]
        process.terminate()
        assert await asyncio.to_thread(process.wait, READY_S) == 0
        group.start(1)
        await group.leader()
