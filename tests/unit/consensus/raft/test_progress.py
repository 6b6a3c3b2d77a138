"""What a leader knows of a follower: windows, probes, snapshots and stale answers."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import InvariantViolation
from onceflow_consensus.raft.inflights import Inflights
from onceflow_consensus.raft.progress import Progress, ProgressState


def progress_at(match, next_index, max_messages=4, max_bytes=100):
    return Progress(match, next_index, Inflights(max_messages, max_bytes))


def test_the_window_is_bounded_in_messages_and_frees_what_is_acknowledged():
    window = Inflights(2, 100)
    window.add(3, 10)
    window.add(5, 10)
    assert window.is_full
    with pytest.raises(InvariantViolation, match="INV-RAFT-6"):
        window.add(6, 1)
    window.free_up_to(2)
    assert len(window) == 2
    window.free_up_to(3)
    assert (len(window), window.inflight_bytes, window.is_full) == (1, 10, False)
    window.clear()
    assert (len(window), window.inflight_bytes) == (0, 0)


def test_the_window_is_bounded_in_bytes_and_the_last_message_may_exceed_it():
    window = Inflights(10, 100)
    window.add(1, 60)
    assert not window.is_full
    window.add(2, 60)
    assert window.is_full
    window.free_up_to(1)
    assert not window.is_full


def test_the_next_entry_lies_above_what_matches():
    with pytest.raises(InvariantViolation, match="INV-RAFT-5"):
        progress_at(3, 3)


def test_a_probe_sends_entries_once_until_it_is_answered():
    progress = progress_at(0, 5)
    progress.sent_entries(0, 0)
    assert not progress.is_paused
    progress.sent_entries(2, 10)
    assert progress.is_paused
    assert progress.next_index == 5
    assert progress.acknowledged(6)
    assert not progress.is_paused
    assert (progress.match_index, progress.next_index) == (6, 7)


def test_replication_runs_ahead_until_the_window_is_full():
    progress = progress_at(0, 1, max_messages=2)
    progress.become_replicate()
    progress.sent_entries(1, 1)
    progress.sent_entries(3, 1)
    assert progress.is_paused
    assert progress.next_index == 5
    assert not progress.acknowledged(0)


@pytest.mark.parametrize(
    ("rejected", "hint", "taken", "next_index"), [(1, 0, False, 6), (3, 2, True, 3)]
)
def test_a_rejection_while_replicating_falls_back_to_what_matches(
    rejected, hint, taken, next_index
):
    progress = progress_at(2, 3)
    progress.become_replicate()
    progress.sent_entries(3, 1)
    progress.sent_commit_index = 5
    assert progress.rejected(rejected, hint) is taken
    assert progress.next_index == next_index
    assert progress.sent_commit_index == min(5, 5 if not taken else next_index - 1)


@pytest.mark.parametrize(
    ("match", "next_index", "rejected", "hint", "taken", "after"),
    [
        (0, 10, 4, 4, False, 10),  # an answer to an older probe
        (0, 10, 9, 4, True, 5),
        (0, 10, 9, 20, True, 9),
        (5, 10, 9, 2, True, 6),  # never below what matches
        (0, 1, 0, 0, True, 1),
    ],
)
def test_a_rejected_probe_steps_back_to_the_hint(match, next_index, rejected, hint, taken, after):
    progress = progress_at(match, next_index)
    progress.is_flow_paused = True
    assert progress.rejected(rejected, hint) is taken
    assert progress.next_index == after
    assert progress.is_flow_paused is not taken


def test_nothing_is_sent_while_a_snapshot_is_under_way():
    progress = progress_at(2, 5)
    progress.become_snapshot(9)
    assert progress.is_paused
    assert (progress.next_index, progress.sent_commit_index) == (10, 9)
    with pytest.raises(InvariantViolation, match="INV-RAFT-18"):
        progress.sent_entries(1, 1)


def test_probing_goes_on_above_a_snapshot_that_arrived_and_below_one_that_did_not():
    arrived = progress_at(2, 5)
    arrived.become_snapshot(9)
    arrived.become_probe()
    assert (arrived.state, arrived.next_index) == (ProgressState.PROBE, 10)
    lost = progress_at(2, 5)
    lost.become_snapshot(9)
    lost.abandon_snapshot()
    assert (lost.next_index, lost.sent_commit_index) == (3, 2)


def test_an_empty_append_is_worth_sending_only_for_a_commit_index_the_follower_can_use():
    progress = progress_at(5, 8)
    progress.sent_commit_index = 5
    assert progress.can_raise_commit(6)
    assert not progress.can_raise_commit(5)
    progress.sent_commit_index = 7
    assert not progress.can_raise_commit(9)
