"""Appends that only tell the commit index wait for entries, and not for long."""

from __future__ import annotations

import pytest

from onceflow_consensus.raft.messages import Entry, Message, MessageKind
from onceflow_consensus.transport.addresses import Address
from onceflow_consensus.transport.codec import RAFT_CODEC
from onceflow_consensus.transport.peers import Identity, PeerLinks

NOBODY = Address("127.0.0.1", 1)
"""Where nobody listens, so that whatever is sent is counted as dropped."""

WITH_ENTRIES = (Entry(1, 2, data=b"x"),)


def append_to(peer_id, entries=()):
    return Message(MessageKind.APP, peer_id, 1, 1, 1, 1, entries, commit_index=1)


@pytest.fixture
async def links():
    links = PeerLinks(Identity("group", "raft", 1), RAFT_CODEC, None, lambda _peer_id: None)
    links.set_addresses({2: NOBODY, 3: NOBODY})
    yield links
    await links.close()


async def test_a_notice_waits_and_is_sent_once_it_has_waited_long_enough(links):
    assert links.oldest_deferred_s is None
    links.queue(append_to(2))
    since_s = links.oldest_deferred_s
    links.release_deferred(since_s - 0.001)
    links.flush()
    assert (links.dropped_count, links.oldest_deferred_s) == (0, since_s)
    links.release_deferred(since_s)
    links.flush()
    assert (links.dropped_count, links.oldest_deferred_s) == (1, None)


async def test_entries_take_the_notice_to_their_receiver_along_and_no_other(links):
    for peer_id in (2, 3):
        links.queue(append_to(peer_id))
    links.queue(append_to(2, WITH_ENTRIES))
    links.flush()
    assert links.dropped_count == 1
    links.release_deferred(links.oldest_deferred_s)
    links.flush()
    assert (links.dropped_count, links.oldest_deferred_s) == (2, None)


async def test_a_later_notice_waits_no_longer_than_the_first_one_would_have(links):
    links.queue(append_to(2))
    since_s = links.oldest_deferred_s
    links.queue(append_to(2))
    assert links.oldest_deferred_s == since_s
    links.release_deferred(since_s)
    links.flush()
    assert links.dropped_count == 1
