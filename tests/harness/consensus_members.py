"""Members of a replicated group in one loop, over loopback sockets, for tests of the server."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from harness.consensus_group import free_ports, get
from harness.consensus_member import CLUSTER, local_addresses
from onceflow_consensus.client import ClientOptions, GroupClient
from onceflow_consensus.kv import Found, KeyValueMachine
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.server import ServerOptions, Start, start_member

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 15.0


class Members:
    """Members by id. ``options`` of all may be changed before they start."""

    def __init__(self, directory: Path, size: int = 3, **given) -> None:
        ports = free_ports(2 * size)
        self.addresses = {
            number + 1: local_addresses(*ports[2 * number : 2 * number + 2])
            for number in range(size)
        }
        self.directory = directory
        self.given = given
        self.running = {}

    def options(self, peer_id: int, **changes) -> ServerOptions:
        options = ServerOptions(
            peer_id,
            CLUSTER,
            self.directory / str(peer_id),
            self.addresses[peer_id],
            dict(self.addresses),
            **self.given,
        )
        return replace(options, **changes)

    async def start(self, *peer_ids: int, **changes) -> None:
        for peer_id in peer_ids or self.addresses:
            options = self.options(peer_id, **changes)
            self.running[peer_id] = await start_member(options, KeyValueMachine())

    async def join(self, peer_id: int, **changes) -> None:
        """Start a member that waits to be added; the others do not know its address."""
        ports = free_ports(2)
        members = {**self.addresses, peer_id: local_addresses(*ports)}
        options = ServerOptions(
            peer_id,
            CLUSTER,
            self.directory / str(peer_id),
            members[peer_id],
            members,
            Start.JOIN,
            **self.given,
        )
        joining = await start_member(replace(options, **changes), KeyValueMachine())
        self.running[peer_id] = joining
        self.joined = members[peer_id]

    async def stop(self, *peer_ids: int) -> None:
        for peer_id in peer_ids or [*self.running]:
            await self.running.pop(peer_id).stop()

    async def leader(self):
        return await until(
            lambda: next(
                (each for each in self.running.values() if each.driver.role is Role.LEADER), None
            )
        )

    def client(self, *peer_ids: int, **options) -> GroupClient:
        chosen = peer_ids or self.addresses
        addresses = [self.addresses[peer_id].client for peer_id in chosen]
        return GroupClient(ClientOptions(CLUSTER, addresses, **options))


@asynccontextmanager
async def members_of(directory: Path, size: int = 3, **given):
    members = Members(directory, size, **given)
    try:
        yield members
    finally:
        await members.stop()


async def until(condition):
    """Wait for a true value of ``condition`` and return it."""
    async with asyncio.timeout(WAIT_S):
        while not (found := condition()):  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.01)
        return found


async def read(client: GroupClient, key: bytes, *how) -> bytes:
    return msgspec.msgpack.decode(await client.query(get(key), *how), type=Found).value


async def status(client: GroupClient, make) -> dict:
    return json.loads((await client.ask(make)).body)
