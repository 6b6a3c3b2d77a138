"""One member of a replicated group as a process: ``consensus_member.py JSON``.

The argument has ``peer_id``, ``directory``, ``ports`` (for each founder in turn that for peers and
that for clients), and optionally ``engine``, ``snapshot_log_bytes``, ``joins`` (a port pair).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from onceflow_consensus.errors import StorageError
from onceflow_consensus.kv import KeyValueMachine
from onceflow_consensus.replica import Engine
from onceflow_consensus.server import ServerOptions, Start, run_process, start_member
from onceflow_consensus.transport.addresses import Address, MemberAddresses

CLUSTER = "tested"


def local_addresses(peer_port: int, client_port: int) -> MemberAddresses:
    return MemberAddresses(Address("127.0.0.1", peer_port), Address("127.0.0.1", client_port))


def options_of(given: dict) -> ServerOptions:
    peer_id, ports = given["peer_id"], given["ports"]
    pairs = zip(ports[::2], ports[1::2], strict=True)
    members = {number: local_addresses(*pair) for number, pair in enumerate(pairs, 1)}
    start = Start.FOUND
    if "joins" in given:
        start = Start.JOIN
        members[peer_id] = local_addresses(*given["joins"])
    return ServerOptions(
        peer_id,
        CLUSTER,
        Path(given["directory"]),
        members[peer_id],
        members,
        start,
        Engine(given.get("engine", "raft")),
        snapshot_log_bytes=given.get("snapshot_log_bytes"),
    )


async def serve(options: ServerOptions) -> None:
    member = await start_member(options, KeyValueMachine())
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, stop.set_result, None)
    print("serving", flush=True)
    await asyncio.wait([stop, member.failed], return_when=asyncio.FIRST_COMPLETED)
    await member.stop()
    if member.failed.done():
        member.failed.result()


def main() -> None:
    try:
        run_process(serve(options_of(json.loads(sys.argv[1]))))
    except StorageError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(4)


if __name__ == "__main__":
    main()
