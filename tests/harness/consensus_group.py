"""A replicated group of processes on loopback, to be killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from harness.consensus_member import CLUSTER
from onceflow_consensus.client import ClientOptions, GroupClient
from onceflow_consensus.kv import Get, Put
from onceflow_consensus.transport.addresses import Address

PROGRAM = Path(__file__).with_name("consensus_member.py")
END_S = 20


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def put(key: bytes, value: bytes) -> bytes:
    return msgspec.msgpack.encode(Put(key, value))


def get(key: bytes) -> bytes:
    return msgspec.msgpack.encode(Get(key))


class ProcessGroup:
    """Members numbered from one; ``close`` kills what still runs."""

    def __init__(self, directory: Path, size: int = 3, **given) -> None:
        self.directory = directory
        self.ports = free_ports(2 * size)
        self.given = given
        self.processes: dict[int, subprocess.Popen] = {}

    def start(self, *peer_ids: int, **given) -> None:
        """Start members; return when all of them listen."""
        for peer_id in peer_ids:
            arguments = {
                "peer_id": peer_id,
                "directory": str(self.directory / str(peer_id)),
                "ports": self.ports,
                **self.given,
                **given,
            }
            self.processes[peer_id] = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=Path(__file__).parents[1],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
        for peer_id in peer_ids:
            line = self.processes[peer_id].stdout.readline()
            assert line == b"serving\n", self.processes[peer_id].stderr.read().decode()

    def kill(self, peer_id: int) -> None:
        """Kill a member as a crash does."""
        self.signal(peer_id, signal.SIGKILL)
        self._forget(peer_id)

    def terminate(self, peer_id: int) -> int:
        """Stop a member in order; return its exit code."""
        self.signal(peer_id, signal.SIGTERM)
        return self._forget(peer_id)

    def signal(self, peer_id: int, number: int) -> None:
        self.processes[peer_id].send_signal(number)

    def _forget(self, peer_id: int) -> int:
        process = self.processes.pop(peer_id)
        try:
            return process.wait(END_S)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def close(self) -> None:
        for peer_id in [*self.processes]:
            self.signal(peer_id, signal.SIGCONT)
            self.kill(peer_id)

    def addresses(self, *peer_ids: int) -> list[Address]:
        """Clients' addresses of members, of all founders if none are named."""
        chosen = peer_ids or range(1, len(self.ports) // 2 + 1)
        return [Address("127.0.0.1", self.ports[2 * peer_id - 1]) for peer_id in chosen]

    def client(self, *peer_ids: int, **options) -> GroupClient:
        """A client, to be entered; it knows all founders or those that are named."""
        return GroupClient(ClientOptions(CLUSTER, self.addresses(*peer_ids), **options))
