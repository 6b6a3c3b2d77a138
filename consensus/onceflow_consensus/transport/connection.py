"""One TCP connection of frames, whose writes of a loop turn go out together.

``FrameLink`` is an asyncio protocol without a task of its own: what arrives is handed over in the
callback, what is sent is gathered and written once. Rules: a connection whose bytes are damaged is
closed; whoever holds a link asks ``queued_bytes`` before it sends much.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio import Protocol as StreamCallbacks
from typing import TYPE_CHECKING, cast

from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.limits import KEEPALIVE_S, UNACKED_MS
from onceflow_consensus.transport.frames import FrameReader, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable


class FrameLink(StreamCallbacks):
    """A connection.

    on_bodies: gets the link and the frames that arrived together.
    on_closed: is told once that the connection has ended, with the error if there was one.
    """

    def __init__(
        self,
        max_frame_bytes: int,
        on_bodies: Callable[[FrameLink, list[bytes]], None],
        on_closed: Callable[[FrameLink, Exception | None], None],
    ) -> None:
        self.on_bodies = on_bodies
        self._on_closed = on_closed
        self._reader = FrameReader(max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._gathered: list[bytes] = []
        self._refusal: FrameRefused | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; see ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)
        connected = cast("socket.socket | None", transport.get_extra_info("socket"))
        if connected is not None:
            _notice_silence(connected)
        if self._gathered:
            self.flush()

    def data_received(self, data: bytes) -> None:
        """Hand over the frames that ``data`` completes; see ``asyncio.Protocol``."""
        try:
            bodies = self._reader.feed(data)
            if bodies:
                self.on_bodies(self, bodies)
        except FrameRefused as refusal:
            self.refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever holds the link; see ``asyncio.Protocol``."""
        self._transport = None
        self._gathered = []
        self._writable.set()
        self._on_closed(self, exc or self._refusal)

    def pause_writing(self) -> None:
        """Make ``drained`` wait; see ``asyncio.Protocol``."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let ``drained`` go on; see ``asyncio.Protocol``."""
        self._writable.set()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def queued_bytes(self) -> int:
        """Bytes that were written and have not left this process."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def has_gathered(self) -> bool:
        """Whether ``flush`` has anything to write."""
        return bool(self._gathered)

    @property
    def certificate_names(self) -> frozenset[str]:
        """Return the DNS names and the common name in the other side's certificate, if any."""
        if self._transport is None:
            return frozenset()
        return _names(cast("dict[str, object] | None", self._transport.get_extra_info("peercert")))

    def send(self, body: bytes) -> None:
        """Gather a frame; it leaves with ``flush``."""
        self._gathered.append(encode_frame(body))

    def flush(self) -> None:
        """Write what was gathered, in one piece."""
        gathered = self._gathered
        if gathered and self._transport is not None:
            self._gathered = []
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    async def drained(self) -> None:
        """Wait until the other side has read most of what was written, or the link has ended."""
        await self._writable.wait()

    def refuse(self, refusal: FrameRefused) -> None:
        """Close the connection because of what came over it."""
        self._refusal = refusal
        self.close()

    def close(self) -> None:
        """Close the connection after what was written has left. Idempotent."""
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()


def _notice_silence(connected: socket.socket) -> None:
    """End the connection when the other side is gone without a word.

    After a partition TCP repeats what was lost ever more rarely; a fresh connection is there at
    once. Who sends nothing is asked for a sign of life.
    """
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)


def _names(certificate: dict[str, object] | None) -> frozenset[str]:
    if not certificate:
        return frozenset()
    subject = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))
    others = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    names = {value for part in subject for key, value in part if key == "commonName"}
    names.update(value for key, value in others if key == "DNS")
    return frozenset(names)
