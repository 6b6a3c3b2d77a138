"""``GroupClient``: what a program uses to submit commands to a group and to query it.

Theory of operation: one connection at a time, to the leader as far as it is known. Whatever callers
ask in one turn of the loop leaves together. A keeper task connects, follows hints to the leader,
and tries the next address when a member is gone, refuses, or stays silent; everything unanswered is
then asked again. Commands have effect once however often they are asked for (``commands``).
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from onceflow_consensus.client.commands import Commands, Waiting
from onceflow_consensus.errors import (
    ConsensusError,
    FrameRefused,
    GroupUnreachable,
    InvalidOptions,
    RequestRefused,
    SessionLost,
)
from onceflow_consensus.limits import MAX_COMMAND_BYTES
from onceflow_consensus.sessions import (
    Status,
    encode_registration,
    registered_session_id,
    split_outcome,
)
from onceflow_consensus.state_machine import CommandKind
from onceflow_consensus.transport.addresses import Address, parse_address
from onceflow_consensus.transport.peers import open_link
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Answer,
    Consistency,
    Done,
    Hello,
    Purpose,
    Read,
    ReadAnswered,
    Refusal,
    Refused,
    Submitted,
    TendSession,
    Welcome,
    decode_answer,
    encode,
)
from onceflow_consensus.transport.tls import TlsFiles, client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from onceflow_consensus.transport.connection import FrameLink
    from onceflow_consensus.transport.requests import Request

_CHECK_S = 0.05
"""How often time-outs are looked at."""

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.005, 0.1
"""Pause before the next address is tried: short, since a leader is missed, and bounded, since its
successor may be there at any moment."""

_FINAL = frozenset(
    {Refusal.BAD_REQUEST, Refusal.NOT_AUTHENTICATED, Refusal.WRONG_CLUSTER, Refusal.WRONG_VERSION}
)
"""Refusals that do not go away by asking again or elsewhere."""

_FINAL_NAMES = frozenset(refusal.name for refusal in _FINAL)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Options of a client.

    cluster_id: the group's name. addresses: clients' addresses of members, some of them. token,
    tls: how it shows who it is. timeout_s: how long a call waits before ``GroupUnreachable``.
    silence_s: how long a member may stay silent while something is asked of it, before another one
    is tried. session_timeout_s: how long the group keeps the session of a client that is silent.
    """

    cluster_id: str
    addresses: Sequence[Address]
    token: str = field(default="", repr=False)
    tls: TlsFiles | None = None
    timeout_s: float = 10.0
    silence_s: float = 1.0
    session_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidOptions: there is no address.
        """
        if not self.addresses:
            raise InvalidOptions("a client needs the address of at least one member")


@dataclass(slots=True)
class _Asked:
    """A request other than a command, and who waits for its answer."""

    make: Callable[[int], Request]
    future: asyncio.Future[Answer]
    deadline_s: float


class GroupClient:
    """A client of a group, to be used as an asynchronous context manager or opened and closed."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._tls = None if options.tls is None else client_context(options.tls)
        self._loop = asyncio.get_running_loop()
        self._commands = Commands()
        self._asked: dict[int, _Asked] = {}
        self._unsent: list[int] = []
        self._queries: dict[tuple[Consistency, int], list[tuple[bytes, asyncio.Future[bytes]]]] = {}
        self._submits: dict[int, int] = {}
        self._request_ids = itertools.count(1)
        self._link: FrameLink | None = None
        self._is_flush_due = False
        self._is_held = False
        self._is_registering = False
        self._heard_s = 0.0
        self._seen_index = 0
        self._next_address: Address | None = None
        self._rotation = itertools.cycle(options.addresses)
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Begin to connect. Calls may be made at once; they wait."""
        self._tasks = [
            asyncio.create_task(self._keep_connected(), name="group-client"),
            asyncio.create_task(self._watch(), name="group-client-watch"),
        ]

    async def close(self) -> None:
        """Close the connection. What is unanswered is told ``GroupUnreachable``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            self._link.abort()
            self._link = None
        self._fail_all(GroupUnreachable("the client was closed before this was answered"))

    async def submit(self, command: bytes) -> bytes:
        """Carry a command out, once; return the state machine's response.

        Raises:
            GroupUnreachable: not answered in time; it may still take effect, once at most.
            SessionLost: see there.
            RequestRefused: the command cannot be carried out.
        """
        if len(command) > MAX_COMMAND_BYTES:
            raise RequestRefused(f"a command must have at most {MAX_COMMAND_BYTES} bytes")
        future: asyncio.Future[bytes] = self._loop.create_future()
        deadline_s = self._loop.time() + self._options.timeout_s
        self._commands.add(Waiting(command, future, deadline_s))
        self._flush_soon()
        return await future

    async def query(
        self,
        question: bytes,
        consistency: Consistency = Consistency.LINEARIZABLE,
        max_age_ms: int = 0,
    ) -> bytes:
        """Ask the state machine.

        Args:
            question: what it understands.
            consistency: what the answer may miss; see ``Consistency``. SESSION counts all that
                this client has submitted and read.
            max_age_ms: with STALE, how old the answer may be; 0 sets no bound.

        Raises:
            GroupUnreachable: not answered in time.
            RequestRefused: the query cannot be answered.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._queries.setdefault((consistency, max_age_ms), []).append((question, future))
        self._flush_soon()
        return await future

    async def ask(self, make: Callable[[int], Request]) -> Done:
        """Send an administrative request, made from its number, until a member carried it out.

        Raises:
            GroupUnreachable: not answered in time.
            RequestRefused: it cannot be carried out.
        """
        answer = await self._ask(make)
        if not isinstance(answer, Done):
            raise RequestRefused(f"a member answered something else: {answer}")
        return answer

    def _ask(self, make: Callable[[int], Request]) -> asyncio.Future[Answer]:
        request_id = next(self._request_ids)
        future: asyncio.Future[Answer] = self._loop.create_future()
        deadline_s = self._loop.time() + self._options.timeout_s
        self._asked[request_id] = _Asked(make, future, deadline_s)
        self._unsent.append(request_id)
        self._flush_soon()
        return future

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what was asked in this turn, as far as there is somebody to send it to."""
        self._is_flush_due = False
        if self._queries:
            self._gather_queries()
        if self._commands.has_unsent and not self._commands.session:
            self._register()
        link = self._link
        if link is None:
            return
        if self._is_idle_before_flush:
            self._heard_s = self._loop.time()
        for request_id in self._unsent:
            asked = self._asked.get(request_id)
            if asked is not None:
                link.send(encode(asked.make(request_id)))
        self._unsent = []
        commands = self._commands
        while commands.session and not self._is_held:
            submit = commands.take_unsent(next(self._request_ids))
            if submit is None:
                break
            self._submits[submit.request_id] = submit.first_sequence
            link.send(encode(submit))
        link.flush()

    @property
    def _is_idle_before_flush(self) -> bool:
        return not self._submits and len(self._asked) <= len(self._unsent)

    def _gather_queries(self) -> None:
        gathered, self._queries = self._queries, {}
        for (consistency, max_age_ms), pairs in gathered.items():
            questions = [question for question, _ in pairs]
            futures = [future for _, future in pairs]

            def make(
                request_id: int,
                consistency: Consistency = consistency,
                questions: list[bytes] = questions,
                max_age_ms: int = max_age_ms,
            ) -> Read:
                seen = self._seen_index if consistency is Consistency.SESSION else 0
                return Read(request_id, consistency, questions, seen, max_age_ms)

            def told(
                asked: asyncio.Future[Answer], futures: list[asyncio.Future[bytes]] = futures
            ) -> None:
                self._tell_queries(asked, futures)

            self._ask(make).add_done_callback(told)

    def _tell_queries(
        self, asked: asyncio.Future[Answer], futures: list[asyncio.Future[bytes]]
    ) -> None:
        error = asked.exception()
        answer = None if error is not None else asked.result()
        if isinstance(answer, ReadAnswered):
            self._seen_index = max(self._seen_index, answer.index)
            for future, result in zip(futures, answer.results, strict=True):
                if not future.done():
                    future.set_result(result)
            return
        failure = error or RequestRefused(f"a member answered something else: {answer}")
        for future in futures:
            if not future.done():
                future.set_exception(failure)

    async def _keep_connected(self) -> None:
        pause_s = _PAUSE_MIN_S
        while True:
            address = self._next_address or next(self._rotation)
            self._next_address = None
            try:
                await self._serve(address)
                pause_s = _PAUSE_MIN_S
            except (OSError, FrameRefused):
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            except RequestRefused as refused:
                pause_s = _PAUSE_MAX_S
                if refused.reason in _FINAL_NAMES:
                    self._fail_all(refused)
            self._link = None
            if self._next_address is None:
                await asyncio.sleep(pause_s)

    async def _serve(self, address: Address) -> None:
        """Connect to a member, ask it everything unanswered, and wait until it is of no more use.

        Raises:
            OSError, FrameRefused: it cannot be reached.
            RequestRefused: it refuses us for good.
        """
        options = self._options
        self._ended = asyncio.Event()
        ended = self._ended

        def closed(_link: FrameLink, _error: Exception | None) -> None:
            ended.set()

        hello = Hello(PROTOCOL_VERSION, Purpose.CLIENT, options.cluster_id, token=options.token)
        link = await open_link(address, encode(hello), self._tls, closed)
        link.on_bodies = self._take
        self._link = link
        self._heard_s = self._loop.time()
        self._is_held = False
        self._submits = {}
        self._unsent = [*self._asked]
        self._commands.send_again()
        try:
            self._flush_soon()
            await ended.wait()
        finally:
            link.abort()

    def _register(self) -> None:
        """Ask for a session, unless that is under way; whoever only reads needs none."""
        timeout_ms = int(self._options.session_timeout_s * 1000)
        payload = encode_registration(timeout_ms)

        def make(request_id: int) -> TendSession:
            return TendSession(request_id, CommandKind.REGISTER, payload=payload)

        def registered(asked: asyncio.Future[Answer]) -> None:
            self._is_registering = False
            answer = None if asked.exception() is not None else asked.result()
            if isinstance(answer, Submitted):
                status, response = split_outcome(answer.outcomes[0])
                if status is Status.OK:
                    self._commands.session = registered_session_id(response)
                    self._flush_soon()
                    return
            # Whatever waits for a session asks for one again.
            self._loop.call_later(_PAUSE_MAX_S, self._flush_soon)

        if not self._is_registering:
            self._is_registering = True
            self._ask(make).add_done_callback(registered)

    def _take(self, _link: FrameLink, bodies: list[bytes]) -> None:
        self._heard_s = self._loop.time()
        for body in bodies:
            self._take_answer(decode_answer(body))

    def _take_answer(self, answer: Answer) -> None:
        if isinstance(answer, Welcome):
            return
        if isinstance(answer, Refused):
            self._take_refusal(answer)
            return
        first_sequence = self._submits.pop(answer.request_id, None)
        if isinstance(answer, Submitted):
            self._seen_index = max(self._seen_index, answer.index)
            if first_sequence is not None:
                self._take_outcomes(first_sequence, answer.outcomes)
                return
        asked = self._asked.pop(answer.request_id, None)
        if asked is not None and not asked.future.done():
            asked.future.set_result(answer)

    def _take_outcomes(self, first_sequence: int, outcomes: list[bytes]) -> None:
        try:
            is_whole = self._commands.answered(first_sequence, outcomes)
        except SessionLost:
            self._submits = {}
            return
        if not is_whole:
            self._send_again_later()
        if self._commands.has_unsent:
            self._flush_soon()

    def _take_refusal(self, refused: Refused) -> None:
        if refused.refusal in _FINAL:
            self._fail_one(refused)
            return
        self._submits.pop(refused.request_id, None)
        if refused.request_id in self._asked:
            self._unsent.append(refused.request_id)
        if refused.refusal is Refusal.OVERLOADED:
            self._send_again_later()
            return
        if refused.leader_address:
            self._next_address = parse_address(refused.leader_address)
        self._ended.set()

    def _fail_one(self, refused: Refused) -> None:
        error = RequestRefused(refused.detail, refused.refusal.name)
        asked = self._asked.pop(refused.request_id, None)
        if asked is not None and not asked.future.done():
            asked.future.set_exception(error)
        elif refused.request_id in self._submits:
            # Their numbers were not taken, so that later ones could not be either.
            self._commands.fail(error)
            self._submits = {}

    def _send_again_later(self) -> None:
        """Hold commands back for a moment, then send all that are unanswered in order."""
        if self._is_held:
            return
        self._is_held = True

        def release() -> None:
            self._is_held = False
            self._commands.send_again()
            self._flush_soon()

        self._loop.call_later(_PAUSE_MIN_S, release)

    async def _watch(self) -> None:
        """Give up calls whose time is over, and members that stay silent."""
        while True:
            await asyncio.sleep(_CHECK_S)
            now_s = self._loop.time()
            self._commands.give_up_late(now_s)
            for request_id, asked in [*self._asked.items()]:
                if asked.deadline_s <= now_s and not asked.future.done():
                    del self._asked[request_id]
                    asked.future.set_exception(GroupUnreachable("no member answered in time"))
            waits = bool(self._submits or self._asked)
            if waits and now_s - self._heard_s > self._options.silence_s:
                self._ended.set()

    def _fail_all(self, error: ConsensusError) -> None:
        self._commands.fail(error)
        for asked in self._asked.values():
            if not asked.future.done():
                asked.future.set_exception(error)
        self._asked.clear()
        for pairs in self._queries.values():
            for _, future in pairs:
                if not future.done():
                    future.set_exception(error)
        self._queries.clear()
