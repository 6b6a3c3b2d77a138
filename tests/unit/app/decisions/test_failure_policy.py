from __future__ import annotations

from dataclasses import replace

import pytest

from onceflow.decisions.epoch_events import Start
from onceflow.decisions.failures import (
    Ending,
    EndNow,
    Failure,
    FailureKind,
    FailureOptions,
    FailurePolicy,
    Hold,
    NoteFirst,
    ReadUpTo,
    Replay,
    TryAlone,
    without_retries,
)
from onceflow.errors import InvariantViolation
from onceflow.ids import Offset, Partition
from onceflow.limits import CAREFUL_GROWTH, CAREFUL_RECORDS_MAX

P = Partition("in", 0)
Q = Partition("in", 1)
OPTIONS = FailureOptions(retries_max=2, backoff_s=0.1, backoff_s_max=0.15)


def policy(**options: FailureOptions) -> FailurePolicy:
    return FailurePolicy(options, OPTIONS)


def failure(offset: int, count: int = 1, agent: str = "a", kind=FailureKind.RAISED, at=P):
    return Failure(at, Offset(offset), Offset(offset + count), count, agent, kind, "ValueError: no")


def commit(failures: FailurePolicy, offset: int, attempts: int = 0) -> None:
    failures.committed({P: Offset(offset), Q: Offset(0)}, {P: attempts, Q: 0})


def plan(failures: FailurePolicy, committed: int, in_hand: int | None):
    hands = {} if in_hand is None else {P: Offset(in_hand)}
    return failures.plan({P: Offset(committed), Q: Offset(0)}, hands)


def test_without_failures_everything_is_read_at_will():
    quiet = policy()
    assert quiet.quiet
    assert plan(quiet, 0, 0) is None
    assert quiet.ending(P, Offset(0), "a") is None


def test_a_failing_record_is_pinned_noted_and_tried_alone():
    failures = policy()
    assert failures.record_failed(failure(7)) == Replay(after_s=0.1)
    assert not failures.quiet
    assert plan(failures, 3, 3) == ReadUpTo(P, Offset(7))
    commit(failures, 7)
    assert plan(failures, 7, 7) == NoteFirst(P)
    commit(failures, 7, attempts=3)
    assert plan(failures, 7, 7) == TryAlone(P, 1)
    commit(failures, 8)
    assert failures.quiet


def test_retries_back_off_within_a_bound_and_end_in_the_dead_letter_topic():
    failures = policy()
    waits = [failures.record_failed(failure(7)) for _ in range(3)]
    assert waits == [Replay(0.1), Replay(0.15), Replay(0.0)]
    assert failures.ending(P, Offset(7), "a") is Ending.DEAD_LETTER
    assert failures.ending(P, Offset(7), "another") is None
    assert failures.ending(P, Offset(6), "a") is None
    assert plan(failures, 7, 7) == TryAlone(P, 1)


def test_what_fails_in_a_task_without_a_name_is_not_ended_for_agents():
    failures = policy()
    for _ in range(OPTIONS.retries_max + 1):
        failures.record_failed(failure(7, agent=""))
    assert failures.ending(P, Offset(7), "") is Ending.DEAD_LETTER
    assert failures.ending(P, Offset(7), "agent") is None


def test_each_failed_attempt_is_noted_anew():
    failures = policy()
    failures.record_failed(failure(7))
    commit(failures, 7, attempts=0)
    commit(failures, 7, attempts=3)
    failures.record_failed(failure(7))
    assert plan(failures, 7, 7) == NoteFirst(P)
    commit(failures, 7, attempts=4)
    assert plan(failures, 7, 7) == TryAlone(P, 1)


def test_a_failing_batch_is_halved_until_one_record_is_left():
    failures = policy()
    assert failures.record_failed(failure(10, 8)) == Replay()
    assert plan(failures, 10, 10) == TryAlone(P, 4)
    assert failures.record_failed(failure(10, 4)) == Replay()
    assert plan(failures, 10, 10) == TryAlone(P, 2)
    assert failures.record_failed(failure(10, 2)) == Replay()
    assert plan(failures, 10, 10) == NoteFirst(P)
    commit(failures, 10, attempts=3)
    assert plan(failures, 10, 10) == TryAlone(P, 1)


def test_a_half_that_succeeds_moves_the_search_to_the_other_half():
    failures = policy()
    failures.record_failed(failure(10, 8))
    commit(failures, 14)
    assert plan(failures, 14, 14) == TryAlone(P, 4)
    failures.record_failed(failure(14, 4))
    assert plan(failures, 14, 14) == TryAlone(P, 2)
    commit(failures, 18)
    assert failures.quiet


def test_undecodable_bytes_end_at_once_because_no_retry_changes_them():
    failures = policy(skipping=replace(OPTIONS, ending=Ending.SKIP))
    assert failures.record_failed(failure(7, kind=FailureKind.DECODE)) == EndNow(Ending.DEAD_LETTER)
    skipped = failure(7, agent="skipping", kind=FailureKind.DECODE)
    assert failures.record_failed(skipped) == EndNow(Ending.SKIP)
    assert failures.quiet


@pytest.mark.parametrize("kind", [FailureKind.DECODE, FailureKind.TOO_SLOW])
def test_stop_leaves_after_the_abort_and_says_which_record(kind):
    failures = policy(a=without_retries(replace(OPTIONS, ending=Ending.STOP)))
    decision = failures.record_failed(failure(7, kind=kind))
    assert isinstance(decision, Replay)
    assert decision.stop_message is not None
    assert "in[0] offset 7" in decision.stop_message


def test_a_partition_whose_owners_were_lost_twice_is_tried_alone():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=2)})
    assert plan(failures, 7, 7) == NoteFirst(P)


def test_after_owners_lost_in_a_row_epochs_begin_small_and_grow_until_all_is_read_at_will():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=2), Q: Start(Offset(0), attempts=1)})
    assert plan(failures, 7, None) == Hold(frozenset([P]))
    assert plan(failures, 7, 7) == NoteFirst(P)
    commit(failures, 7, attempts=3)
    sizes, offset = [], 7
    while (attempt := plan(failures, offset, offset)) is not None:
        assert isinstance(attempt, TryAlone)
        sizes.append(attempt.records)
        offset += attempt.records
        commit(failures, offset)
    assert sizes == [1, 4, 16, 64, 256, 1024]
    assert sizes[-1] == CAREFUL_RECORDS_MAX
    assert sizes[1] == CAREFUL_GROWTH
    assert failures.quiet


def test_an_ordinary_kill_changes_nothing():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=1)})
    assert failures.quiet


def test_a_suspect_without_a_record_in_hand_holds_up_only_itself():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=2)})
    assert plan(failures, 7, None) == Hold(frozenset([P]))


def test_the_first_record_after_a_gap_is_the_suspect():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=5)})
    assert plan(failures, 7, 9) == TryAlone(P, 1)
    assert failures.ending(P, Offset(9), "any agent") is Ending.DEAD_LETTER


def test_records_that_killed_the_process_are_ended_for_every_agent():
    failures = policy()
    failures.claimed({P: Start(Offset(7), attempts=4)})
    assert failures.ending(P, Offset(7), "a") is None
    failures.claimed({P: Start(Offset(7), attempts=5)})
    assert failures.ending(P, Offset(7), "a") is Ending.DEAD_LETTER


def test_the_least_tried_suspect_comes_first():
    failures = policy()
    failures.claimed({P: Start(Offset(0), attempts=4), Q: Start(Offset(0), attempts=2)})
    hands = {P: Offset(0), Q: Offset(0)}
    assert failures.plan(hands, hands) == NoteFirst(Q)


def test_partitions_that_left_are_forgotten():
    failures = policy()
    failures.record_failed(failure(7))
    failures.forget([P, Q])
    assert failures.quiet


def test_a_failure_without_records_breaks_inv_fail_1():
    with pytest.raises(InvariantViolation, match="INV-FAIL-1"):
        policy().record_failed(failure(7, count=0))
