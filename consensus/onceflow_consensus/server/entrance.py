"""Where connections come in, of peers or of clients: who says nothing or the wrong thing is closed.

The part of both gates that is the same. A connection introduces itself with its first frame; the
gate says what it objects to, and who takes the frames that follow.
Must never import anything that decides what is done for a peer or a client.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from onceflow_consensus.transport.connection import FrameLink
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Refusal,
    Refused,
    Welcome,
    decode_hello,
    encode,
)
from onceflow_consensus.transport.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.server.counters import Counters
    from onceflow_consensus.server.options import ServerOptions
    from onceflow_consensus.transport.addresses import Address
    from onceflow_consensus.transport.requests import Hello
    from onceflow_consensus.transport.tls import TlsFiles

    Objection = tuple[Refusal | None, str]
    Take = Callable[[FrameLink, list[bytes]], None]

_GREETING_S = 5.0
"""Who has not introduced itself after this is closed."""


class Entrance:
    """A listening address.

    links: the connections that stand, also those that have not introduced themselves.
    """

    def __init__(
        self,
        options: ServerOptions,
        counters: Counters,
        max_frame_bytes: int,
        objection: Callable[[Hello], Objection],
        admit: Callable[[FrameLink, Hello], Take],
        left: Callable[[FrameLink], None],
    ) -> None:
        """Be ready to listen.

        Args:
            options: who this member is.
            counters: counts refusals.
            max_frame_bytes: larger frames end a connection.
            objection: says why somebody of this group who speaks this version is not let in.
            admit: is told of somebody who is; returns what takes the frames that follow.
            left: is told that a connection has ended, admitted or not.
        """
        self._options = options
        self._counters = counters
        self._max_frame_bytes = max_frame_bytes
        self._objection_to = objection
        self._admit = admit
        self._left = left
        self._server: asyncio.Server | None = None
        self.links: set[FrameLink] = set()

    async def listen(self, address: Address, tls: TlsFiles | None) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        context = None if tls is None else server_context(tls)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connected, address.host, address.port, ssl=context
        )

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Let nobody in any more; the connections stand."""
        if self._server is not None:
            self._server.close()

    def _connected(self) -> FrameLink:
        link = FrameLink(self._max_frame_bytes, self._greet, self._closed)
        self.links.add(link)

        def give_up() -> None:
            if link.on_bodies == self._greet:
                link.abort()

        asyncio.get_running_loop().call_later(_GREETING_S, give_up)
        return link

    def _closed(self, link: FrameLink, _error: Exception | None) -> None:
        self.links.discard(link)
        self._left(link)

    def _greet(self, link: FrameLink, bodies: list[bytes]) -> None:
        hello = decode_hello(bodies[0])
        refusal, detail = self._objection(hello)
        if refusal is not None:
            self._counters.connections_refused_total += 1
            link.send(encode(Refused(0, refusal, "", detail)))
            link.close()
            return
        link.on_bodies = self._admit(link, hello)
        link.send(encode(Welcome(self._options.peer_id, self._max_frame_bytes)))
        link.flush()
        if len(bodies) > 1:
            link.on_bodies(link, bodies[1:])

    def _objection(self, hello: Hello) -> Objection:
        if hello.version != PROTOCOL_VERSION:
            return Refusal.WRONG_VERSION, f"this member speaks version {PROTOCOL_VERSION}"
        if hello.cluster_id != self._options.cluster_id:
            return Refusal.WRONG_CLUSTER, "this member belongs to another group"
        return self._objection_to(hello)
