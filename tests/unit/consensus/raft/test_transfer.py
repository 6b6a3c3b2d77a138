"""Leadership transfer: to whom, what interrupts it, and who passes the wish on."""

from __future__ import annotations

from onceflow_consensus.raft.messages import MessageKind
from onceflow_consensus.raft.roles import Role

K = MessageKind


def leading(new_replica, **options):
    replica = new_replica(**options)
    replica.become_leader()
    for peer_id in (2, 3):
        replica.acknowledge(peer_id)
    return replica


def told_to_campaign(messages):
    return [message.to for message in messages if message.kind is K.TIMEOUT_NOW]


def test_an_up_to_date_follower_is_told_to_campaign_at_once(new_replica):
    replica = leading(new_replica)
    replica.node.transfer_leadership(2)
    assert told_to_campaign(replica.work()) == [2]
    replica.node.transfer_leadership(2)
    assert told_to_campaign(replica.work()) == []


def test_strangers_learners_and_the_leader_itself_are_not_handed_to(new_replica):
    replica = leading(new_replica, learners=(4,))
    for transferee in (1, 4, 9):
        replica.node.transfer_leadership(transferee)
        assert replica.work() == []
        assert replica.node.status.transferee == 0


def test_another_choice_replaces_the_first_and_the_own_id_ends_it(new_replica):
    replica = leading(new_replica)
    replica.node.transfer_leadership(2)
    replica.node.transfer_leadership(3)
    assert told_to_campaign(replica.work()) == [2, 3]
    assert replica.node.status.transferee == 3
    replica.node.transfer_leadership(1)
    assert replica.node.status.transferee == 0


def test_a_transfer_that_does_not_succeed_within_an_election_timeout_is_given_up(new_replica):
    replica = leading(new_replica)
    replica.node.transfer_leadership(2)
    for _ in range(9):
        replica.node.tick(10)
    assert replica.node.status.transferee == 2
    replica.node.tick(10)
    assert replica.node.status.transferee == 0


def test_a_follower_passes_the_wish_on_and_campaigns_when_told(new_replica):
    replica = new_replica(peer_id=2, check_quorum=True, pre_vote=True)
    replica.node.transfer_leadership(2)
    assert replica.work() == []
    replica.receive(K.HEARTBEAT, 1, term=1)
    replica.node.transfer_leadership(2)
    (wish,) = replica.work()
    assert (wish.kind, wish.to, wish.sender) == (K.TRANSFER_LEADER, 1, 2)
    requests = replica.receive(K.TIMEOUT_NOW, 1)
    assert {(m.kind, m.context) for m in requests} == {(K.VOTE, b"CampaignTransfer")}
    assert replica.state.role is Role.CANDIDATE
