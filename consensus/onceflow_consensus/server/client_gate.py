"""Where clients come in: who is let in, and which part of the member answers what.

A client names the group and shows its token, or a certificate, or both, as the member's options
demand. The number of clients and what each may have outstanding are bounded.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from onceflow_consensus.limits import MAX_CLIENT_FRAME_BYTES, MAX_CLIENTS
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.server.conversations import Conversation
from onceflow_consensus.transport.connection import FrameLink
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Hello,
    Purpose,
    Read,
    Refusal,
    Refused,
    Submit,
    TendSession,
    Welcome,
    decode_hello,
    decode_request,
    encode,
)
from onceflow_consensus.transport.tls import server_context

if TYPE_CHECKING:
    from onceflow_consensus.server.member import Member
    from onceflow_consensus.transport.requests import Request

_GREETING_S = 5.0
"""Who has not introduced itself after this is closed."""


class ClientGate:
    """Listens for clients."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._server: asyncio.Server | None = None
        self._conversations: dict[FrameLink, Conversation] = {}
        self._is_closing = False

    async def listen(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        options = self._member.options
        tls = None if options.client_tls is None else server_context(options.client_tls)
        address = options.listen.client
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._admit, address.host, address.port, ssl=tls)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    @property
    def client_count(self) -> int:
        """Return how many clients are connected."""
        return len(self._conversations)

    def _admit(self) -> FrameLink:
        link = FrameLink(MAX_CLIENT_FRAME_BYTES, self._greet, self._closed)
        self._conversations[link] = Conversation(link, self._member.outbox)
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if link.on_bodies == self._greet:
                link.abort()

        loop.call_later(_GREETING_S, give_up)
        return link

    def _closed(self, link: FrameLink, _error: Exception | None) -> None:
        self._conversations.pop(link, None)

    def _greet(self, link: FrameLink, bodies: list[bytes]) -> None:
        refusal, detail = self._objection(decode_hello(bodies[0]))
        if refusal is not None:
            self._member.counters.connections_refused_total += 1
            link.send(encode(Refused(0, refusal, "", detail)))
            link.close()
            return
        link.on_bodies = self._take
        link.send(encode(Welcome(self._member.options.peer_id, MAX_CLIENT_FRAME_BYTES)))
        link.flush()
        if len(bodies) > 1:
            self._take(link, bodies[1:])

    def _objection(self, hello: Hello) -> tuple[Refusal | None, str]:
        options = self._member.options
        rules = (
            (
                hello.version != PROTOCOL_VERSION,
                Refusal.WRONG_VERSION,
                f"this member speaks version {PROTOCOL_VERSION}",
            ),
            (
                hello.cluster_id != options.cluster_id,
                Refusal.WRONG_CLUSTER,
                "this member belongs to another group",
            ),
            (
                hello.purpose is not Purpose.CLIENT,
                Refusal.BAD_REQUEST,
                "this address is for clients; peers have another one",
            ),
            (
                not hmac.compare_digest(hello.token.encode(), options.client_token.encode()),
                Refusal.NOT_AUTHENTICATED,
                "the token is missing or wrong",
            ),
            (self._is_closing, Refusal.SHUTTING_DOWN, ""),
            (
                len(self._conversations) > MAX_CLIENTS,
                Refusal.OVERLOADED,
                f"{MAX_CLIENTS} clients are connected",
            ),
        )
        return next(((why, detail) for is_met, why, detail in rules if is_met), (None, ""))

    def _take(self, link: FrameLink, bodies: list[bytes]) -> None:
        conversation = self._conversations[link]
        for body in bodies:
            self._carry_out(conversation, decode_request(body))
        if len(self._conversations) == 1:
            self._member.driver.take_alone()
        else:
            self._member.driver.wake()

    def _carry_out(self, conversation: Conversation, request: Request) -> None:
        member = self._member
        if self._is_closing:
            conversation.refuse(request.request_id, Refusal.SHUTTING_DOWN)
        elif isinstance(request, Submit | TendSession):
            if member.driver.role is not Role.LEADER:
                conversation.refuse(request.request_id, Refusal.NOT_LEADER)
            elif isinstance(request, Submit):
                member.proposals.take(conversation, request)
            else:
                member.proposals.take_tending(conversation, request)
        elif isinstance(request, Read):
            member.reads.take(conversation, request)
        else:
            member.administration.take(conversation, request)

    async def close(self) -> None:
        """Refuse what is under way and close all connections."""
        self._is_closing = True
        if self._server is not None:
            self._server.close()
        self._member.proposals.refuse_all(Refusal.SHUTTING_DOWN)
        self._member.reads.refuse_all(Refusal.SHUTTING_DOWN)
        self._member.outbox.flush()
        for link in [*self._conversations]:
            link.close()
        await asyncio.sleep(0)
