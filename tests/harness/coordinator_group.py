"""A group of one that keeps the record, in the loop of a test."""

from __future__ import annotations

from contextlib import asynccontextmanager

from onceflow.coordinator.group_machine import GroupMachine
from onceflow_consensus.client import ClientOptions
from onceflow_consensus.server import ServerOptions, start_member
from onceflow_consensus.transport.addresses import Address, MemberAddresses

HOST = "127.0.0.1"
CLUSTER = "recorded"


@asynccontextmanager
async def coordinator_group(folder, client_port=0):
    """Run it; what it yields is its client port, the same for the same folder if it is given."""
    addresses = MemberAddresses(Address(HOST, 0), Address(HOST, client_port))
    options = ServerOptions(1, CLUSTER, folder, addresses, {1: addresses})
    member = await start_member(options, GroupMachine())
    try:
        yield member.client_gate.port
    finally:
        await member.stop()


def reaching(port, **options):
    return ClientOptions(CLUSTER, [Address(HOST, port)], **{"timeout_s": 10.0} | options)
