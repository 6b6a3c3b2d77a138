"""The proxy reads requests and replaces addresses in every encoding that clients use."""

from __future__ import annotations

import struct

import pytest

from harness.kafka_wire import (
    Address,
    Api,
    Reader,
    Request,
    Writer,
    addresses,
    error_code,
    is_flexible,
    parse_request,
    with_addresses,
    with_correlation_id,
)

BROKER, PROXY = Address("broker.example", 9092), Address("127.0.0.1", 40001)


def request_frame(api: Api, version: int, body: bytes, correlation_id: int = 7) -> bytes:
    head = struct.pack(">hhi", api, version, correlation_id) + struct.pack(">h", 2) + b"me"
    return head + (b"\x00" if is_flexible(api, version) else b"") + body


def asked(api: Api, version: int) -> Request:
    return Request(api, version, 7, "me", b"")


def text(value: str | None, *, flexible: bool) -> bytes:
    writer = Writer(flexible=flexible)
    writer.string(value)
    return bytes(writer.data)


def array(count: int, *, flexible: bool) -> bytes:
    writer = Writer(flexible=flexible)
    writer.array_length(count)
    return bytes(writer.data)


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("is_commit", [True, False])
def test_an_end_txn_is_read(version: int, *, is_commit: bool) -> None:
    body = text("app.f00d.0", flexible=version >= 3) + struct.pack(">qhb", 5, 3, is_commit)
    request = parse_request(request_frame(Api.END_TXN, version, body))
    assert (request.api, request.version, request.correlation_id) == (26, version, 7)
    assert (request.client_id, request.transactional_id) == ("me", "app.f00d.0")
    assert (request.producer_epoch, request.is_commit) == (3, is_commit)


@pytest.mark.parametrize("version", [7, 9])
@pytest.mark.parametrize(("acks", "expects"), [(-1, True), (0, False)])
def test_a_produce_without_acks_expects_no_answer(version: int, acks: int, *, expects: bool):
    body = text(None, flexible=version >= 9) + struct.pack(">hi", acks, 1000)
    request = parse_request(request_frame(Api.PRODUCE, version, body))
    assert request.transactional_id is None
    assert request.expects_response is expects


def test_of_an_unknown_request_the_header_is_enough() -> None:
    request = parse_request(request_frame(Api.FETCH, 16, b"\xff\xff"))
    assert (request.api, request.client_id, request.transactional_id) == (1, "me", None)


def test_a_copy_differs_in_its_correlation_id_alone() -> None:
    frame = request_frame(Api.END_TXN, 1, text("a", flexible=False) + bytes(11))
    copy = with_correlation_id(frame, 99)
    assert parse_request(copy).correlation_id == 99
    assert copy[:4] + copy[8:] == frame[:4] + frame[8:]


def metadata_response(version: int, address: Address) -> bytes:
    flexible = version >= 9
    tags = b"\x00" if flexible else b""
    data = struct.pack(">i", 7) + tags + (struct.pack(">i", 0) if version >= 3 else b"")
    data += array(1, flexible=flexible) + struct.pack(">i", 1)
    data += text(address.host, flexible=flexible) + struct.pack(">i", address.port)
    data += (text(None, flexible=flexible) if version >= 1 else b"") + tags
    return data + b"the topics"


def coordinator_response(version: int, address: Address) -> bytes:
    flexible = version >= 3
    tags = b"\x00" if flexible else b""
    where = text(address.host, flexible=flexible) + struct.pack(">i", address.port)
    data = struct.pack(">i", 7) + tags + (struct.pack(">i", 0) if version >= 1 else b"")
    if version >= 4:
        key = text("group", flexible=True) + struct.pack(">i", 1)
        data += array(1, flexible=True) + key + where
        return data + struct.pack(">h", 0) + text(None, flexible=True) + tags + tags
    data += struct.pack(">h", 0) + (text(None, flexible=flexible) if version >= 1 else b"")
    return data + struct.pack(">i", 1) + where + tags


def cluster_response(version: int, address: Address) -> bytes:
    data = struct.pack(">i", 7) + b"\x00" + struct.pack(">ih", 0, 0) + text(None, flexible=True)
    data += b"\x01" if version >= 1 else b""
    data += text("cluster", flexible=True) + struct.pack(">i", 1) + array(1, flexible=True)
    data += struct.pack(">i", 1) + text(address.host, flexible=True)
    data += struct.pack(">i", address.port) + text("rack", flexible=True)
    return data + (b"\x00" if version >= 2 else b"") + b"\x00" + b"the rest"


RESPONSES = [
    *((Api.METADATA, version, metadata_response) for version in (0, 1, 4, 9, 12)),
    *((Api.FIND_COORDINATOR, version, coordinator_response) for version in (0, 2, 3, 4)),
    *((Api.DESCRIBE_CLUSTER, version, cluster_response) for version in (0, 1, 2)),
]


@pytest.mark.parametrize(("api", "version", "response"), RESPONSES)
def test_addresses_are_found_and_replaced_and_all_else_stays(api, version, response) -> None:
    request = asked(api, version)
    assert addresses(request, response(version, BROKER)) == [BROKER]
    replaced = with_addresses(request, response(version, BROKER), {BROKER: PROXY})
    assert replaced == response(version, PROXY)
    assert with_addresses(request, replaced, {}) == replaced


def test_no_coordinator_is_no_address() -> None:
    nowhere = coordinator_response(2, Address("", -1))
    assert addresses(asked(Api.FIND_COORDINATOR, 2), nowhere) == []


@pytest.mark.parametrize("version", [0, 3])
def test_versions_that_carry_addresses_of_new_leaders_are_capped(version: int) -> None:
    flexible = version >= 3
    tags = b"\x00" if flexible else b""

    def response(produce: int, fetch: int) -> bytes:
        rows = [(0, 3, produce), (1, 4, fetch), (26, 0, 5)]
        data = struct.pack(">ih", 7, 0) + array(len(rows), flexible=flexible)
        return data + b"".join(struct.pack(">hhh", *row) + tags for row in rows) + b"tail"

    request = asked(Api.API_VERSIONS, version)
    assert with_addresses(request, response(12, 17), {}) == response(9, 15)
    assert with_addresses(request, response(8, 11), {}) == response(8, 11)


def test_a_failed_api_versions_response_is_left_as_it_is() -> None:
    refused = struct.pack(">ih", 7, 35)
    assert with_addresses(asked(Api.API_VERSIONS, 4), refused, {}) == refused


@pytest.mark.parametrize("version", [1, 3])
def test_the_error_of_an_end_txn_is_read(version: int) -> None:
    response = struct.pack(">i", 7) + (b"\x00" if version >= 3 else b"") + struct.pack(">ih", 0, 48)
    assert error_code(asked(Api.END_TXN, version), response) == 48


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 70_000])
def test_variable_lengths_come_back(number: int) -> None:
    writer = Writer(flexible=True)
    writer.varint(number)
    assert Reader(bytes(writer.data), flexible=True).varint() == number


def test_tagged_fields_are_passed_over() -> None:
    reader = Reader(b"\x02\x00\x01x\x05\x02yz!", flexible=True)
    reader.tags()
    assert reader.rest() == b"!"
