"""The four requests of Kafka's protocol that tell whether a cluster is ready for transactions.

Written by hand over a socket, because this room has no client library. All are of the oldest kind
of encoding (no tagged fields), which Kafka 4 still accepts: Metadata 4, FindCoordinator 1,
InitProducerId 1. Source: https://kafka.apache.org/protocol (messages by name and version).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

_METADATA = 3
_FIND_COORDINATOR = 10
_INIT_PRODUCER_ID = 22

_ANSWER_BYTES_MIN = 4
"""An answer begins with a correlation id."""

_ANSWER_BYTES_MAX = 1 << 20
"""Answers here are some hundred bytes; anything larger comes from something other than Kafka."""


class CoordinatorKind(IntEnum):
    """Whose coordinator FindCoordinator looks for, with the protocol's numbers."""

    GROUP = 0
    TRANSACTION = 1


class Address(NamedTuple):
    """Host and port of a broker's listener."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a broker knows about its cluster: the living brokers by id, and the cluster's id."""

    cluster_id: str
    brokers: dict[int, Address]


class ProtocolError(Exception):
    """The answer is an error of Kafka, or not Kafka's at all. Reaction: ask again, or give up."""


def metadata(address: Address, timeout_s: float) -> Cluster:
    """Ask a broker which brokers live.

    Raises:
        OSError: it does not answer within ``timeout_s``.
        ProtocolError: the answer is not Kafka's.
    """
    # An empty list of topics asks for none; the last byte forbids creating any.
    answer = _ask(address, _METADATA, 4, struct.pack(">i?", 0, False), timeout_s)
    answer.int32()  # throttle time
    brokers: dict[int, Address] = {}
    for _ in range(answer.int32()):
        node = answer.int32()
        brokers[node] = Address(answer.string(), answer.int32())
        answer.string()  # rack
    return Cluster(answer.string(), brokers)


def find_coordinator(
    address: Address, kind: CoordinatorKind, key: str, timeout_s: float
) -> Address:
    """Ask for the coordinator of a group or a transactional id; the first time creates its topic.

    Raises:
        OSError: the broker does not answer within ``timeout_s``.
        ProtocolError: there is no coordinator yet.
    """
    body = _string(key) + struct.pack(">b", kind)
    answer = _ask(address, _FIND_COORDINATOR, 1, body, timeout_s)
    answer.int32()  # throttle time
    _check(answer.int16(), f"the {kind.name.lower()} coordinator")
    answer.string()  # error message
    answer.int32()  # node
    return Address(answer.string(), answer.int32())


def init_producer_id(coordinator: Address, transactional_id: str, timeout_s: float) -> None:
    """Begin the life of a transactional producer, which fails until transactions can be written.

    Raises:
        OSError: the coordinator does not answer within ``timeout_s``.
        ProtocolError: it cannot serve transactions yet.
    """
    body = _string(transactional_id) + struct.pack(">i", 10_000)
    answer = _ask(coordinator, _INIT_PRODUCER_ID, 1, body, timeout_s)
    answer.int32()  # throttle time
    _check(answer.int16(), "a producer id")


class _Answer:
    """Reads an answer's fields in their order."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def int16(self) -> int:
        return int.from_bytes(self._take(2), signed=True)

    def int32(self) -> int:
        return int.from_bytes(self._take(4), signed=True)

    def string(self) -> str:
        """A string; the null string reads as an empty one."""
        return self._take(max(0, self.int16())).decode()

    def _take(self, count: int) -> bytes:
        taken = self._body[self._position : self._position + count]
        if len(taken) < count:
            raise ProtocolError("the answer ends too early; is this port a Kafka broker's?")
        self._position += count
        return taken


def _ask(address: Address, api: int, version: int, body: bytes, timeout_s: float) -> _Answer:
    header = struct.pack(">hhi", api, version, 1) + _string("onceflow-localkafka")
    request = header + body
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        size = int.from_bytes(_receive(connection, 4), signed=True)
        if not _ANSWER_BYTES_MIN <= size <= _ANSWER_BYTES_MAX:
            raise ProtocolError(f"port {address.port} does not speak Kafka's protocol")
        answer = _Answer(_receive(connection, size))
    answer.int32()  # correlation id
    return answer


def _receive(connection: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    missing = count
    while missing:
        part = connection.recv(missing)
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _check(error: int, what: str) -> None:
    if error:
        raise ProtocolError(f"Kafka does not give {what}: error code {error}")
