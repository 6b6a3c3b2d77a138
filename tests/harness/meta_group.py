"""A group of ``onceflow meta serve`` processes on a network that a test can cut.

Each member reaches each other one over a link of its own (``links``), so that any direction can
fail. Clients reach members directly. Everything a member says is kept in a file, which is shown
when a test fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from harness.links import Link, LinkState
from onceflow.cli.meta_asking import REQUEST_ID, Asker
from onceflow.cli.meta_options import Connection
from onceflow.errors import Unreachable
from onceflow_consensus.kv import Scan, encode_query
from onceflow_consensus.transport.requests import Consistency, Done, GetStatus, Read, ReadAnswered

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from onceflow.cli import main; main()", "meta"]
HOST = "127.0.0.1"
READY_S = 30.0


def free_ports(count: int) -> list[int]:
    """Return ports that are free at present; members need theirs again after a restart."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class MetaGroup:
    """Members by number, their processes, and the links between them."""

    def __init__(self, folder: Path, size: int = 3, **options: str) -> None:
        self.folder = folder
        self.options = options
        self.ids = list(range(1, size + 1))
        ports = free_ports(2 * size)
        self.peer_ports = dict(zip(self.ids, ports[:size], strict=True))
        self.client_ports = dict(zip(self.ids, ports[size:], strict=True))
        self.links: dict[tuple[int, int], Link] = {}
        self.processes: dict[int, subprocess.Popen] = {}
        self.stopped: set[int] = set()

    @property
    def endpoints(self) -> str:
        return ",".join(f"{HOST}:{port}" for port in self.client_ports.values())

    def log_of(self, member: int) -> Path:
        return self.folder / f"member-{member}.log"

    def directory_of(self, member: int) -> Path:
        return self.folder / f"member-{member}"

    async def open(self) -> None:
        for a in self.ids:
            for b in self.ids:
                if a != b:
                    self.links[a, b] = await Link(self.peer_ports[b]).open()

    def start(self, member: int, *arguments: str) -> subprocess.Popen:
        """Start a member, which sees the others behind its own links."""
        command = [
            *COMMAND, "serve", f"--id={member}", f"--dir={self.directory_of(member)}",
            *(f"--{name}={value}" for name, value in self.options.items()),
            *arguments,
        ]  # fmt: skip
        for other in self.ids:
            port = self.peer_ports[other] if other == member else self.links[member, other].port
            command.append(f"--member={other}={HOST}:{port},{HOST}:{self.client_ports[other]}")
        with self.log_of(member).open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes[member] = process
        return process

    def kill(self, member: int) -> None:
        """End a member as a power cut does, as far as the page cache allows."""
        process = self.processes.pop(member)
        process.kill()
        process.wait(10)
        self.stopped.discard(member)

    def freeze(self, member: int) -> None:
        self.processes[member].send_signal(signal.SIGSTOP)
        self.stopped.add(member)

    def thaw(self, member: int) -> None:
        self.processes[member].send_signal(signal.SIGCONT)
        self.stopped.discard(member)

    def isolate(self, member: int, state: LinkState = LinkState.CUT) -> None:
        """Cut a member off from all others, in both directions."""
        for pair, link in self.links.items():
            if member in pair:
                link.become(state)

    def heal(self) -> None:
        for link in self.links.values():
            link.become(LinkState.WHOLE)

    async def ask(self, *arguments: str, timeout_s: float = 20) -> tuple[int, str, str]:
        """Run a command of ``onceflow meta``; return exit code, output and talk."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
        return process.returncode, out.decode(), err.decode()

    async def status(self, member: int) -> dict | None:
        """Return a member's own view; None if it does not answer."""
        connection = Connection(endpoints=f"{HOST}:{self.client_ports[member]}", timeout_s=0.5)
        try:
            answer = await Asker(connection).ask(GetStatus(REQUEST_ID), Done)
        except Unreachable:
            return None
        return json.loads(answer.body)

    async def state(self, member: int) -> bytes:
        """Return a member's whole state, as it answers itself."""
        connection = Connection(endpoints=f"{HOST}:{self.client_ports[member]}", timeout_s=2)
        read = Read(REQUEST_ID, Consistency.STALE, [encode_query(Scan(b""))])
        return (await Asker(connection).ask(read, ReadAnswered)).results[0]

    async def wait_equal(self) -> None:
        """Wait until all members that run have applied the same, and hold them to one state."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            views = [await self.status(member) for member in self.processes]
            if all(views) and len({view["applied_index"] for view in views}) == 1:
                states = {await self.state(member) for member in self.processes}
                assert len(states) == 1, f"members disagree: {states}"
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"members did not catch up: {views}\n{self.logs()}")

    async def leader(self) -> int:
        """Return who leads, once a member says that it does."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            for member in self.processes:
                if member in self.stopped:
                    continue
                status = await self.status(member)
                if status is not None and status["role"] in ("leader", "StateLeader"):
                    return member
            await asyncio.sleep(0.05)
        raise AssertionError(f"nobody leads after {READY_S} s:\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(self.log_of(each).read_text() for each in self.ids)

    async def close(self) -> None:
        for process in self.processes.values():
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait(10)
        for link in self.links.values():
            await link.close()


@asynccontextmanager
async def meta_group(folder: Path, size: int = 3, **options: str):
    """Run a group; everything of it is gone afterwards."""
    group = MetaGroup(folder, size, **options)
    await group.open()
    try:
        for member in group.ids:
            group.start(member)
        yield group
    finally:
        await group.close()
