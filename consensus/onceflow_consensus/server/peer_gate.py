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
from onceflow_consensus.server.entrance import Entrance
from onceflow_consensus.server.state_files import decode_reference
from onceflow_consensus.transport.requests import Done, Hello, Purpose, Refusal, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.server.member import Member
    from onceflow_consensus.server.state_files import PartialState, StateReference
    from onceflow_consensus.transport.connection import FrameLink


class PeerGate:
    """Listens for peers."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._entrance = Entrance(
            member.options,
            member.counters,
            MAX_FRAME_BYTES,
            self._objection,
            self._admit,
            self._left,
        )
        self._receiving: dict[FrameLink, _Receiving] = {}

    async def listen(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        options = self._member.options
        await self._entrance.listen(options.listen.peer, options.peer_tls)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return self._entrance.port

    def _objection(self, hello: Hello) -> tuple[Refusal | None, str]:
        options = self._member.options
        if hello.purpose is Purpose.CLIENT:
            return Refusal.BAD_REQUEST, "this address is for peers; clients have another one"
        if hello.engine != options.engine.value:
            return Refusal.WRONG_CLUSTER, f"this group's engine is {options.engine.value}"
        if hello.to != options.peer_id:
            return Refusal.WRONG_CLUSTER, f"this is member {options.peer_id}, not {hello.to}"
        return None, ""

    def _admit(self, _link: FrameLink, hello: Hello) -> Callable[[FrameLink, list[bytes]], None]:
        is_stream = hello.purpose is not Purpose.MESSAGES
        return self._begin_snapshot if is_stream else self._take_messages

    def _left(self, link: FrameLink) -> None:
        receiving = self._receiving.pop(link, None)
        if receiving is not None:
            receiving.abandon()

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
        self._entrance.stop_listening()
        for link in [*self._entrance.links]:
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
