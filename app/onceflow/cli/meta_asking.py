"""How a command asks a group: one connection per try, on to the leader or the next member.

A command runs once and is gone, so that it keeps no connection. What it asks is asked again until
``--timeout``, at whoever is said to lead, else at the next address. A write is repeated within a
session of its own, so that it takes effect once however often it was asked.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, TypeVar

from onceflow.cli.meta_options import read_token, tls_files, told
from onceflow.errors import ConfigError, OnceflowError, Unreachable
from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.limits import MAX_FRAME_BYTES
from onceflow_consensus.sessions import (
    Status,
    encode_registration,
    registered_session_id,
    split_outcome,
)
from onceflow_consensus.state_machine import CommandKind
from onceflow_consensus.transport.addresses import parse_address
from onceflow_consensus.transport.frames import FrameReader, encode_frame
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Hello,
    Purpose,
    Refusal,
    Refused,
    Submit,
    Submitted,
    TendSession,
    Welcome,
    decode_answer,
    encode,
)
from onceflow_consensus.transport.tls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from onceflow.cli.meta_options import Connection
    from onceflow_consensus.transport.addresses import Address
    from onceflow_consensus.transport.requests import Answer, Request

AnswerKind = TypeVar("AnswerKind", bound="Answer")
Result = TypeVar("Result")

REQUEST_ID = 1
"""Number of the only request of a connection."""

_TRY_S = 3.0
"""Longest wait for one member: beyond an election, so that a leader that died is not waited for."""

_PAUSE_S = 0.05
"""Between tries, so that a group that elects is not busied."""

_FORGET_SESSION_S = 60.0
"""A session whose command is gone ends after this, if it could not be closed."""

_REFUSED_FOR_GOOD = {
    Refusal.NOT_AUTHENTICATED: "Give the members' token with --token-file.",
    Refusal.WRONG_CLUSTER: "Correct --endpoints, or name the group with --cluster.",
    Refusal.WRONG_VERSION: "Use the version of onceflow that the members run.",
    Refusal.BAD_REQUEST: "Correct the command.",
}


class _Refused(Exception):  # noqa: N818 - control flow within this module
    """A member refused; carries what it said."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.refusal.name.lower()} {refused.detail}".strip())
        self.refused = refused


class Asker:
    """Asks the group of a command's options."""

    def __init__(self, connection: Connection) -> None:
        """Read token and TLS files.

        Raises:
            ConfigError: one cannot be used, or an address is malformed.
        """
        self._addresses = connection.addresses()
        files = tls_files(connection.tls)
        with told():
            self._tls: ssl.SSLContext | None = None if files is None else client_context(files)
        token = read_token(connection.token_file)
        self._hello = encode(
            Hello(PROTOCOL_VERSION, Purpose.CLIENT, connection.cluster, token=token)
        )
        self._deadline_s = time.monotonic() + connection.timeout_s
        self._timeout_s = connection.timeout_s
        self._turn = 0
        self._named: Address | None = None

    def turn_elsewhere(self) -> None:
        """Ask the next address next, because the present one does not help."""
        self._turn += 1
        self._named = None

    async def ask(self, request: Request, kind: type[AnswerKind]) -> AnswerKind:
        """Ask until a member answers with a ``kind``.

        Raises:
            ConfigError: the request, or who asks, is refused for good.
            Unreachable: nobody answered in time; the message says why for each member.
        """
        async with aclosing(self.stream(request)) as answers:
            answer = await anext(answers)
        if not isinstance(answer, kind):
            raise OnceflowError(f"A member answered something else than was asked: {answer}.")
        return answer

    async def stream(self, request: Request) -> AsyncGenerator[Answer]:
        """Ask until a member answers, and yield all it says until it closes the connection.

        Raises:
            ConfigError, Unreachable: see ``ask``. After the first answer nobody else is asked.
        """
        reasons: dict[str, str] = {}
        while (left_s := self._deadline_s - time.monotonic()) > 0:
            address = self._named or self._addresses[self._turn % len(self._addresses)]
            answers = self._answers(address, request)
            try:
                async with asyncio.timeout(min(_TRY_S, left_s)):
                    first = await anext(answers)
            except (OSError, FrameRefused, StopAsyncIteration) as error:
                reasons[str(address)] = str(error) or "no answer"
                self.turn_elsewhere()
            except _Refused as refusal:
                reasons[str(address)] = str(refusal)
                self.turn_elsewhere()
                self._named = _leader_named(refusal.refused, address)
            else:
                async with aclosing(answers):
                    yield first
                    async for answer in answers:
                        yield answer
                return
            await asyncio.sleep(_PAUSE_S)
        told_of = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        raise Unreachable(
            f"The group did not answer within {self._timeout_s:g} s ({told_of or 'no try'}). What "
            "was asked may still take effect, once. Check --endpoints, and that more than half of "
            "the members run and reach each other."
        )

    async def _answers(self, address: Address, request: Request) -> AsyncGenerator[Answer]:
        """Yield what one member answers.

        Raises:
            OSError, FrameRefused: it cannot be reached or understood.
            _Refused: it says no.
        """
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=self._tls)
        try:
            writer.write(encode_frame(self._hello))
            writer.write(encode_frame(encode(request)))
            frames = FrameReader(MAX_FRAME_BYTES)
            while data := await reader.read(MAX_FRAME_BYTES):
                for body in frames.feed(data):
                    answer = decode_answer(body)
                    if isinstance(answer, Refused):
                        raise _Refused(answer)
                    if not isinstance(answer, Welcome):
                        yield answer
        finally:
            # Not closed politely: nobody is left to wait until TLS has said farewell.
            writer.transport.abort()

    async def submit(self, command: bytes) -> tuple[int, bytes]:
        """Carry a command out once; return the log index it took effect at, and the response.

        Raises:
            ConfigError, Unreachable: see ``ask``.
            OnceflowError: the group refused the session or lost it.
        """
        payload = encode_registration(int(_FORGET_SESSION_S * 1000))
        opened = await self.ask(
            TendSession(REQUEST_ID, CommandKind.REGISTER, payload=payload), Submitted
        )
        session = registered_session_id(_response(opened))
        taken = await self.ask(Submit(REQUEST_ID, session, 1, 1, [command]), Submitted)
        response = _response(taken)
        with suppress(Unreachable):  # it was taken; the session ends by itself as well
            await self.ask(TendSession(REQUEST_ID, CommandKind.CLOSE, session), Submitted)
        return taken.index, response


def _response(submitted: Submitted) -> bytes:
    status, response = split_outcome(submitted.outcomes[0])
    if status is not Status.OK:
        raise OnceflowError(
            f"The group refused the command: {status.name.lower()}. Whether an earlier try of it "
            "took effect is not known: read the key before you repeat it."
        )
    return response


def _leader_named(refused: Refused, asked: Address) -> Address | None:
    """Return who leads according to a refusal.

    Raises:
        ConfigError: the refusal is for good.
    """
    advice = _REFUSED_FOR_GOOD.get(refused.refusal)
    if advice is not None:
        said = f": {refused.detail}" if refused.detail else ""
        kind = refused.refusal.name.lower().replace("_", " ")
        raise ConfigError(f"{asked} refuses ({kind}{said}). Nothing was done. {advice}")
    return parse_address(refused.leader_address) if refused.leader_address else None


def run(
    connection: Connection, question: Callable[[Asker], Coroutine[None, None, Result]]
) -> Result:
    """Ask ``question`` of the group that the options name, in a loop of its own."""

    async def asked() -> Result:
        return await question(Asker(connection))

    with told():
        return asyncio.run(asked())
