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
from onceflow_consensus.server.entrance import Entrance
from onceflow_consensus.transport.requests import (
    Hello,
    Purpose,
    Read,
    Refusal,
    Submit,
    TendSession,
    decode_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.server.member import Member
    from onceflow_consensus.transport.connection import FrameLink
    from onceflow_consensus.transport.requests import Request


class ClientGate:
    """Listens for clients."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._entrance = Entrance(
            member.options,
            member.counters,
            MAX_CLIENT_FRAME_BYTES,
            self._objection,
            self._admit,
            self._left,
        )
        self._conversations: dict[FrameLink, Conversation] = {}
        self._is_closing = False

    async def listen(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        options = self._member.options
        await self._entrance.listen(options.listen.client, options.client_tls)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return self._entrance.port

    @property
    def client_count(self) -> int:
        """Return how many clients are connected."""
        return len(self._entrance.links)

    def _objection(self, hello: Hello) -> tuple[Refusal | None, str]:
        given, expected = hello.token.encode(), self._member.options.client_token.encode()
        rules = (
            (
                hello.purpose is not Purpose.CLIENT,
                Refusal.BAD_REQUEST,
                "this address is for clients; peers have another one",
            ),
            (
                not hmac.compare_digest(given, expected),
                Refusal.NOT_AUTHENTICATED,
                "the token is missing or wrong",
            ),
            (self._is_closing, Refusal.SHUTTING_DOWN, ""),
            (
                self.client_count > MAX_CLIENTS,
                Refusal.OVERLOADED,
                f"{MAX_CLIENTS} clients are connected",
            ),
        )
        return next(((why, detail) for is_met, why, detail in rules if is_met), (None, ""))

    def _admit(self, link: FrameLink, _hello: Hello) -> Callable[[FrameLink, list[bytes]], None]:
        self._conversations[link] = Conversation(link, self._member.outbox)
        return self._take

    def _left(self, link: FrameLink) -> None:
        self._conversations.pop(link, None)

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
        self._entrance.stop_listening()
        self._member.proposals.refuse_all(Refusal.SHUTTING_DOWN)
        self._member.reads.refuse_all(Refusal.SHUTTING_DOWN)
        self._member.outbox.flush()
        for link in [*self._entrance.links]:
            link.close()
        await asyncio.sleep(0)
