"""A proxy between Kafka clients and a real Kafka, which does to requests what a test's rules say.

One listening port stands for each broker. Responses that name brokers get the proxy's addresses
(``kafka_wire``), so that clients stay on it whatever they connect to next, with any cluster, as it
is. Everything runs on a thread of its own: tests may block, and clients may be other processes.

A rule names a request (API, client id, transactional id), a fault, and how often:

    with KafkaProxy(kafka.bootstrap) as proxy:
        late = proxy.rule(Api.END_TXN, Fault.DUPLICATE_LATE)
        ...                      # a producer with bootstrap.servers=proxy.bootstrap commits
        late.wait_hit()
        late.release()           # the copy goes to the broker, its response to ``late.answers``

Rules are tried in the order they were made and one that is used up is passed over, so the same
requests meet the same faults in every run. A held request holds back what its connection sends
after it, as a slow network does; other connections go on. What was held when the client closed its
connection still goes to the broker on release, over a connection of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self

from harness.kafka_wire import (
    WITH_ADDRESSES,
    Address,
    Api,
    Request,
    addresses,
    error_code,
    parse_request,
    with_addresses,
    with_correlation_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_COPY_ID = 0x7F00_0000
"""Correlation ids of copies; clients count from 1 and do not come so far."""

STOP_S = 10.0


class Fault(Enum):
    """What happens to a request, or to its response."""

    COUNT = "pass it on and count it"
    DELAY_REQUEST = "pass it on after delay_s"
    HOLD_REQUEST = "pass it on after release()"
    DROP_REQUEST = "never pass it on"
    CUT_BEFORE = "close the connection in its place"
    DUPLICATE = "pass it on twice; the second response is swallowed"
    DUPLICATE_LATE = "pass it on, and once more after release(); that response is swallowed"
    DELAY_RESPONSE = "pass the response on after delay_s"
    HOLD_RESPONSE = "pass the response on after release()"
    DROP_RESPONSE = "never pass the response on"
    CUT_AFTER = "close the connection in place of the response"


RESPONSE_FAULTS = {
    Fault.DELAY_RESPONSE,
    Fault.HOLD_RESPONSE,
    Fault.DROP_RESPONSE,
    Fault.CUT_AFTER,
}


@dataclass(eq=False, slots=True)
class Rule:
    """A fault for matching requests, and what became of it. Made by ``KafkaProxy.rule``."""

    api: Api | None
    fault: Fault
    client_id: str
    transactional_id: str
    where: Callable[[Request], bool]
    skip: int
    times: int
    delay_s: float
    loop: asyncio.AbstractEventLoop
    seen: int = 0
    hit: list[Request] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Error codes, in order, of answers to copies, to requests whose answer meets the fault, and to
    requests that outlived their connection; 0 is success."""
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def hits(self) -> int:
        """How many requests met the fault so far."""
        return len(self.hit)

    def release(self) -> None:
        """Let go of what is held, and hold nothing further."""
        self.loop.call_soon_threadsafe(self._released.set)

    def wait_hit(self, hits: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until so many requests met the fault; fails the test after ``timeout_s``."""
        self._wait(lambda: self.hits >= hits, timeout_s, f"{hits} hits, {self.hits} so far")

    def wait_answer(self, count: int = 1, timeout_s: float = 30.0) -> int:
        """Wait until so many copies were answered, and return the last one's error code."""
        self._wait(lambda: len(self.answers) >= count, timeout_s, f"{count} answers")
        return self.answers[count - 1]

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        with self._changed:
            reached = self._changed.wait_for(done, timeout_s)
        assert reached, f"not within {timeout_s} s: {what} ({self.fault} of {self.api!r})"

    def _takes(self, request: Request) -> bool:
        """Whether the fault is for this request; counts it. Only the proxy's loop calls it."""
        if (
            (self.api is not None and request.api != self.api)
            or not fnmatchcase(request.client_id, self.client_id)
            or not fnmatchcase(request.transactional_id or "", self.transactional_id)
            or self.hits >= self.times
            or not self.where(request)
        ):
            return False
        self.seen += 1
        if self.seen <= self.skip:
            return False
        with self._changed:
            self.hit.append(request)
            self._changed.notify_all()
        return True

    def _answered(self, code: int) -> None:
        with self._changed:
            self.answers.append(code)
            self._changed.notify_all()


class KafkaProxy:
    """The proxy in front of a cluster; a context manager."""

    def __init__(self, bootstrap: str) -> None:
        self._upstream = [
            Address(host, int(port))
            for host, _, port in (item.strip().rpartition(":") for item in bootstrap.split(","))
        ]
        self.counts: Counter[int] = Counter()
        """Requests that came, by API."""
        self.passed: Counter[int] = Counter()
        """Requests and copies that went on to a broker, by API."""
        self.failures: list[str] = []
        """Errors of the proxy itself; a test that ends with any fails."""
        self._rules: list[Rule] = []
        self._listeners: dict[Address, asyncio.Server] = {}
        self._addresses: dict[Address, Address] = {}
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kafka-proxy", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, kind, *_) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()
        if kind is None:
            assert not self.failures, self.failures

    @property
    def bootstrap(self) -> str:
        """Addresses for clients."""
        return ",".join(f"{a.host}:{a.port}" for a in map(self._addresses.get, self._upstream))

    def rule(
        self,
        api: Api | None,
        fault: Fault,
        *,
        client_id: str = "*",
        transactional_id: str = "*",
        where: Callable[[Request], bool] = lambda _: True,
        skip: int = 0,
        times: int = 1,
        delay_s: float = 0.0,
    ) -> Rule:
        """Add a rule; of several that fit, the first one made applies.

        Args:
            api: which requests; None: all.
            fault: what happens to them.
            client_id, transactional_id: shell patterns; a request without one has "".
            where: a further condition; it runs on the proxy's thread.
            skip: how many matching requests go on unharmed first.
            times: how many meet the fault.
            delay_s: for the delaying faults.
        """
        made = Rule(
            api, fault, client_id, transactional_id, where, skip, times, delay_s, self._loop
        )
        self._call(_run(lambda: self._rules.append(made)))
        return made

    def clear(self) -> None:
        """Release and remove all rules."""

        def clear() -> None:
            for each in self._rules:
                each._released.set()
            self._rules.clear()

        self._call(_run(clear))

    def cut(self) -> None:
        """Close every connection; clients may connect again."""
        self._call(_run(lambda: [link.close() for link in list(self._links)]))

    def block(self) -> None:
        """Pass nothing on in either direction, without closing anything, until ``unblock``."""
        self._call(_run(self._open.clear))

    def unblock(self) -> None:
        """Pass everything on again, what came meanwhile included."""
        self._call(_run(self._open.set))

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(STOP_S)

    async def _start(self) -> None:
        self._open.set()
        for address in self._upstream:
            await self._proxied(address)

    async def _stop(self) -> None:
        for each in self._rules:
            each._released.set()
        self._open.set()
        for listener in self._listeners.values():
            listener.close()
        for link in list(self._links):
            link.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)

    async def _proxied(self, upstream: Address) -> Address:
        """The proxy's address for a broker; the first time a port is opened for it."""
        if upstream not in self._addresses:

            async def accept(reader, writer) -> None:
                await self._serve(upstream, reader, writer)

            listener = await asyncio.start_server(accept, "127.0.0.1", 0)
            self._listeners[upstream] = listener
            port = listener.sockets[0].getsockname()[1]
            self._addresses[upstream] = Address("127.0.0.1", port)
        return self._addresses[upstream]

    async def _serve(self, upstream: Address, reader, writer) -> None:
        link = _Link(self, upstream, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a test must see it
            self._note(error)
        finally:
            self._links.discard(link)
            link.close()

    def _note(self, outcome: BaseException | None) -> None:
        """Remember an error, unless it is a connection's ordinary end."""
        ordinary = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        if outcome is not None and not isinstance(outcome, ordinary):
            self.failures.append(f"{type(outcome).__name__}: {outcome}")

    def _rule_for(self, request: Request) -> Rule | None:
        self.counts[request.api] += 1
        return next((rule for rule in self._rules if rule._takes(request)), None)

    async def _localised(self, request: Request, response: bytes) -> bytes:
        """The response with the proxy's addresses in place of the brokers'."""
        if request.api not in WITH_ADDRESSES:
            return response
        replacements = {
            address: await self._proxied(address) for address in addresses(request, response)
        }
        return with_addresses(request, response, replacements)


@dataclass(slots=True)
class _Awaited:
    """A request that a broker has still to answer; a copy's answer goes to its rule."""

    request: Request
    rule: Rule | None = None
    is_copy: bool = False


class _Link:
    """One client connection and its connection to the broker."""

    def __init__(self, proxy: KafkaProxy, upstream: Address, reader, writer) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.client_reader, self.client_writer = reader, writer
        self.broker_reader: asyncio.StreamReader | None = None
        self.broker_writer: asyncio.StreamWriter | None = None
        self.awaited: dict[int, _Awaited] = {}
        self.copies = 0
        self.background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self.broker_reader, self.broker_writer = await asyncio.open_connection(*self.upstream)
        answers = asyncio.ensure_future(self._answers())
        answers.add_done_callback(lambda _: self.client_writer.close())
        try:
            await self._requests()
        finally:
            answers.cancel()
            (outcome,) = await asyncio.gather(answers, return_exceptions=True)
            self.proxy._note(outcome)

    def close(self) -> None:
        for writer in (self.client_writer, self.broker_writer):
            if writer is not None:
                writer.close()

    async def _requests(self) -> None:
        while frame := await _read_frame(self.client_reader):
            request = parse_request(frame)
            await self.proxy._open.wait()
            rule = self.proxy._rule_for(request)
            fault = rule.fault if rule is not None else Fault.COUNT
            if fault is Fault.CUT_BEFORE:
                return
            if fault is Fault.DELAY_REQUEST:
                await asyncio.sleep(rule.delay_s)
            elif fault is Fault.HOLD_REQUEST:
                await rule._released.wait()
            elif fault is Fault.DROP_REQUEST:
                continue
            await self._pass_on(request, rule)
            if fault is Fault.DUPLICATE:
                await self._send_copy(request, rule)
            elif fault is Fault.DUPLICATE_LATE:
                task = asyncio.ensure_future(self._send_late_copy(request, rule))
                self.background.add(task)
                task.add_done_callback(self.background.discard)

    async def _pass_on(self, request: Request, rule: Rule | None) -> None:
        if request.expects_response:
            self.awaited[request.correlation_id] = _Awaited(request, rule)
        self.proxy.passed[request.api] += 1
        if self.broker_writer.is_closing() or self.client_reader.at_eof():
            await self._send_apart(request, rule)
        else:
            await _write_frame(self.broker_writer, request.frame)

    async def _send_copy(self, request: Request, rule: Rule) -> None:
        self.copies += 1
        correlation_id = FIRST_COPY_ID + self.copies
        self.awaited[correlation_id] = _Awaited(request, rule, is_copy=True)
        self.proxy.passed[request.api] += 1
        frame = with_correlation_id(request.frame, correlation_id)
        await _write_frame(self.broker_writer, frame)

    async def _send_late_copy(self, request: Request, rule: Rule) -> None:
        await rule._released.wait()
        if self.broker_writer.is_closing():
            self.proxy.passed[request.api] += 1
            await self._send_apart(request, rule)
        else:
            await self._send_copy(request, rule)

    async def _send_apart(self, request: Request, rule: Rule | None) -> None:
        """Send over a connection of its own what outlived its connection, and read the answer."""
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            await _write_frame(writer, request.frame)
            response = await _read_frame(reader) if request.expects_response else b""
            if rule is not None and response:
                rule._answered(_code(request, response))
        finally:
            writer.close()

    async def _answers(self) -> None:
        while response := await _read_frame(self.broker_reader):
            await self.proxy._open.wait()
            awaited = self.awaited.pop(int.from_bytes(response[:4], "big"))
            rule = awaited.rule
            if awaited.is_copy:
                rule._answered(_code(awaited.request, response))
                continue
            fault = rule.fault if rule is not None else Fault.COUNT
            if fault in RESPONSE_FAULTS:
                rule._answered(_code(awaited.request, response))
            if fault is Fault.DROP_RESPONSE:
                continue
            if fault is Fault.CUT_AFTER:
                break
            if fault is Fault.DELAY_RESPONSE:
                await asyncio.sleep(rule.delay_s)
            elif fault is Fault.HOLD_RESPONSE:
                await rule._released.wait()
            localised = await self.proxy._localised(awaited.request, response)
            await _write_frame(self.client_writer, localised)
        self.close()


def _code(request: Request, response: bytes) -> int:
    with_code = {Api.END_TXN, Api.ADD_OFFSETS_TO_TXN, Api.INIT_PRODUCER_ID}
    return error_code(request, response) if request.api in with_code else 0


async def _run(what: Callable[[], object]) -> None:
    what()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next message without its length; empty at the end of the connection."""
    head = await reader.read(4)
    if not head:
        return b""
    if len(head) < 4:
        head += await reader.readexactly(4 - len(head))
    return await reader.readexactly(int.from_bytes(head, "big"))


async def _write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(4, "big") + frame)
    await writer.drain()
