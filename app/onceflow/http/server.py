"""The status server of a process: metrics and health, on a thread and an event loop of its own.

Its own thread, so that a stalled main loop or a stuck poll is still seen and answered; it only
reads what the observing objects hold. It must not import the engine, and nothing here may wait for
Kafka or for another thread.

An address that the user named is meant: if it is taken, the process ends with a configuration
error. The default address is a convenience: if it is taken, the next free port is used and
reported. Loopback by default, because there is no authentication here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from errno import EADDRINUSE
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, Self

import orjson
from aiohttp import web

from onceflow.errors import ConfigError
from onceflow.limits import (
    HTTP_BODY_BYTES_MAX,
    HTTP_CONNECTIONS_MAX,
    HTTP_IDLE_S_MAX,
    HTTP_LINE_BYTES_MAX,
    HTTP_PORTS_TRIED_MAX,
    HTTP_START_S_MAX,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import EXPOSITION_CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from onceflow.observe.health import Verdict

log = get_logger(__name__)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9464
"""The port that Prometheus' registry gives to exporters of OpenTelemetry; few others use it."""

_PORT_MAX = 65_535

_ACCEPT_PASSES = 3
"""Passes of the event loop from accepting a connection until it is known and can be closed.

A server that is closed in between leaves the connection's socket open (CPython 3.11).
"""

_INDEX = """onceflow

/metrics        measurements in Prometheus' text format
/health/live    200 while the process does its work, 503 when it should be restarted
/health/ready   200 when it can serve what it was given, 503 and the reasons when not
"""

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n"
    b"Content-Length: 21\r\n\r\n"
    b"too many connections\n"
)


class AddressOrigin(StrEnum):
    """Who chose the address, which decides what happens if it is taken."""

    DEFAULT = "default"
    EXPLICIT = "explicit"


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen. Port 0 takes any free port."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    origin: AddressOrigin = AddressOrigin.DEFAULT

    @classmethod
    def parse(cls, text: str, origin: AddressOrigin) -> Self:
        """Read ``host:port``, ``[v6-address]:port``, ``:port`` or ``port``.

        Raises:
            ConfigError: it is none of these. Reaction: the user corrects the setting.
        """
        host, colon, number = text.strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not number.isascii() or not number.isdigit() or int(number) > _PORT_MAX:
            raise ConfigError(
                f"The address of the status server, {text!r}, is not host:port with a port from 0 "
                f"to {_PORT_MAX}. Nothing was started. Set it as in 127.0.0.1:9464."
            )
        return cls(host if colon and host else DEFAULT_HOST, int(number), origin)


@dataclass(frozen=True, slots=True)
class _Serving:
    """What runs between ``start`` and ``stop``."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    server: asyncio.Server


class Measured(Protocol):
    """What has measurements: a worker's metrics, or a member of the replicated group."""

    def exposition(self) -> bytes:
        """Render them in Prometheus' text format."""
        ...


class Judged(Protocol):
    """What knows its health: likewise."""

    def live(self) -> Verdict:
        """Tell whether the process does its work."""
        ...

    def ready(self) -> Verdict:
        """Tell whether it can serve."""
        ...


class HttpServer:
    """Serves one process's metrics and health; ``start`` once, ``stop`` any number of times."""

    def __init__(self, address: HttpAddress, metrics: Measured, health: Judged) -> None:
        """Take what is served; nothing listens before ``start``."""
        self._address = address
        self._metrics = metrics
        self._health = health
        self._runner = self._make_runner()
        self._serving: _Serving | None = None
        self._port = address.port

    @property
    def port(self) -> int:
        """Port listened on; the configured one before the start."""
        return self._port

    @property
    def url(self) -> str:
        """Address of the index."""
        host = self._address.host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            ConfigError: the explicit address is taken, no port near the default one is free, or
                the host is not ours. Reaction: the user changes the address; exit 2.
        """
        listening = _listen(self._address)
        self._port = int(listening.getsockname()[1])
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="onceflow-http", daemon=True)
        thread.start()
        opening = asyncio.run_coroutine_threadsafe(self._open(listening), loop)
        self._serving = _Serving(loop, thread, opening.result(HTTP_START_S_MAX))
        if self._address.port not in (0, self.port):
            log.warning(LogEvent.HTTP_PORT_TAKEN, taken=self._address.port, used=self.port)
        log.info(LogEvent.HTTP_LISTENING, url=self.url)

    def stop(self) -> None:
        """Close all connections and end the thread, within a bound."""
        serving, self._serving = self._serving, None
        if serving is None:
            return
        loop = serving.loop
        asyncio.run_coroutine_threadsafe(self._close(serving), loop).result(HTTP_START_S_MAX)
        loop.call_soon_threadsafe(loop.stop)
        serving.thread.join(HTTP_START_S_MAX)
        loop.close()
        log.debug(LogEvent.HTTP_STOPPED, port=self._port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_runner(self) -> web.AppRunner:
        app = web.Application(client_max_size=HTTP_BODY_BYTES_MAX)
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/health/live", self._get_live)
        app.router.add_get("/health/ready", self._get_ready)
        return web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=HTTP_IDLE_S_MAX,
            max_line_size=HTTP_LINE_BYTES_MAX,
            max_field_size=HTTP_LINE_BYTES_MAX,
        )

    async def _open(self, listening: socket.socket) -> asyncio.Server:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        return await loop.create_server(_bounded(self._runner), sock=listening)

    async def _close(self, serving: _Serving) -> None:
        for listening in serving.server.sockets:
            serving.loop.remove_reader(listening.fileno())
        for _ in range(_ACCEPT_PASSES):
            await asyncio.sleep(0)
        serving.server.close()
        await self._runner.cleanup()
        await asyncio.sleep(0)

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=_INDEX)

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": EXPOSITION_CONTENT_TYPE}
        )

    async def _get_live(self, _: web.Request) -> web.Response:
        return _answer(self._health.live())

    async def _get_ready(self, _: web.Request) -> web.Response:
        return _answer(self._health.ready())


class _Refusing(asyncio.BaseProtocol):
    """Answers a connection beyond the bound with 503 and closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_REFUSAL)
        transport.close()


def _bounded(runner: web.AppRunner) -> Callable[[], asyncio.BaseProtocol]:
    """Make connections as aiohttp does, as long as there are few enough of them.

    asyncio accepts many connections in one pass and tells aiohttp of each only in the next one, so
    those made in this pass are counted here until their turn has come.
    """
    server = runner.server
    loop = asyncio.get_running_loop()
    unannounced: deque[None] = deque()

    def accept() -> asyncio.BaseProtocol:
        if server is None or len(server.connections) + len(unannounced) >= HTTP_CONNECTIONS_MAX:
            return _Refusing()
        unannounced.append(None)
        loop.call_soon(unannounced.popleft)
        return server()

    return accept


def _answer(verdict: Verdict) -> web.Response:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return web.Response(
        status=status,
        body=orjson.dumps(verdict.document, option=orjson.OPT_APPEND_NEWLINE),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _listen(address: HttpAddress) -> socket.socket:
    """Bind the address, or the next free port after a default one.

    Raises:
        ConfigError: nothing could be bound; see ``HttpServer.start``.
    """
    moves = address.origin is AddressOrigin.DEFAULT and address.port != 0
    last = min(address.port + HTTP_PORTS_TRIED_MAX, _PORT_MAX) if moves else address.port
    port = address.port
    while True:
        try:
            return _bind(address.host, port)
        except OSError as error:
            if error.errno == EADDRINUSE and port < last:
                port += 1
                continue
            taken = "is in use" if error.errno == EADDRINUSE else f"cannot be used ({error})"
            where = f"{address.host}:{address.port}" + (f"-{last}" if moves else "")
            raise ConfigError(
                f"The address of the status server, {where}, {taken}. Nothing was started and "
                "nothing was consumed. Stop what listens there, or set ONCEFLOW_HTTP (host:port; "
                "port 0 takes any free one)."
            ) from error


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=HTTP_CONNECTIONS_MAX)
