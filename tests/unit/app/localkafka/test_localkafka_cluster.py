"""Plans, configurations, the wire, and what a LocalKafka refuses before it starts anything."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from onceflow.errors import ConfigError, Unreachable
from onceflow.localkafka import LocalKafka, start_detached, status, stop_detached
from onceflow.localkafka.broker import Broker
from onceflow.localkafka.cluster import external_addresses
from onceflow.localkafka.detached import directory_for, remember_ports
from onceflow.localkafka.plan import Plan, load_plan, make_plan, save_plan
from onceflow.localkafka.properties import Node, server_properties
from onceflow.localkafka.readiness import answers, wait_ready
from onceflow.localkafka.wire import (
    Address,
    CoordinatorKind,
    ProtocolError,
    find_coordinator,
    init_producer_id,
    metadata,
)


@pytest.fixture(autouse=True)
def own_places(monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ONCEFLOW_BROKER", raising=False)


@contextmanager
def _server(*answers: bytes):
    """A server that gives each connection the next answer, whatever it asks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address(*listener.getsockname())
        thread.join(5)


def _frame(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 1) + body


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _metadata_body(brokers: dict[int, Address]) -> bytes:
    body = struct.pack(">ii", 0, len(brokers))
    for node, (host, port) in brokers.items():
        body += struct.pack(">i", node) + _text(host) + struct.pack(">ih", port, -1)
    return body + _text("the-cluster") + struct.pack(">ii", 1, 0)


def test_metadata_tells_the_cluster_and_its_living_brokers():
    brokers = {1: Address("127.0.0.1", 7001), 2: Address("127.0.0.1", 7002)}
    with _server(_frame(_metadata_body(brokers))) as address:
        cluster = metadata(address, 5.0)
    assert cluster.cluster_id == "the-cluster"
    assert cluster.brokers == brokers


def test_a_coordinator_is_an_address_and_an_error_code_is_told():
    found = struct.pack(">ihhi", 0, 0, -1, 3) + _text("127.0.0.1") + struct.pack(">i", 7003)
    absent = struct.pack(">ihhi", 0, 15, -1, -1) + _text("") + struct.pack(">i", -1)
    with _server(_frame(found), _frame(absent)) as address:
        kind = CoordinatorKind.TRANSACTION
        assert find_coordinator(address, kind, "x", 5.0) == Address("127.0.0.1", 7003)
        with pytest.raises(ProtocolError, match="error code 15"):
            find_coordinator(address, kind, "x", 5.0)


def test_a_producer_id_that_is_refused_is_an_error():
    with (
        _server(_frame(struct.pack(">ih", 0, 16))) as address,
        pytest.raises(ProtocolError, match="error code 16"),
    ):
        init_producer_id(address, "x", 5.0)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request", _frame(b"\0\0"), b"\0\0\0\0"])
def test_a_port_that_does_not_speak_kafka_is_told_apart(answer):
    with _server(answer) as address, pytest.raises(ProtocolError):
        metadata(address, 5.0)


def test_nobody_answers_at_a_closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert not answers(Address("127.0.0.1", port))


def test_waiting_ends_at_once_when_the_check_says_so_and_at_the_bound_otherwise():
    def dead():
        raise Unreachable("the broker ended")

    nowhere = [Address("127.0.0.1", 1)]
    with pytest.raises(Unreachable, match="ended"):
        wait_ready(nowhere, 60.0, dead)
    with pytest.raises(TimeoutError):
        wait_ready(nowhere, 0.2, lambda: None)


def _settings(count: int) -> dict[str, str]:
    nodes = [Node(index + 1, 7000 + index, 8000 + index) for index in range(count)]
    text = server_properties(nodes[0], nodes, "/data", {"num.partitions": "9"})
    return dict(line.split("=", 1) for line in text.splitlines())


def test_internal_topics_are_replicated_as_far_as_the_cluster_allows():
    for count, in_sync in ((1, "1"), (3, "2")):
        settings = _settings(count)
        assert settings["transaction.state.log.replication.factor"] == str(count)
        assert settings["offsets.topic.replication.factor"] == str(count)
        assert settings["transaction.state.log.min.isr"] == in_sync
        assert settings["controller.quorum.voters"].count("@") == count


def test_a_local_broker_keeps_what_it_is_given_and_leaves_timestamp_limits_alone():
    settings = _settings(1)
    assert settings["log.retention.ms"] == "-1"
    assert settings["auto.create.topics.enable"] == "false"
    assert not [name for name in settings if "timestamp" in name]
    assert settings["num.partitions"] == "9", "what the caller sets wins"


def test_a_plan_keeps_its_ports_and_its_cluster_over_restarts(tmp_path):
    first = make_plan(None, 3, 0)
    assert len({port for n in first.nodes for port in (n.port, n.controller_port)}) == 6
    save_plan(tmp_path, first)
    assert load_plan(tmp_path) == first
    assert make_plan(load_plan(tmp_path), 3, 0) == first


def test_a_plan_takes_other_ports_when_the_old_ones_are_in_use_but_never_explicit_ones():
    first = make_plan(None, 1, 0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", first.nodes[0].port))
        server.listen()
        second = make_plan(first, 1, 0)
        assert second.nodes[0].port != first.nodes[0].port
        assert second.cluster_id == first.cluster_id
        with pytest.raises(ConfigError, match=str(first.nodes[0].port)):
            make_plan(None, 1, first.nodes[0].port)


def test_a_directory_keeps_its_number_of_brokers():
    with pytest.raises(ConfigError, match="1 brokers, not of 3"):
        make_plan(make_plan(None, 1, 0), 3, 0)
    with pytest.raises(ConfigError, match="1 or 3 brokers"):
        LocalKafka(brokers=2)


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "cluster.json").write_text('{"nodes": 3}')
    with pytest.raises(ConfigError, match="does not describe a local Kafka"):
        load_plan(tmp_path)
    with pytest.raises(ConfigError):
        status(tmp_path)


def test_the_port_alone_finds_the_cluster_that_was_started_there(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    save_plan(place, Plan("k", (Node(1, 7101, 8101),)))
    remember_ports(place)
    assert directory_for(None, 7101) == place
    assert directory_for(tmp_path, 7101) == tmp_path, "an explicit directory wins"
    save_plan(place, Plan("k", (Node(1, 7102, 8101),)))
    assert directory_for(None, 7101) != place, "the cluster has moved to another port"


def test_a_process_that_got_a_dead_brokers_number_is_not_taken_for_it(tmp_path):
    broker = Broker(Node(1, 7001, 8001), tmp_path)
    broker.directory.mkdir()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (broker.directory / "pid").write_text(str(bystander.pid))
        assert broker.pid() is None
        broker.terminate()
        time.sleep(0.1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_is_not_started_says_so():
    cluster = LocalKafka()
    with pytest.raises(ConfigError, match="not started"):
        _ = cluster.bootstrap
    with pytest.raises(ConfigError, match="no broker 1"):
        cluster.kill()
    cluster.stop()


def test_with_onceflow_broker_set_nothing_is_started_and_nothing_is_killed(monkeypatch):
    body = _frame(_metadata_body({1: Address("127.0.0.1", 7001)}))
    with _server(body, body, body) as address:
        monkeypatch.setenv("ONCEFLOW_BROKER", f"127.0.0.1:{address.port}")
        with LocalKafka() as cluster:
            assert cluster.bootstrap == f"127.0.0.1:{address.port}"
            assert not cluster.owned
            with pytest.raises(ConfigError, match="not ours"):
                cluster.kill()
        assert start_detached().running
        with pytest.raises(ConfigError, match="ONCEFLOW_BROKER"):
            stop_detached()
    assert not status().running
    with pytest.raises(Unreachable, match="no Kafka answers"):
        LocalKafka().start()


def test_onceflow_broker_must_be_addresses(monkeypatch):
    assert external_addresses("a:1, b:2") == [Address("a", 1), Address("b", 2)]
    for wrong in ("a", "a:b", ":1", "a:1,"):
        with pytest.raises(ConfigError, match="host:port"):
            external_addresses(wrong)
