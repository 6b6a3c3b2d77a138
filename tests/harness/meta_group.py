"""A group of ``onceflow meta serve`` processes on a network that a test can cut.

Members reach each other through doors (``links``), so that any direction of any pair can fail.
Clients reach members directly. Everything a member says is kept in a file, which is shown when a
test fails.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from harness.links import Door, LinkState
from onceflow.cli import main
from onceflow.cli.meta_asking import REQUEST_ID, Asker
from onceflow.cli.meta_options import Connection
from onceflow.errors import Unreachable
from onceflow_consensus.client import ClientOptions, GroupClient
from onceflow_consensus.kv import Put, Scan, encode_command, encode_query
from onceflow_consensus.limits import KEPT_LOG_BYTES, MAX_VALUE_BYTES
from onceflow_consensus.transport.addresses import parse_address
from onceflow_consensus.transport.requests import Consistency, Done, GetStatus, Read, ReadAnswered

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from onceflow.cli import main; main()", "meta"]
HOST = "127.0.0.1"
READY_S = 90.0
"""Patience with a machine that does much else; a group that has it for itself takes a second."""


def free_ports(count: int) -> list[int]:
    """Return ports that are free at present; members need theirs again after a restart."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class MetaGroup:
    """Members by number, their processes, and the links between them."""

    def __init__(self, folder: Path, size: int, founders: int, options: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.founders = founders
        self.options = {"http": "off"} | options
        self.ids = list(range(1, size + 1))
        ports = free_ports(2 * size)
        self.peer_ports = dict(zip(self.ids, ports[:size], strict=True))
        self.client_ports = dict(zip(self.ids, ports[size:], strict=True))
        self.doors: dict[int, Door] = {}
        self.processes: dict[int, subprocess.Popen] = {}
        self.stopped: set[int] = set()
        self._started: list[subprocess.Popen] = []

    @property
    def endpoints(self) -> str:
        return ",".join(f"{HOST}:{port}" for port in self.client_ports.values())

    def log_of(self, member: int) -> Path:
        return self.folder / f"member-{member}.log"

    def directory_of(self, member: int) -> Path:
        return self.folder / f"member-{member}"

    async def open(self) -> None:
        for member, port in self.peer_ports.items():
            self.doors[member] = await Door(port).open()

    def start(self, member: int, *arguments: str) -> subprocess.Popen:
        """Start a member, which sees the others behind its own links."""
        command = [*COMMAND, "serve", *self.options_of(member), *arguments]
        with self.log_of(member).open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self._started.append(process)
        self.processes[member] = process
        return process

    def addresses_of(self, member: int) -> str:
        """Return a member's addresses for members and for clients, as ``--member`` has them."""
        return f"{HOST}:{self.doors[member].port},{HOST}:{self.client_ports[member]}"

    def options_of(self, member: int) -> list[str]:
        """Return a member's options; it lists the founders, and itself if it is none."""
        founders = list(range(1, self.founders + 1))
        listed = founders if member in founders else [*founders, member]
        client_port, peer_port = self.client_ports[member], self.peer_ports[member]
        return [
            f"--id={member}",
            f"--dir={self.directory_of(member)}",
            f"--listen={HOST}:{peer_port},{HOST}:{client_port}",
            *(f"--{name}={value}" for name, value in self.options.items()),
            *(f"--member={each}={self.addresses_of(each)}" for each in listed),
        ]

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
        for other in self.ids:
            if other != member:
                self.doors[member].link(other).become(state)
                self.doors[other].link(member).become(state)

    def heal(self) -> None:
        for member, door in self.doors.items():
            for other in self.ids:
                if other != member:
                    door.link(other).become(LinkState.WHOLE)

    def mend(self) -> None:
        """Let every founder run and reach the others, whatever was done to it."""
        self.heal()
        for member in sorted(self.stopped):
            self.thaw(member)
        for member in range(1, self.founders + 1):
            if member not in self.processes or self.processes[member].poll() is not None:
                self.start(member)

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

    async def write_much(self) -> None:
        """Write more than a log keeps below a snapshot, all to one key."""
        addresses = [parse_address(each) for each in self.endpoints.split(",")]
        options = ClientOptions(
            self.options.get("cluster", "onceflow"), addresses, timeout_s=READY_S
        )
        value = bytes(MAX_VALUE_BYTES)
        async with GroupClient(options) as client:
            for _ in range(KEPT_LOG_BYTES // MAX_VALUE_BYTES + 8):
                await client.submit(encode_command(Put(b"much", value)))
            await client.submit(encode_command(Put(b"much", b"")))

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
        for process in self._started:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
        for door in self.doors.values():
            await door.close()


@asynccontextmanager
async def meta_group(
    folder: Path,
    size: int = 3,
    founders: int | None = None,
    running: int | None = None,
    **options: str,
):
    """Run a group; everything of it is gone afterwards.

    ``founders`` begin it, all ``size`` if not given; as many as ``running`` are started at once,
    all founders if not given. ``options`` are those of ``serve``, by their long names.
    """
    founders = size if founders is None else founders
    group = MetaGroup(folder, size, founders, options)
    await group.open()
    try:
        for member in group.ids[: founders if running is None else running]:
            group.start(member)
        yield group
    finally:
        await group.close()


async def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command of ``onceflow meta`` in this process; return exit code, output and talk.

    It is patient with the group unless it says how long it waits.
    """
    waits = any(each.startswith("--timeout") for each in arguments)
    patience = [] if waits or arguments[0] in ("serve", "restore") else [f"--timeout={READY_S:g}"]
    out, err = io.StringIO(), io.StringIO()

    def run() -> int:
        try:
            main(["meta", *arguments, *patience])
        except SystemExit as left:
            return left.code
        raise AssertionError("the command line always exits")

    with redirect_stdout(out), redirect_stderr(err):
        code = await asyncio.to_thread(run)
    return code, out.getvalue(), err.getvalue()
