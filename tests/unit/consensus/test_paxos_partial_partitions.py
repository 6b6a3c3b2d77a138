"""Paxos under partial connectivity: progress whenever one replica is connected to a quorum.

The named cases are those of Ng, Haridi and Carbone, EuroSys'23: quorum loss, constrained election,
and chained; the last test takes any network.
"""

from __future__ import annotations

import itertools
import random

import pytest

from harness.replica_group import ELECTION_TICKS, ReplicaGroup
from onceflow_consensus.replica import Engine

FIVE = (1, 2, 3, 4, 5)


def led_group(peers=FIVE):
    group = ReplicaGroup(Engine.PAXOS, peers)
    group.propose(b"a")
    group.agree_on(b"a")
    return group, group.leading()


def star(center, group):
    return [(center, peer) for peer in group.peers if peer != center]


def term(group, peer):
    return group.replicas[peer].status.term


def decides(group, leading, payload):
    """Whether what is proposed at one replica is decided there."""
    before = group.data(leading)
    group.replicas[leading].propose(payload)
    group.tick(2)
    return group.data(leading) == before + payload


def test_one_that_lost_its_quorum_is_replaced_by_the_only_one_that_has_one():
    group, first = led_group()
    center = next(peer for peer in FIVE if peer != first)
    group.connect_only(*star(center, group))
    group.until(lambda: group.leads(center), ticks=6 * ELECTION_TICKS)
    assert not group.leads(first)
    assert decides(group, center, b"b")
    group.agree_on(b"ab")
    stable = term(group, center)
    group.tick(20 * ELECTION_TICKS)
    assert (group.leading(), term(group, center)) == (center, stable)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_the_only_one_that_can_be_elected_leads_although_its_log_is_behind(is_compacted):
    group, first = led_group()
    center = next(peer for peer in FIVE if peer != first)
    group.isolate(center)
    for payload in (b"b", b"c", b"d"):
        group.propose(payload, at=first)
    others = [peer for peer in FIVE if peer not in (first, center)]
    group.agree_on(b"abcd", [first, *others])
    for peer in others:
        if is_compacted:
            group.disks[peer].compact_all()
    assert group.data(center) == b"a"
    group.connect_only(*((center, peer) for peer in others))
    group.until(lambda: group.leads(center), ticks=10 * ELECTION_TICKS)
    assert decides(group, center, b"e")
    group.agree_on(b"abcde", [center, *others])


def test_one_that_lost_only_its_link_to_the_one_that_leads_disturbs_nobody():
    group, first = led_group((1, 2, 3))
    cut_off = next(peer for peer in group.peers if peer != first)
    middle = 6 - first - cut_off
    group.connect_only((first, middle), (middle, cut_off))
    stable = term(group, first)
    group.tick(30 * ELECTION_TICKS)
    assert (group.leading(), term(group, first)) == (first, stable)
    assert decides(group, first, b"b")
    group.heal()
    group.agree_on(b"ab")
    assert term(group, first) == stable


def test_in_a_chain_the_middle_takes_over_when_the_end_that_led_is_gone():
    group, first = led_group((1, 2, 3))
    middle, end = (peer for peer in group.peers if peer != first)
    group.connect_only((middle, end))
    group.until(lambda: group.leading() in (middle, end) and not group.leads(first))
    assert decides(group, group.leading(), b"b")


def test_one_that_hears_nobody_but_is_heard_gives_up():
    group, first = led_group((1, 2, 3))
    group.cuts = {(peer, first) for peer in group.peers if peer != first}
    group.until(lambda: not group.leads(first), ticks=4 * ELECTION_TICKS)
    group.until(lambda: group.leading() not in (None, first))
    group.heal()
    group.propose(b"b")
    group.agree_on(b"ab")


def quorum_connected(links):
    return [peer for peer in FIVE if sum(peer in link for link in links) + 1 >= len(FIVE) // 2 + 1]


@pytest.mark.parametrize("seed", range(24))
def test_in_any_network_in_which_somebody_has_a_quorum_one_leads_and_goes_on_leading(seed):
    chooser = random.Random(seed)
    pairs = list(itertools.combinations(FIVE, 2))
    links = []
    while not quorum_connected(links):
        links = [pair for pair in pairs if chooser.random() < chooser.choice([0.3, 0.5])]
    group, _ = led_group()
    group.connect_only(*links)
    group.tick(12 * ELECTION_TICKS)
    leading = group.leading()
    assert leading in quorum_connected(links)
    stable = term(group, leading)
    assert decides(group, leading, b"b")
    group.tick(20 * ELECTION_TICKS)
    assert (group.leading(), term(group, leading)) == (leading, stable)
    group.heal()
    group.agree_on(b"ab")
