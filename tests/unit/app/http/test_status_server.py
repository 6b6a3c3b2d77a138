"""The status server over real connections on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from onceflow.errors import ConfigError
from onceflow.http import server as server_module
from onceflow.http.server import AddressOrigin, HttpAddress, HttpServer
from onceflow.limits import HTTP_CONNECTIONS_MAX, HTTP_LINE_BYTES_MAX
from onceflow.observe.health import Health
from onceflow.observe.metrics import WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY_PORT = HttpAddress(port=0, origin=AddressOrigin.EXPLICIT)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def health() -> Health:
    return Health(poll_bound_s=60.0, loop_bound_s=60.0)


@pytest.fixture
def server(health: Health) -> Iterator[HttpServer]:
    with HttpServer(ANY_PORT, WorkerMetrics(), health) as running:
        yield running


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_metrics_are_served_in_prometheus_text_format(server: HttpServer) -> None:
    status, content_type, body = get(server.port, "/metrics")
    assert status == 200
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(body)}
    assert "onceflow_worker_state" in names


def test_probes_answer_200_or_503_with_reasons(server: HttpServer, health: Health) -> None:
    assert get(server.port, "/health/live")[0] == 200
    status, content_type, body = get(server.port, "/health/ready")
    assert (status, content_type) == (503, "application/json")
    assert json.loads(body)["reasons"][0]["reason"] == "no_assignment_yet"
    health.assigned([])
    assert get(server.port, "/health/ready")[0] == 200


def test_the_index_names_what_there_is_and_nothing_else_is_served(server: HttpServer) -> None:
    status, content_type, body = get(server.port, "/")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert all(path in body for path in ("/metrics", "/health/live", "/health/ready"))
    assert get(server.port, "/etc/passwd")[0] == 404


def test_a_stalled_main_thread_is_seen_and_answered() -> None:
    health = Health(poll_bound_s=60.0, loop_bound_s=0.2)
    answers: list[tuple[int, str, str]] = []
    with HttpServer(ANY_PORT, WorkerMetrics(), health) as server:
        assert get(server.port, "/health/live")[0] == 200

        def ask() -> None:
            time.sleep(0.5)
            answers.append(get(server.port, "/health/live"))

        asking = threading.Thread(target=ask)
        asking.start()
        stalled_until_s = time.monotonic() + 1.5
        while time.monotonic() < stalled_until_s and not answers:
            sum(range(1_000))
        asking.join()
    ((status, _, body),) = answers
    assert status == 503
    assert json.loads(body)["reasons"][0]["reason"] == "event_loop_stalled"


def test_a_taken_explicit_port_is_a_configuration_error(taken_port: int, health: Health) -> None:
    address = HttpAddress(port=taken_port, origin=AddressOrigin.EXPLICIT)
    server = HttpServer(address, WorkerMetrics(), health)
    with pytest.raises(ConfigError, match=f"127.0.0.1:{taken_port}, is in use") as caught:
        server.start()
    assert caught.value.exit_code == 2
    server.stop()


def test_a_taken_default_port_moves_on_to_a_free_one(taken_port: int, health: Health) -> None:
    address = HttpAddress(port=taken_port, origin=AddressOrigin.DEFAULT)
    with HttpServer(address, WorkerMetrics(), health) as server:
        assert taken_port < server.port <= taken_port + 64
        assert get(server.port, "/health/live")[0] == 200


def test_when_no_port_near_the_default_is_free_the_range_is_named(
    taken_port: int, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HTTP_PORTS_TRIED_MAX", 0)
    server = HttpServer(HttpAddress(port=taken_port), WorkerMetrics(), health)
    with pytest.raises(ConfigError, match=f"{taken_port}-{taken_port}"):
        server.start()


def test_a_host_that_is_not_ours_is_a_configuration_error(health: Health) -> None:
    address = HttpAddress("192.0.2.1", 0, AddressOrigin.EXPLICIT)
    with pytest.raises(ConfigError, match="cannot be used"):
        HttpServer(address, WorkerMetrics(), health).start()


def test_stopping_frees_the_port_and_the_thread_and_may_be_repeated(health: Health) -> None:
    server = HttpServer(ANY_PORT, WorkerMetrics(), health)
    server.stop()
    server.start()
    port = server.port
    idle = socket.create_connection(("127.0.0.1", port))
    server.stop()
    server.stop()
    idle.close()
    assert not any(thread.name == "onceflow-http" for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        get(port, "/")


def test_connections_beyond_the_bound_are_refused_and_room_is_made_again(
    server: HttpServer,
) -> None:
    held = [
        socket.create_connection(("127.0.0.1", server.port)) for _ in range(HTTP_CONNECTIONS_MAX)
    ]
    try:
        status, _, body = get(server.port, "/")
        assert (status, body) == (503, "too many connections\n")
    finally:
        for connection in held:
            connection.close()
    deadline_s = time.monotonic() + 5
    while get(server.port, "/")[0] != 200:
        assert time.monotonic() < deadline_s


def test_a_connection_that_asks_nothing_is_closed(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HTTP_IDLE_S_MAX", 0.2)
    with (
        HttpServer(ANY_PORT, WorkerMetrics(), health) as server,
        socket.create_connection(("127.0.0.1", server.port)) as idle,
    ):
        idle.settimeout(5)
        assert idle.recv(1) == b""


def test_an_overlong_header_is_refused(server: HttpServer) -> None:
    status, _, _ = get(server.port, "/", {"X-Long": "a" * (HTTP_LINE_BYTES_MAX + 1)})
    assert status == 400


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("9500", "127.0.0.1", 9500),
        (":9500", "127.0.0.1", 9500),
        ("[::1]:0", "::1", 0),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    address = HttpAddress.parse(text, AddressOrigin.EXPLICIT)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "h:65536", "h:-1", "h:٣"])
def test_what_is_no_address_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        HttpAddress.parse(text, AddressOrigin.EXPLICIT)
