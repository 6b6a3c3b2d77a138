"""What a member of the replicated group shows: numbers, and whether it lives and is ready."""

from __future__ import annotations

import pytest

from onceflow.observe.member import STALLED_S, MemberFacts, MemberReason, MemberView


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def view(clock):
    return MemberView(max_lag_entries=10, clock=clock)


def reasons(verdict):
    assert verdict.ok == (not verdict.document["reasons"])
    return verdict.document["reasons"]


def test_numbers_are_rendered_as_counters_and_gauges(view):
    assert b"onceflow_meta_" not in view.exposition()
    view.publish(MemberFacts({"term": 3, "commands_total": 7}, 1, 0))
    text = view.exposition().decode()
    assert "# TYPE onceflow_meta_term gauge\nonceflow_meta_term 3.0" in text
    assert "# TYPE onceflow_meta_commands_total counter\nonceflow_meta_commands_total 7.0" in text


def test_a_member_is_ready_when_somebody_leads_and_it_is_not_behind(view):
    assert reasons(view.ready()) == [MemberReason.STARTING]
    view.publish(MemberFacts({}, None, 11))
    assert reasons(view.ready()) == [MemberReason.NO_LEADER, MemberReason.NOT_CAUGHT_UP]
    view.publish(MemberFacts({}, 2, 10))
    verdict = view.ready()
    assert reasons(verdict) == []
    assert verdict.document["leader"] == 2


def test_a_member_lives_while_it_publishes(view, clock):
    view.publish(MemberFacts({}, 2, 0))
    clock.now_s += STALLED_S
    assert reasons(view.live()) == []
    clock.now_s += 0.1
    assert reasons(view.live()) == [MemberReason.LOOP_STALLED]
    assert reasons(view.ready()) == [MemberReason.LOOP_STALLED]
    view.publish(MemberFacts({}, 2, 0))
    assert reasons(view.live()) == []
