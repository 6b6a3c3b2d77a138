"""Real brokers: they start, survive, and die when they should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onceflow.cli.kafka import EXIT_NOT_RUNNING, app
from onceflow.errors import ConfigError
from onceflow.localkafka import (
    BrokerStatus,
    ClusterStatus,
    LocalKafka,
    start_detached,
    status,
    stop_detached,
)
from onceflow.localkafka.readiness import answers, probe
from onceflow.localkafka.wire import Address, ProtocolError

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("kafka"), pytest.mark.timeout(240)]


@pytest.fixture
def _own_brokers(monkeypatch):
    """These tests are about brokers of our own, also where the others use a given one."""
    monkeypatch.delenv("ONCEFLOW_BROKER", raising=False)


def _addresses(bootstrap: str) -> list[Address]:
    pairs = (each.split(":") for each in bootstrap.split(","))
    return [Address(host, int(port)) for host, port in pairs]


def _gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        path = Path(f"/proc/{pid}/stat")
        if not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_started_kafka_serves_transactions(kafka):
    assert probe(_addresses(kafka.bootstrap))


@pytest.mark.usefixtures("_own_brokers")
def test_a_killed_broker_comes_back_on_its_port_and_a_paused_one_is_silent_until_resumed():
    with LocalKafka() as cluster:
        bootstrap, directory = cluster.bootstrap, cluster.directory
        (address,) = _addresses(bootstrap)
        cluster_id = probe([address])
        cluster.kill()
        assert cluster.pid() is None
        assert not answers(address)
        cluster.start_broker()
        assert cluster.bootstrap == bootstrap
        assert probe([address]) == cluster_id

        cluster.pause()
        assert not answers(address)
        cluster.resume()
        cluster.wait_ready()
        pid = cluster.pid()
    assert _gone(pid)
    assert not directory.exists(), "temporary data is removed"


@pytest.mark.usefixtures("_own_brokers")
def test_three_brokers_survive_the_kill_of_one():
    with LocalKafka(brokers=3, heap_mb=384) as cluster:
        addresses = _addresses(cluster.bootstrap)
        assert len(addresses) == 3
        cluster.kill(2)
        survivors = [addresses[0], addresses[2]]
        deadline = time.monotonic() + 60
        while True:
            try:
                probe(survivors)
                break
            except (OSError, ProtocolError):
                assert time.monotonic() < deadline, "the survivors serve no transactions"
                time.sleep(0.2)
        assert cluster.pid(2) is None
        cluster.start_broker(2)
        cluster.wait_ready()


@pytest.mark.usefixtures("_own_brokers")
def test_an_explicit_port_in_use_is_named_and_nothing_is_started(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            LocalKafka(tmp_path / "kafka", port=port).start()
    assert not status(tmp_path / "kafka").running


_PARENT = """
import sys, threading, time
from onceflow.localkafka import LocalKafka
cluster = LocalKafka(heap_mb=256)
# From a thread that ends: the brokers must depend on the process, not on the thread.
thread = threading.Thread(target=cluster.start)
thread.start(); thread.join()
print(cluster.pid(), cluster.directory, flush=True)
time.sleep(120)
"""


@pytest.mark.usefixtures("_own_brokers")
def test_brokers_die_with_a_parent_that_is_killed_but_not_with_its_thread():
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        pid, directory = parent.stdout.readline().split()
        time.sleep(1)
        assert not _gone(int(pid), 0.1), "outlives the thread that started it"
        parent.kill()
    assert _gone(int(pid))
    deadline = time.monotonic() + 10
    while Path(directory).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(directory).exists(), "the guard removes temporary data"


@pytest.mark.usefixtures("_own_brokers")
def test_a_broker_dies_with_its_guard():
    with LocalKafka(heap_mb=256) as cluster:
        pid = cluster.pid()
        guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGKILL)
        assert _gone(pid)


@pytest.mark.usefixtures("_own_brokers")
def test_the_command_starts_once_and_tells_its_status_by_exit_codes(tmp_path):
    place = ["--dir", str(tmp_path / "kafka")]
    run = CliRunner().invoke
    assert run(app, ["status", *place]).exit_code == EXIT_NOT_RUNNING
    try:
        started = run(app, ["start", *place, "--heap-mb", "256", "-o", "json"])
        assert started.exit_code == 0, started.output
        assert "starting" in started.stderr
        first = json.loads(started.stdout)
        again = run(app, ["start", *place, "-o", "json"])
        assert again.exit_code == 0
        assert json.loads(again.stdout) == first, "the same broker, left alone"
        port = str(first["brokers"][0]["port"])
        assert run(app, ["status", *place]).exit_code == 0
        assert run(app, ["status", "--port", port]).exit_code == 0
        with pytest.raises(ConfigError, match=r"runs in .* already"):
            LocalKafka(tmp_path / "kafka").start()
        with pytest.raises(ConfigError, match="not on 1024"):
            start_detached(tmp_path / "kafka", port=1024)
    finally:
        assert stop_detached(tmp_path / "kafka")
    assert run(app, ["status", *place]).exit_code == EXIT_NOT_RUNNING
    assert not stop_detached(tmp_path / "kafka")


@pytest.mark.usefixtures("_own_brokers")
def test_foreground_stops_its_brokers_at_a_signal(tmp_path):
    code = "from onceflow.cli.kafka import app; app()"
    options = ["start", "--foreground", "--dir", str(tmp_path / "kafka"), "--heap-mb", "256"]
    command = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with command:
        assert "Kafka answers at" in command.stdout.readline()
        found = status(tmp_path / "kafka")
        (broker,) = found.brokers
        port = int(found.bootstrap.rpartition(":")[2])
        assert broker == BrokerStatus(1, port, broker.pid, answers=True)
        assert found == ClusterStatus(True, found.bootstrap, str(tmp_path / "kafka"), (broker,))
        command.terminate()
        assert command.wait(60) == 0
    assert _gone(broker.pid)
