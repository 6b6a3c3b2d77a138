"""Damage of every kind, at random: no reader crashes, and none takes damage for data.

The log on disk comes back whole, or without its end (of which nobody can tell whether it was torn),
or is refused. The wire delivers what was sent, up to where it was damaged. Readers
of cases, histories and traces refuse what they cannot read.
"""

from __future__ import annotations

import random

import pytest

from onceflow_consensus.errors import FrameRefused, InvalidOptions, StorageCorrupt, StorageUnknown
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.records import Base
from onceflow_consensus.testing import casefile
from onceflow_consensus.testing.casefile import CaseUnreadable
from onceflow_consensus.testing.history import HistoryUnreadable, parse_history
from onceflow_consensus.testing.memory_disk import MemoryDisk
from onceflow_consensus.testing.trace_lines import TraceUnreadable, parse_trace
from onceflow_consensus.transport.addresses import decode_book
from onceflow_consensus.transport.codec import PAXOS_CODEC, RAFT_CODEC
from onceflow_consensus.transport.frames import FrameReader, encode_frame
from onceflow_consensus.transport.requests import decode_answer, decode_hello, decode_request

SEGMENT_BYTES = 1500
MEMBERS = configuration_of(frozenset({1, 2, 3}), frozenset({4}))


def batches(chance):
    """Requests of a life: entries that are replaced, snapshots of its own, compaction."""
    index, term, kept = 1, 1, 1
    yield WriteRequest(hard_state=HardState(1, 0, 1), raft_snapshot=RaftSnapshot(1, 1, MEMBERS))
    for _ in range(chance.randint(3, 25)):
        if chance.random() < 0.1 and index > kept:
            kept = index
            yield WriteRequest(own_snapshot=RaftSnapshot(kept, term, MEMBERS, chance.randbytes(50)))
            yield WriteRequest(compacted=Base(kept, term))
            continue
        first = max(kept, index - chance.choice([0, 0, 0, 1])) + 1
        term += first <= index or chance.random() < 0.2
        index = first + chance.randint(0, 4)
        written = tuple(
            Entry(term, each, EntryKind.NORMAL, chance.randbytes(chance.randint(0, 120)))
            for each in range(first, index + 1)
        )
        yield WriteRequest(written, HardState(term, 2, first - 1))


def content(log):
    entries = log.entries(log.first_index, log.last_index + 1, 2**60)
    return (log.first_index, entries, log.hard_state)


def written(seed):
    """The files of a log, what it held after each batch, and the snapshots that it took."""
    chance = random.Random(seed)
    disk = MemoryDisk()
    log = DurableLog(disk, SEGMENT_BYTES)
    states, snapshots = [content(log)], [RaftSnapshot()]
    for request in batches(chance):
        log.persist([request])
        log.taken(request)
        states += [content(log)] if request.own_snapshot is None else []
        snapshots += [log.newest_snapshot] if log.newest_snapshot != snapshots[-1] else []
    if chance.random() < 0.3:
        log.close()
        states.append(states[-1])
    return {name: disk.read(name) for name in disk.names()}, states, snapshots


def flipped(data, chance):
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zeroed(data, chance):
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice([1, 8, 64, 512]))
    data[start:end] = bytes(end - start)


def overwritten(data, chance):
    start = chance.randrange(len(data))
    data[start : start + 40] = chance.randbytes(40)


def copied(data, chance):
    source, target = (chance.randrange(0, len(data), 4) for _ in range(2))
    piece = data[source : source + chance.choice([16, 64, 256])]
    data[target : target + len(piece)] = piece


def cut(data, chance):
    del data[chance.randrange(len(data)) :]


def lengthened(data, chance):
    data += chance.randbytes(chance.randint(1, 100))


DAMAGES = [flipped, zeroed, overwritten, copied, cut, lengthened]


def lost_batches(found, states, newest):
    """How many batches at the end are missing; None if it never held what was found.

    What the newest snapshot stands for may be gone already, or still be there.
    """
    first, entries, hard_state = found
    for lost, (state_first, state_entries, state_hard_state) in enumerate(reversed(states)):
        dropped = first - state_first
        is_held = dropped >= 0 and entries == state_entries[dropped:]
        if is_held and first <= newest.index + 1 and hard_state == state_hard_state:
            return lost
    # A log that ends below its own snapshot begins anew behind it.
    return len(states) if (first, entries) == (newest.index + 1, ()) else None


@pytest.mark.parametrize("block", range(8))
def test_a_damaged_log_comes_back_whole_or_without_its_end_or_not_at_all(block):
    """One damage inside a batch costs the last batch at most: everything before it is proven.

    Damage from somewhere to the end leaves nothing that could prove what was there.
    """
    outcomes = {"refused": 0, "whole": 0, "without the last batch": 0}
    for seed in range(block * 100, block * 100 + 100):
        files, states, snapshots = written(seed)
        chance = random.Random(seed)
        name = chance.choice(sorted(files))
        data = bytearray(files[name])
        damages = chance.choices(DAMAGES, k=chance.choice([1, 1, 2]))
        for damage in damages:
            if data:
                damage(data, chance)
        disk = MemoryDisk({**files, name: bytes(data)})
        try:
            log = DurableLog(disk, SEGMENT_BYTES)
        except (StorageCorrupt, StorageUnknown):
            outcomes["refused"] += 1
            continue
        assert log.newest_snapshot in snapshots, seed
        lost = lost_batches(content(log), states, log.newest_snapshot)
        assert lost is not None, seed
        assert lost <= 1 or damages != [flipped], (seed, lost)
        outcomes["without the last batch" if lost else "whole"] += 1
        # What is accepted can be gone on with, and is then as sound as any.
        request = WriteRequest((Entry(90, log.last_index + 1),), HardState(90, 0, 0))
        log.persist([request])
        log.taken(request)
        again = DurableLog(disk, SEGMENT_BYTES)
        assert (content(again), again.newest_snapshot) == (content(log), log.newest_snapshot)
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("block", range(4))
def test_a_damaged_stream_delivers_what_was_sent_up_to_the_damage(block):
    refused = 0
    for seed in range(block * 200, block * 200 + 200):
        chance = random.Random(seed)
        bodies = [chance.randbytes(chance.choice([0, 1, 20, 300])) for _ in range(8)]
        stream = bytearray(b"".join(map(encode_frame, bodies)))
        for damage in chance.choices(DAMAGES, k=chance.choice([1, 2])):
            damage(stream, chance)
        reader, arrived = FrameReader(1000), []
        try:
            while stream:
                size = chance.choice([1, 7, 100, 5000])
                arrived += reader.feed(bytes(stream[:size]))
                del stream[:size]
        except FrameRefused:
            refused += 1
        assert arrived == bodies[: len(arrived)] or b"" in arrived, seed
    assert refused > 50


ENTRIES = (Entry(7, 41, EntryKind.NORMAL, b"x" * 30), Entry(7, 42, EntryKind.CONF_CHANGE_V2))
SNAPSHOT = RaftSnapshot(9, 2, MEMBERS, b"reference")
BUNDLES = {
    RAFT_CODEC: [
        Message(MessageKind.APP, 2, 1, 7, 6, 40, ENTRIES, 39, context=b"c"),
        Message(MessageKind.SNAP, 3, 1, 7, raft_snapshot=SNAPSHOT),
        Message(MessageKind.VOTE_RESP, 1, 2, 7, rejected=True, reject_hint=4),
    ],
    PAXOS_CODEC: [
        PaxosMessage(PaxosKind.ACCEPT, 1, 2, 7, 3, 6, 40, 39, ENTRIES, context=b"c"),
        PaxosMessage(PaxosKind.STATE, 2, 1, 7, raft_snapshot=SNAPSHOT),
    ],
}


@pytest.mark.parametrize("codec", BUNDLES, ids=["raft", "paxos"])
def test_damaged_bundles_are_refused_or_are_bundles(codec):
    """A checksum keeps damage out; what comes in spite of it has the types of messages."""
    sound = codec.encode(BUNDLES[codec])
    counts = {"refused": 0, "read": 0}
    for seed in range(3000):
        chance = random.Random(seed)
        body = bytearray(sound)
        for damage in chance.choices(DAMAGES, k=chance.choice([1, 2])):
            if body:
                damage(body, chance)
        try:
            messages = codec.decode(bytes(body))
        except FrameRefused:
            counts["refused"] += 1
            continue
        counts["read"] += 1
        assert codec.decode(codec.encode(messages)) == messages
    assert min(counts.values()) > 0


def test_random_bytes_are_no_request_answer_greeting_or_address_book():
    for seed in range(3000):
        body = random.Random(seed).randbytes(seed % 40)
        readers = (decode_request, decode_answer, decode_hello, RAFT_CODEC.decode, decode_book)
        for decode in readers:
            try:
                decode(body)
            except (FrameRefused, InvalidOptions):
                continue


STORY = """# a story
add-nodes 3 voters=(1,2,3) index=2
----
ok

stabilize 1 2
----
----
> 1 receiving messages

  more
----
----
"""
HISTORY = """
{"process": 1, "type": "invoke", "op": "cas", "key": "x", "value": [null, 1], "time": 0}
{"process": 1, "type": "ok", "op": "cas", "key": "x", "value": [null, 1], "time": 1.5}
{"process": 2, "type": "invoke", "op": "read", "key": "x", "value": null, "time": 2}
{"process": 2, "type": "info", "op": "read", "key": "x", "value": null, "time": 3}
"""
TRACE = """
{"tag":"trace","ts":0,"event":{"name":"InitState","nid":"1","state":{"term":0,"vote":"0",
"commit":0},"role":"StateFollower","log":0,"logTerm":0,"conf":[["1"],[]],"learners":[],
"prop":{"terms":[[0,0]]}}}
""".replace("\n", "")


@pytest.mark.parametrize(
    ("read", "text", "refusal"),
    [
        (casefile.parse, STORY, CaseUnreadable),
        (parse_history, HISTORY, HistoryUnreadable),
        (parse_trace, TRACE, TraceUnreadable),
    ],
    ids=["case", "history", "trace"],
)
def test_damaged_texts_are_read_or_refused(read, text, refusal):
    assert read(text)
    refused = 0
    for seed in range(2000):
        chance = random.Random(seed)
        damaged = bytearray(text.encode())
        for damage in chance.choices(DAMAGES, k=chance.choice([1, 2])):
            if damaged:
                damage(damaged, chance)
        try:
            read(damaged.decode(errors="replace"))
        except refusal:
            refused += 1
    assert refused > 100
