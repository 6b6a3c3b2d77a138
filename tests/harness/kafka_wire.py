"""As much of Kafka's wire format as a proxy needs: request headers, and responses with addresses.

Requests are read, never changed, but for the correlation id of a copy. Responses that tell clients
where brokers are get other addresses, so that clients stay on the proxy. Two API versions are
capped in ApiVersions (Produce 9, Fetch 15), because later ones carry addresses of new leaders in
tagged fields.

Source: https://kafka.apache.org/protocol, and the message definitions in
``clients/src/main/resources/common/message`` of Apache Kafka. Names of fields are theirs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Api(IntEnum):
    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CLUSTER = 60
    CONSUMER_GROUP_HEARTBEAT = 68


FLEXIBLE_FROM = {
    Api.PRODUCE: 9,
    Api.METADATA: 9,
    Api.FIND_COORDINATOR: 3,
    Api.API_VERSIONS: 3,
    Api.INIT_PRODUCER_ID: 2,
    Api.ADD_PARTITIONS_TO_TXN: 3,
    Api.ADD_OFFSETS_TO_TXN: 3,
    Api.END_TXN: 3,
    Api.TXN_OFFSET_COMMIT: 3,
    Api.DESCRIBE_CLUSTER: 0,
}
"""First version with compact strings and tagged fields, of the messages that are read here."""

VERSION_CAPS = {Api.PRODUCE: 9, Api.FETCH: 15}

WITH_TRANSACTIONAL_ID = {
    Api.PRODUCE,
    Api.INIT_PRODUCER_ID,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.ADD_OFFSETS_TO_TXN,
    Api.END_TXN,
    Api.TXN_OFFSET_COMMIT,
}
"""Requests whose body begins with a transactional id, in every version that clients send."""

WITH_ADDRESSES = {Api.METADATA, Api.FIND_COORDINATOR, Api.DESCRIBE_CLUSTER, Api.API_VERSIONS}


class Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request's header, and what of its body decides faults; ``frame`` is without the length."""

    api: int
    version: int
    correlation_id: int
    client_id: str
    frame: bytes = field(repr=False)
    transactional_id: str | None = None
    producer_epoch: int | None = None
    is_commit: bool | None = None
    """Of an EndTxn: True commits, False aborts."""
    expects_response: bool = True


class Reader:
    """Reads fields from the front of a message."""

    def __init__(self, data: bytes, *, flexible: bool = False) -> None:
        self.data = data
        self.at = 0
        self.flexible = flexible

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self.data, self.at)
        self.at += struct.calcsize(f">{form}")
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def string(self) -> str | None:
        length = self.varint() - 1 if self.flexible else self.number("h")
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def array_length(self) -> int:
        return self.varint() - 1 if self.flexible else self.number("i")

    def tags(self) -> None:
        if self.flexible:
            for _ in range(self.varint()):
                self.varint()
                size = self.varint()
                self.at += size

    def rest(self) -> bytes:
        return self.data[self.at :]


class Writer:
    """Writes fields, to replace those that were read."""

    def __init__(self, *, flexible: bool) -> None:
        self.data = bytearray()
        self.flexible = flexible

    def number(self, form: str, value: int) -> None:
        self.data += struct.pack(f">{form}", value)

    def varint(self, value: int) -> None:
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def string(self, value: str | None) -> None:
        encoded = b"" if value is None else value.encode()
        length = -1 if value is None else len(encoded)
        self.varint(length + 1) if self.flexible else self.number("h", length)
        self.data += encoded

    def array_length(self, value: int) -> None:
        self.varint(value + 1) if self.flexible else self.number("i", value)


def is_flexible(api: int, version: int) -> bool:
    return version >= FLEXIBLE_FROM.get(api, 1 << 15)


def parse_request(frame: bytes) -> Request:
    """Read a request. Of unknown messages only the header is read, which all share."""
    reader = Reader(frame)
    api, version = reader.number("h"), reader.number("h")
    correlation_id, client_id = reader.number("i"), reader.string() or ""
    request = Request(api, version, correlation_id, client_id, frame)
    if api not in WITH_TRANSACTIONAL_ID:
        return request
    reader.flexible = is_flexible(api, version)
    reader.tags()
    transactional_id = reader.string()
    producer_epoch = is_commit = None
    expects_response = True
    if api == Api.END_TXN:
        reader.number("q")
        producer_epoch, is_commit = reader.number("h"), bool(reader.number("b"))
    elif api == Api.PRODUCE:
        expects_response = reader.number("h") != 0
    return Request(
        api,
        version,
        correlation_id,
        client_id,
        frame,
        transactional_id,
        producer_epoch,
        is_commit,
        expects_response,
    )


def with_correlation_id(frame: bytes, correlation_id: int) -> bytes:
    return frame[:4] + struct.pack(">i", correlation_id) + frame[8:]


def error_code(request: Request, response: bytes) -> int:
    """Error code of the answer to an EndTxn, AddOffsetsToTxn or InitProducerId."""
    assert request.api in {Api.END_TXN, Api.ADD_OFFSETS_TO_TXN, Api.INIT_PRODUCER_ID}
    reader = _after_header(request, response)
    reader.number("i")
    return reader.number("h")


def addresses(request: Request, response: bytes) -> list[Address]:
    """Addresses that a response names, in order; port -1 stands for none."""
    found: list[Address] = []

    def note(address: Address) -> Address:
        found.append(address)
        return address

    _REWRITERS[Api(request.api)](request, response, note)
    return [address for address in found if address.port > 0]


def with_addresses(
    request: Request, response: bytes, replacements: dict[Address, Address]
) -> bytes:
    """Replace the addresses that a response names, and cap versions in ApiVersions."""
    return _REWRITERS[Api(request.api)](
        request, response, lambda address: replacements.get(address, address)
    )


def _after_header(request: Request, response: bytes) -> Reader:
    reader = Reader(response, flexible=is_flexible(request.api, request.version))
    reader.number("i")
    reader.tags()
    return reader


def _swap(reader: Reader, writer: Writer, swap) -> None:
    """Host and port, one after the other."""
    host, port = reader.string(), reader.number("i")
    address = swap(Address(host or "", port))
    writer.string(address.host)
    writer.number("i", address.port)


def _metadata(request: Request, response: bytes, swap) -> bytes:
    reader = _after_header(request, response)
    if request.version >= 3:
        reader.number("i")
    start = reader.at
    writer = Writer(flexible=reader.flexible)
    count = reader.array_length()
    writer.array_length(count)
    for _ in range(count):
        writer.number("i", reader.number("i"))
        _swap(reader, writer, swap)
        begin = reader.at
        if request.version >= 1:
            reader.string()
        reader.tags()
        writer.data += response[begin : reader.at]
    return response[:start] + bytes(writer.data) + reader.rest()


def _describe_cluster(request: Request, response: bytes, swap) -> bytes:
    reader = _after_header(request, response)
    reader.number("i")
    reader.number("h")
    reader.string()
    if request.version >= 1:
        reader.number("b")
    reader.string()
    reader.number("i")
    start = reader.at
    writer = Writer(flexible=reader.flexible)
    count = reader.array_length()
    writer.array_length(count)
    for _ in range(count):
        writer.number("i", reader.number("i"))
        _swap(reader, writer, swap)
        begin = reader.at
        reader.string()
        if request.version >= 2:
            reader.number("b")
        reader.tags()
        writer.data += response[begin : reader.at]
    return response[:start] + bytes(writer.data) + reader.rest()


def _find_coordinator(request: Request, response: bytes, swap) -> bytes:
    reader = _after_header(request, response)
    writer = Writer(flexible=reader.flexible)
    if request.version >= 1:
        reader.number("i")
    if request.version < 4:
        reader.number("h")
        if request.version >= 1:
            reader.string()
        reader.number("i")
        start = reader.at
        _swap(reader, writer, swap)
        return response[:start] + bytes(writer.data) + reader.rest()
    start = reader.at
    count = reader.array_length()
    writer.array_length(count)
    for _ in range(count):
        writer.string(reader.string())
        writer.number("i", reader.number("i"))
        _swap(reader, writer, swap)
        begin = reader.at
        reader.number("h")
        reader.string()
        reader.tags()
        writer.data += response[begin : reader.at]
    return response[:start] + bytes(writer.data) + reader.rest()


def _api_versions(request: Request, response: bytes, _) -> bytes:
    # The header of this response has no tagged fields in any version (KIP-511).
    reader = Reader(response, flexible=is_flexible(request.api, request.version))
    reader.number("i")
    if reader.number("h") != 0:
        return response
    capped = bytearray(response)
    for _ in range(reader.array_length()):
        api, _, highest = reader.number("h"), reader.number("h"), reader.number("h")
        if highest > VERSION_CAPS.get(api, highest):
            struct.pack_into(">h", capped, reader.at - 2, VERSION_CAPS[api])
        reader.tags()
    return bytes(capped)


_REWRITERS = {
    Api.METADATA: _metadata,
    Api.DESCRIBE_CLUSTER: _describe_cluster,
    Api.FIND_COORDINATOR: _find_coordinator,
    Api.API_VERSIONS: _api_versions,
}
