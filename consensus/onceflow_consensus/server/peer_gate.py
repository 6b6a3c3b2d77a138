"""Where peers come in: who is let in, messages, and snapshots that are streamed here.

A peer must name the group, the engine and this member; with TLS its certificate has to be of the
peers' authority. A snapshot arrives as the message that announces it, then its file. The message is
stepped when the file is durable, so that the engine never refers to a state that is not here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from onceflow_consensus.errors import FrameRefused, StorageFailed
from onceflow_consensus.limits import MAX_FRAME_BYTES
from onceflow_consensus.server.state_files import decode_reference
from onceflow_consensus.transport.connection import FrameLink
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Done,
    Hello,
    Purpose,
    Refusal,
    Refused,
    Welcome,
    decode_hello,
    encode,
)
from onceflow_consensus.transport.tls import server_context

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.server.member import Member
    from onceflow_consensus.server.state_files import PartialState, StateReference

_GREETING_S = 5.0
"""Who has not introduced itself after this is closed."""


class PeerGate:
    """Listens for peers."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._server: asyncio.Server | None = None
        self._links: set[FrameLink] = set()
        self._receiving: dict[FrameLink, _Receiving] = {}

    async def listen(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        options = self._member.options
        tls = None if options.peer_tls is None else server_context(options.peer_tls)
        address = options.listen.peer
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._admit, address.host, address.port, ssl=tls)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    def _admit(self) -> FrameLink:
        link = FrameLink(MAX_FRAME_BYTES, self._greet, self._closed)
        self._links.add(link)
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if link.on_bodies == self._greet:
                link.abort()

        loop.call_later(_GREETING_S, give_up)
        return link

    def _closed(self, link: FrameLink, _error: Exception | None) -> None:
        self._links.discard(link)
        receiving = self._receiving.pop(link, None)
        if receiving is not None:
            receiving.abandon()

    def _greet(self, link: FrameLink, bodies: list[bytes]) -> None:
        hello = decode_hello(bodies[0])
        refusal, detail = self._objection(hello)
        if refusal is not None:
            self._member.counters.connections_refused_total += 1
            link.send(encode(Refused(0, refusal, "", detail)))
            link.close()
            return
        if hello.purpose is Purpose.MESSAGES:
            link.on_bodies = self._take_messages
        else:
            link.on_bodies = self._begin_snapshot
        link.send(encode(Welcome(self._member.options.peer_id, MAX_FRAME_BYTES)))
        link.flush()
        if len(bodies) > 1:
            link.on_bodies(link, bodies[1:])

    def _objection(self, hello: Hello) -> tuple[Refusal | None, str]:
        options = self._member.options
        if hello.version != PROTOCOL_VERSION:
            return Refusal.WRONG_VERSION, f"this member speaks version {PROTOCOL_VERSION}"
        if hello.purpose is Purpose.CLIENT:
            return Refusal.BAD_REQUEST, "this address is for peers; clients have another one"
        if hello.cluster_id != options.cluster_id:
            return Refusal.WRONG_CLUSTER, "this member belongs to another group"
        if hello.engine != options.engine.value:
            return Refusal.WRONG_CLUSTER, f"this group's engine is {options.engine.value}"
        if hello.to != options.peer_id:
            return Refusal.WRONG_CLUSTER, f"this is member {options.peer_id}, not {hello.to}"
        return None, ""

    def _take_messages(self, _link: FrameLink, bodies: list[bytes]) -> None:
        decode = self._member.codec.decode
        for body in bodies:
            messages = decode(body)
            if any(message.raft_snapshot is not None for message in messages):
                raise FrameRefused("a snapshot must be streamed over a connection of its own")
            self._member.driver.take_messages(messages)

    def _begin_snapshot(self, link: FrameLink, bodies: list[bytes]) -> None:
        messages = self._member.codec.decode(bodies[0])
        if len(messages) != 1 or messages[0].raft_snapshot is None:
            raise FrameRefused("a stream of a snapshot begins with the message that announces it")
        expected = decode_reference(messages[0].raft_snapshot.data)
        self._supersede(messages[0].sender)
        try:
            partial = self._member.data.files.begin(f"from-{messages[0].sender}")
        except StorageFailed as failure:
            self._member.fail(failure)
            return
        self._receiving[link] = _Receiving(self._member, link, messages[0], expected, partial)
        link.on_bodies = self._take_chunks
        if len(bodies) > 1:
            self._take_chunks(link, bodies[1:])

    def _supersede(self, sender: PeerId) -> None:
        """Give up what the same peer sent before: it would not begin anew if that went on.

        Raises:
            FrameRefused: that one is whole and is being made durable.
        """
        for link, receiving in [*self._receiving.items()]:
            if receiving.sender == sender:
                if receiving.is_whole:
                    raise FrameRefused("a snapshot of this peer is whole and is being taken")
                del self._receiving[link]
                receiving.abandon()
                link.abort()

    def _take_chunks(self, link: FrameLink, bodies: list[bytes]) -> None:
        for body in bodies:
            receiving = self._receiving.get(link)
            if receiving is not None:
                receiving.take(body)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for link in [*self._links]:
            link.abort()
        await asyncio.sleep(0)


class _Receiving:
    """A state file that is being received."""

    def __init__(
        self,
        member: Member,
        link: FrameLink,
        message: PeerMessage,
        expected: StateReference,
        partial: PartialState,
    ) -> None:
        self._member = member
        self._link = link
        self._message = message
        self._expected = expected
        self._partial = partial
        self._finishing: asyncio.Task[None] | None = None
        self.sender = message.sender

    def take(self, chunk: bytes) -> None:
        """Write a chunk; finish when the file is whole.

        Raises:
            FrameRefused: more than was announced, or other bytes; close the connection.
        """
        partial, expected = self._partial, self._expected
        if partial.size_bytes + len(chunk) > expected.size_bytes:
            raise FrameRefused("a snapshot is longer than was announced")
        try:
            partial.write(chunk)
        except OSError as error:
            failure = StorageFailed(f"cannot write a received snapshot: {error}; check the disk.")
            self._member.fail(failure)
            return
        if partial.size_bytes == expected.size_bytes:
            if partial.reference != expected:
                raise FrameRefused("a snapshot does not have its checksum")
            self._finishing = asyncio.create_task(self._finish(), name="finish-snapshot")

    async def _finish(self) -> None:
        received = self._message.raft_snapshot
        if received is None:
            return
        files = self._member.data.files
        try:
            await asyncio.to_thread(files.finish, self._partial, received.index, received.term)
        except StorageFailed as failure:
            self._member.fail(failure)
            return
        self._member.driver.take_messages([self._message])
        self._link.send(encode(Done(0)))
        self._link.flush()

    @property
    def is_whole(self) -> bool:
        """Whether everything has arrived."""
        return self._finishing is not None

    def abandon(self) -> None:
        """Drop what was received unless it is whole."""
        if not self.is_whole:
            self._partial.abandon()
