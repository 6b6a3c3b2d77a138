"""Frames: how messages are told apart on a byte stream, and damage from what was sent.

A frame is::

    length of the body (4) | CRC32C of the body (4) | body

Numbers are little-endian. Rules: a body is bounded, and a frame that claims more is refused before
anything of it is kept; a frame whose checksum does not fit ends the connection, because nothing
behind it can be trusted either. TCP's own checksum misses one damaged segment in some ten
thousand, and a damaged append would be acknowledged and stored.
Sans-IO: bytes in, bodies out.
"""

from __future__ import annotations

import struct
from typing import cast

from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.storage.checksum import crc32c

_HEADER = struct.Struct("<II")
HEADER_BYTES = _HEADER.size


def encode_frame(body: bytes) -> bytes:
    """Return the frame that carries ``body``."""
    return _HEADER.pack(len(body), crc32c(body)) + body


class FrameReader:
    """Cuts a byte stream into bodies.

    What does not make a whole frame yet is held in pieces and joined once, so that a large frame
    is copied once however many pieces it arrives in.
    """

    __slots__ = ("_held", "_held_bytes", "_max_body_bytes", "_needed_bytes")

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = HEADER_BYTES

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the bodies that it completes, in order.

        Raises:
            FrameRefused: too large or damaged; close the connection.
        """
        if self._held:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._needed_bytes:
                return []
            data = b"".join(self._held)
            self._held = []
        bodies: list[bytes] = []
        offset, available = 0, len(data)
        self._needed_bytes = HEADER_BYTES
        while available - offset >= HEADER_BYTES:
            length, checksum = cast("tuple[int, int]", _HEADER.unpack_from(data, offset))
            if length > self._max_body_bytes:
                raise FrameRefused(
                    f"a frame claims {length} bytes and {self._max_body_bytes} are allowed; the "
                    "connection is closed, nothing of it was taken"
                )
            start = offset + HEADER_BYTES
            if available - start < length:
                self._needed_bytes = HEADER_BYTES + length
                break
            offset = start + length
            body = data[start:offset]
            if crc32c(body) != checksum:
                raise FrameRefused(
                    f"a frame of {length} bytes does not have its checksum; the connection is "
                    "closed, nothing of the frame was taken. What was sent is sent again."
                )
            bodies.append(body)
        if offset < available:
            self._held = [data[offset:] if offset else data]
        self._held_bytes = available - offset
        return bodies
