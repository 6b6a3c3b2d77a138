"""A hosted group of one: kept alive, found again, gone with its host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from onceflow.coordinator.client import CoordinatorClient
from onceflow.coordinator.reaching import DEFAULT_CLUSTER
from onceflow.coordinator.vocabulary import Aborted, Outcome, Standing, Told
from onceflow.supervisor.hosting import ADDRESS_FILE, for_app, hosted_group, in_directory
from onceflow_consensus.client import ClientOptions
from onceflow_consensus.transport.addresses import parse_address

WAIT_S = 30.0


def until(holds):
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def client(address):
    return CoordinatorClient(
        ClientOptions(DEFAULT_CLUSTER, [parse_address(address)], timeout_s=WAIT_S)
    )


async def test_what_was_recorded_outlives_the_groups_process_and_its_host(tmp_path):
    """INV-META-1, across restarts of a group of one."""
    told = Told("s", "app", 1, [Aborted("w", 1, "w")])
    with hosted_group(in_directory(tmp_path)) as address:
        async with client(address) as group:
            assert await group.tell(told) == [Outcome.APPLIED]
            assert (tmp_path / ADDRESS_FILE).read_text().strip() == address
            (pid,) = pids_with(f"--dir={tmp_path}")
            os.kill(pid, signal.SIGKILL)
            until(lambda: pids_with(f"--dir={tmp_path}") not in ([], [pid]))
            assert await group.tell(told) == [Outcome.ALREADY]
    assert not pids_with(f"--dir={tmp_path}")
    assert not (tmp_path / ADDRESS_FILE).exists()
    with hosted_group(in_directory(tmp_path)) as address:
        async with client(address) as group:
            assert len(await group.transactions("app", Standing.OPEN)) == 1


def pids_with(word):
    """Process ids of the programs that were started with this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in words:
            found.append(int(process.name))
    return found


def test_a_group_ends_with_its_host_however_that_ends(tmp_path):
    host = textwrap.dedent(
        """
        import sys, time
        from onceflow.supervisor.hosting import hosted_group, in_directory
        with hosted_group(in_directory(sys.argv[1])):
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", host, str(tmp_path)])
    until((tmp_path / ADDRESS_FILE).exists)
    process.kill()
    process.wait(WAIT_S)
    until(lambda: not pids_with(f"--dir={tmp_path}"))


@pytest.fixture
def counted(tmp_path):
    """A program in the group's place: notes its starts and ends with the codes it is given."""
    program = tmp_path / "program.py"

    def make(*codes):
        program.write_text(
            textwrap.dedent(
                f"""
                import pathlib, sys, time
                starts = pathlib.Path(__file__).with_name("starts")
                with starts.open("a") as file:
                    file.write(" ".join(sys.argv[1:]) + "\\n")
                codes = {codes!r}
                number = len(starts.read_text().splitlines())
                if number > len(codes):
                    time.sleep(60)
                sys.exit(codes[number - 1])
                """
            )
        )
        return [sys.executable, str(program)]

    def starts():
        path = tmp_path / "starts"
        return path.read_text().splitlines() if path.exists() else []

    return make, starts


def test_a_group_that_fails_is_started_again_at_the_same_port(counted, capfd):
    make, starts = counted
    with hosted_group(for_app("shop:app"), make(2)) as address:
        until(lambda: len(starts()) == 2)
    first, second = starts()
    assert first == second
    words = first.split()
    assert words[:2] == ["--app=shop:app", f"--port={address.rpartition(':')[2]}"]
    assert words[2].startswith("--lifeline=")
    assert "ended with code 2" in capfd.readouterr().err


def test_a_group_that_cannot_be_started_is_tried_again(capfd):
    with hosted_group(for_app("shop:app"), ["/no/such/program"]):
        told = []

        def is_tried_again():
            told.append(capfd.readouterr().err)
            return "".join(told).count("cannot be started") == 2

        until(is_tried_again)


def test_a_group_that_is_not_needed_is_left_alone(counted):
    make, starts = counted
    started_s = time.monotonic()
    with hosted_group(for_app("shop:app"), make(0)):
        until(lambda: len(starts()) == 1)
        time.sleep(0.7)
    assert len(starts()) == 1
    assert time.monotonic() - started_s < WAIT_S
