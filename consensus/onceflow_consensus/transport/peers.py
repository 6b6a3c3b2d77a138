"""Connections to the peers: one to each for messages, made again whenever it ends.

Theory of operation: a turn of the server queues messages; ``flush`` bundles what each peer gets
into one frame. A peer that is not connected, or does not read, loses its messages, as on any
network: the engine repeats what matters. The first loss is told, so that a leader stops running
ahead. Snapshots have connections of their own, so that they never stand before messages.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow_consensus.errors import FrameRefused, RequestRefused
from onceflow_consensus.limits import MAX_FRAME_BYTES, MAX_PEER_QUEUE_BYTES
from onceflow_consensus.raft.messages import payload_bytes
from onceflow_consensus.transport.connection import FrameLink
from onceflow_consensus.transport.requests import (
    PROTOCOL_VERSION,
    Hello,
    Purpose,
    Refused,
    Welcome,
    decode_answer,
    encode,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.transport.addresses import Address
    from onceflow_consensus.transport.codec import Codec

_BUNDLE_BYTES = MAX_FRAME_BYTES // 8
"""Entries in one frame, beyond the first message: well within what a receiver accepts."""

_CONNECT_S = 1.0
"""Longest wait for a connection and its greeting, on any network that a group can live on."""

_RETRY_MIN_S, _RETRY_MAX_S = 0.02, 0.5
"""Pause before a connection is tried again: short at first, because a peer that restarts is back
soon, and bounded, because the group misses it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a member is, as it introduces itself to peers."""

    cluster_id: str
    engine: str
    peer_id: PeerId

    def hello(self, purpose: Purpose, to: PeerId) -> bytes:
        """Return the first frame's body of a connection to ``to``."""
        return encode(
            Hello(PROTOCOL_VERSION, purpose, self.cluster_id, self.engine, self.peer_id, to)
        )


@dataclass(slots=True)
class _Peer:
    address: Address
    link: FrameLink | None = None
    queued: list[PeerMessage] = field(default_factory=list["PeerMessage"])
    deferred: PeerMessage | None = None
    deferred_s: float = 0.0
    was_told: bool = False
    refusal: str = ""


async def open_link(
    address: Address,
    hello: bytes,
    tls: ssl.SSLContext | None,
    on_closed: Callable[[FrameLink, Exception | None], None],
) -> FrameLink:
    """Connect, introduce ourselves, and return the link once the other side has welcomed us.

    Raises:
        OSError, TimeoutError: there is no connection; try again later.
        RequestRefused: the other side does not let us in, and said why.
        FrameRefused: the other side is no member of a group.
    """
    loop = asyncio.get_running_loop()
    greeting: asyncio.Future[bytes] = loop.create_future()

    def take(_link: FrameLink, bodies: list[bytes]) -> None:
        if not greeting.done():
            greeting.set_result(bodies[0])

    def closed(link: FrameLink, error: Exception | None) -> None:
        if not greeting.done():
            greeting.set_exception(error or ConnectionResetError("closed before it was greeted"))
        on_closed(link, error)

    with ExitStack() as undone:
        async with asyncio.timeout(_CONNECT_S):
            _, link = await loop.create_connection(
                lambda: FrameLink(MAX_FRAME_BYTES, take, closed),
                address.host,
                address.port,
                ssl=tls,
            )
            undone.callback(link.abort)
            link.send(hello)
            link.flush()
            answer = decode_answer(await greeting)
        if isinstance(answer, Refused):
            raise RequestRefused(f"{address} says: {answer.detail}", answer.refusal.name)
        if not isinstance(answer, Welcome):
            raise FrameRefused(f"{address} greets with something else: {answer}")
        undone.pop_all()
        return link


class PeerLinks:
    """Ways to the other members.

    on_lost: is told that messages to a peer are being lost, once until it is reached again.
    tls: settings of connections to peers. is_muted: everything is dropped.
    """

    def __init__(
        self,
        identity: Identity,
        codec: Codec,
        tls: ssl.SSLContext | None,
        on_lost: Callable[[PeerId], None],
    ) -> None:
        self._identity = identity
        self._codec = codec
        self.tls = tls
        self._on_lost = on_lost
        self._clock = asyncio.get_running_loop().time
        self._peers: dict[PeerId, _Peer] = {}
        self._connectors: dict[PeerId, asyncio.Task[None]] = {}
        self.dropped_count = 0
        self.is_muted = False

    def set_addresses(self, addresses: Mapping[PeerId, Address]) -> None:
        """Keep connections to exactly these peers."""
        for peer_id in [*self._peers]:
            if addresses.get(peer_id) != self._peers[peer_id].address:
                self._drop(peer_id)
        for peer_id, address in addresses.items():
            if peer_id != self._identity.peer_id and peer_id not in self._peers:
                self._peers[peer_id] = _Peer(address)
                self._connectors[peer_id] = asyncio.create_task(
                    self._keep_connected(peer_id), name=f"peer-{peer_id}"
                )

    @property
    def connected(self) -> list[PeerId]:
        """Return the peers that are connected."""
        return [peer_id for peer_id, peer in self._peers.items() if peer.link is not None]

    def address_of(self, peer_id: PeerId) -> Address:
        """Return where a peer is reached.

        Raises:
            ConnectionError: it is not known; try again later.
        """
        peer = self._peers.get(peer_id)
        if peer is None:
            raise ConnectionError(f"no address of member {peer_id} is known")
        return peer.address

    def refusal_of(self, peer_id: PeerId) -> str:
        """Return why a peer refuses us, empty if it does not."""
        peer = self._peers.get(peer_id)
        return "" if peer is None else peer.refusal

    def queue(self, message: PeerMessage) -> None:
        """Queue a message until ``flush``; messages to strangers are dropped."""
        peer = self._peers.get(message.to)
        if peer is None:
            self.dropped_count += 1
        elif self._codec.may_wait(message):
            # Held back alone: behind it stands, at most, an append that says the same.
            if peer.deferred is None:
                peer.deferred_s = self._clock()
            peer.deferred = message
        else:
            peer.queued.append(message)
            if message.entries:
                peer.deferred = None

    @property
    def oldest_deferred_s(self) -> float | None:
        """Since when an append has waited for one with entries; None if none waits."""
        waiting_s = [each.deferred_s for each in self._peers.values() if each.deferred is not None]
        return min(waiting_s) if waiting_s else None

    def release_deferred(self, until_s: float) -> None:
        """Queue the appends that have waited since ``until_s`` or longer."""
        for peer in self._peers.values():
            if peer.deferred is not None and peer.deferred_s <= until_s:
                peer.queued.append(peer.deferred)
                peer.deferred = None

    def flush(self) -> None:
        """Send what is queued. While muted, everything is dropped instead."""
        for peer_id, peer in self._peers.items():
            if peer.queued:
                messages, peer.queued = peer.queued, []
                self._send(peer_id, peer, messages)

    def _send(self, peer_id: PeerId, peer: _Peer, messages: list[PeerMessage]) -> None:
        link = peer.link
        is_stuck = link is not None and link.queued_bytes > MAX_PEER_QUEUE_BYTES
        if link is None or self.is_muted or is_stuck:
            self.dropped_count += len(messages)
            if not peer.was_told:
                peer.was_told = True
                self._on_lost(peer_id)
            return
        peer.was_told = False
        for bundle in _bundles(self._codec.without_overtaken(messages)):
            link.send(self._codec.encode(bundle))
        link.flush()

    async def _keep_connected(self, peer_id: PeerId) -> None:
        pause_s = _RETRY_MIN_S
        while True:
            peer = self._peers[peer_id]
            ended = asyncio.Event()

            def on_closed(
                _link: FrameLink, _error: Exception | None, ended: asyncio.Event = ended
            ) -> None:
                ended.set()

            try:
                hello = self._identity.hello(Purpose.MESSAGES, peer_id)
                peer.link = await open_link(peer.address, hello, self.tls, on_closed)
            except (OSError, FrameRefused, RequestRefused) as error:
                peer.refusal = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
                continue
            peer.refusal = ""
            pause_s = _RETRY_MIN_S
            await ended.wait()
            peer.link = None
            self._on_lost(peer_id)

    def _drop(self, peer_id: PeerId) -> None:
        self._connectors.pop(peer_id).cancel()
        link = self._peers.pop(peer_id).link
        if link is not None:
            link.close()

    async def close(self) -> None:
        """Close all connections."""
        connectors = [*self._connectors.values()]
        for peer_id in [*self._peers]:
            self._drop(peer_id)
        await asyncio.gather(*connectors, return_exceptions=True)


def _bundles(messages: list[PeerMessage]) -> list[list[PeerMessage]]:
    if len(messages) == 1:
        return [messages]
    bundles: list[list[PeerMessage]] = [[]]
    size = 0
    for message in messages:
        message_bytes = payload_bytes(message.entries)
        if bundles[-1] and size + message_bytes > _BUNDLE_BYTES:
            bundles.append([])
            size = 0
        bundles[-1].append(message)
        size += message_bytes
    return bundles
