"""Who is let in with TLS, and what damaged or hostile bytes do to a member: nothing."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from harness.certificates import Authority
from harness.consensus_group import put
from harness.consensus_members import members_of, read, until
from onceflow_consensus.errors import GroupUnreachable, InvalidOptions, RequestRefused
from onceflow_consensus.limits import MAX_FRAME_BYTES, MAX_OUTSTANDING_COMMANDS
from onceflow_consensus.server import ServerOptions
from onceflow_consensus.transport.addresses import Address, MemberAddresses
from onceflow_consensus.transport.frames import encode_frame
from onceflow_consensus.transport.requests import Hello, Purpose, encode
from onceflow_consensus.transport.tls import TlsFiles, client_context


@pytest.fixture
def peers(tmp_path):
    return Authority(tmp_path, "peers")


@pytest.fixture
def clients(tmp_path):
    return Authority(tmp_path, "clients")


async def test_members_and_clients_speak_tls_to_each_other(tmp_path, peers, clients):
    files = {"peer_tls": peers.files("member"), "client_tls": clients.files("member")}
    async with members_of(tmp_path, **files) as members:
        await members.start()
        async with members.client(tls=clients.files("user")) as client:
            await client.submit(put(b"k", b"v"))
            assert await read(client, b"k") == b"v"


async def test_who_has_no_certificate_of_the_authority_stays_outside(tmp_path, peers, clients):
    files = {"client_tls": clients.files("member")}
    async with members_of(tmp_path, 1, **files) as members:
        await members.start()
        wrong = peers.files("user", trusts=clients)
        for how in ({}, {"tls": wrong}):
            async with members.client(timeout_s=0.5, **how) as client:
                with pytest.raises(GroupUnreachable):
                    await client.submit(put(b"k", b"v"))
        assert members.running[1].counters.commands_total == 0


async def test_a_member_without_the_peers_certificate_takes_no_part(tmp_path, peers, clients):
    async with members_of(tmp_path, peer_tls=peers.files("member")) as members:
        await members.start(1, 2)
        await members.start(3, peer_tls=clients.files("member", trusts=peers))
        async with members.client(1, 2) as client:
            await client.submit(put(b"k", b"v"))
        stranger = members.running[3]
        await until(lambda: stranger.links.refusal_of(1))
        assert stranger.data.applied_index == 1


def test_tls_files_that_cannot_be_used_are_told(tmp_path):
    missing = TlsFiles(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    with pytest.raises(InvalidOptions, match="cannot be used"):
        client_context(missing)


def test_options_that_cannot_work_are_refused(tmp_path):
    here = MemberAddresses(Address("h", 1), Address("h", 2))
    good = ServerOptions(1, "group", tmp_path, here, {1: here})
    with pytest.raises(InvalidOptions, match="give the group a name"):
        replace(good, cluster_id="")
    with pytest.raises(InvalidOptions, match="is not among the members"):
        replace(good, peer_id=2)
    assert "secret" not in repr(replace(good, client_token="secret"))


@pytest.mark.parametrize("purpose", [Purpose.MESSAGES, Purpose.SNAPSHOT, Purpose.CLIENT])
async def test_garbage_closes_the_connection_and_nothing_else(tmp_path, purpose):
    chance = random.Random(int(purpose))
    async with members_of(tmp_path, 1) as members:
        await members.start()
        member = members.running[1]
        to_clients = purpose is Purpose.CLIENT
        port = (member.client_gate if to_clients else member.peer_gate).port
        hello = Hello(1, purpose, member.options.cluster_id, "raft", 2, 1)
        junk = [
            b"GET / HTTP/1.1\r\n\r\n",
            encode_frame(chance.randbytes(200)),
            (MAX_FRAME_BYTES + 1).to_bytes(4, "little") + bytes(4),
            encode_frame(encode(hello)) + encode_frame(chance.randbytes(200)),
            encode_frame(encode(hello)) + chance.randbytes(64),
        ]
        for each in junk:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(each)
            async with asyncio.timeout(10):
                while await reader.read(1000):
                    pass
            writer.close()
        async with members.client() as client:
            await client.submit(put(b"k", b"v"))
        assert not member.failed.done()


async def test_what_is_too_much_for_one_connection_is_sent_again(tmp_path):
    async with members_of(tmp_path, 1) as members:
        await members.start()
        async with members.client() as client:
            calls = [client.submit(put(b"%d" % n, b"v")) for n in range(MAX_OUTSTANDING_COMMANDS)]
            await asyncio.gather(*calls)
            assert await read(client, b"%d" % (MAX_OUTSTANDING_COMMANDS - 1)) == b"v"


async def test_a_peers_address_is_not_for_clients(tmp_path):
    async with members_of(tmp_path, 1) as members:
        await members.start()
        addresses = members.addresses[1]
        members.addresses[1] = replace(addresses, client=addresses.peer)
        async with members.client() as client:
            with pytest.raises(RequestRefused, match="BAD_REQUEST"):
                await client.submit(put(b"k", b"v"))
