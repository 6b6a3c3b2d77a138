"""Frames and messages on a byte stream: cut anyhow they arrive whole, damaged they are refused."""

from __future__ import annotations

import random

import msgspec
import pytest

from onceflow_consensus.errors import FrameRefused, InvalidOptions
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.replica import Engine
from onceflow_consensus.transport.addresses import (
    Address,
    MemberAddresses,
    decode_book,
    encode_book,
    parse_address,
)
from onceflow_consensus.transport.codec import CODECS, PAXOS_CODEC, RAFT_CODEC
from onceflow_consensus.transport.frames import HEADER_BYTES, FrameReader, encode_frame
from onceflow_consensus.transport.requests import (
    Consistency,
    Hello,
    Purpose,
    Read,
    Refusal,
    Refused,
    decode_answer,
    decode_hello,
    decode_request,
    encode,
)

MESSAGE = Message(
    MessageKind.APP,
    2,
    1,
    7,
    log_term=6,
    index=40,
    entries=(Entry(7, 41, EntryKind.NORMAL, b"x" * 300), Entry(7, 42, EntryKind.CONF_CHANGE_V2)),
    commit_index=39,
    vote=3,
    raft_snapshot=RaftSnapshot(9, 2, configuration_of(frozenset({1, 2}), frozenset({3})), b"ref"),
    rejected=True,
    reject_hint=5,
    context=b"c",
)


@pytest.mark.parametrize("seed", range(20))
def test_frames_arrive_whole_however_the_stream_is_cut(seed):
    chance = random.Random(seed)
    bodies = [chance.randbytes(chance.choice([0, 1, 50, 5000])) for _ in range(20)]
    stream = b"".join(map(encode_frame, bodies))
    reader = FrameReader(5000)
    arrived = []
    while stream:
        size = chance.choice([1, 3, HEADER_BYTES, 100, 9000])
        arrived += reader.feed(stream[:size])
        stream = stream[size:]
    assert arrived == bodies


def test_any_flipped_bit_of_a_frame_is_refused_or_makes_it_wait():
    frame = encode_frame(b"hello world")
    for position in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[position // 8] ^= 1 << position % 8
        try:
            assert FrameReader(1000).feed(bytes(damaged)) == []
        except FrameRefused:
            continue


def test_a_frame_that_claims_too_much_is_refused_before_it_is_kept():
    with pytest.raises(FrameRefused, match="1001 bytes and 1000 are allowed"):
        FrameReader(1000).feed(encode_frame(bytes(1001))[:HEADER_BYTES])


def test_messages_survive_the_way_through_bytes():
    bundle = [MESSAGE, Message(MessageKind.HEARTBEAT, 1, 2, 3)]
    assert RAFT_CODEC.decode(RAFT_CODEC.encode(bundle)) == bundle


def test_messages_of_paxos_survive_the_way_through_bytes():
    bundle = [
        PaxosMessage(
            PaxosKind.ACCEPT, 1, 2, 7, 3, 6, 40, 39, MESSAGE.entries, context=b"c", reject_hint=4
        ),
        PaxosMessage(PaxosKind.STATE, 2, 1, 7, raft_snapshot=MESSAGE.raft_snapshot, rejected=True),
    ]
    assert PAXOS_CODEC.decode(PAXOS_CODEC.encode(bundle)) == bundle
    assert PAXOS_CODEC.may_wait(PaxosMessage(PaxosKind.DECIDE, 1, 2, 7))
    assert set(CODECS) == set(Engine)


@pytest.mark.parametrize("seed", range(200))
def test_garbage_is_refused_as_a_bundle_and_as_a_request(seed):
    chance = random.Random(seed)
    body = bytearray(RAFT_CODEC.encode([MESSAGE]))
    for _ in range(chance.randrange(1, 4)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    for decode in (RAFT_CODEC.decode, decode_request, decode_answer, decode_hello):
        try:
            decode(bytes(body))
        except FrameRefused:
            continue


def test_a_number_below_zero_names_no_kind_of_message():
    fields = msgspec.msgpack.decode(RAFT_CODEC.encode([MESSAGE]))
    fields[0][0] = -1
    with pytest.raises(FrameRefused):
        RAFT_CODEC.decode(msgspec.msgpack.encode(fields))


def test_an_acknowledgement_overtakes_those_below_it_and_nothing_else():
    def ack(index, term=1, **fields):
        return Message(MessageKind.APP_RESP, 1, 2, term, index=index, **fields)

    heartbeat = Message(MessageKind.HEARTBEAT_RESP, 1, 2, 1)
    rejection = ack(5, rejected=True)
    assert RAFT_CODEC.without_overtaken([ack(3), ack(4), ack(5)]) == [ack(5)]
    assert RAFT_CODEC.without_overtaken([ack(4), ack(3)]) == [ack(4), ack(3)]
    assert RAFT_CODEC.without_overtaken([ack(3), heartbeat, ack(4)]) == [ack(3), heartbeat, ack(4)]
    assert RAFT_CODEC.without_overtaken([ack(3), rejection, ack(6)]) == [ack(3), rejection, ack(6)]
    assert RAFT_CODEC.without_overtaken([ack(3), ack(4, term=2)]) == [ack(3), ack(4, term=2)]


def test_only_appends_without_entries_may_wait():
    assert RAFT_CODEC.may_wait(Message(MessageKind.APP, 2, 1, 7, commit_index=4))
    assert not RAFT_CODEC.may_wait(MESSAGE)
    assert not RAFT_CODEC.may_wait(Message(MessageKind.HEARTBEAT, 2, 1, 7))


def test_requests_and_answers_survive_the_way_through_bytes():
    hello = Hello(1, Purpose.CLIENT, "group", token="secret")
    assert decode_hello(encode(hello)) == hello
    read = Read(4, Consistency.STALE, [b"q"], max_age_ms=50)
    assert decode_request(encode(read)) == read
    refused = Refused(4, Refusal.NOT_LEADER, "h:1", "detail")
    assert decode_answer(encode(refused)) == refused


def test_a_token_is_not_shown():
    assert "secret" not in repr(Hello(1, Purpose.CLIENT, "group", token="secret"))


@pytest.mark.parametrize("text", ["", "host", ":7", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidOptions, match="host:port"):
        parse_address(text)


def test_addresses_are_read_as_they_are_written():
    for address in (Address("127.0.0.1", 80), Address("::1", 80), Address("name.example", 80)):
        assert parse_address(str(address)) == address
    book = {3: MemberAddresses(Address("a", 1), Address("::1", 2))}
    assert decode_book(encode_book(book)) == book
    assert decode_book(b"") == {}
    with pytest.raises(InvalidOptions):
        decode_book(b"\x01")
