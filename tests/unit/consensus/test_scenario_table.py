"""Bugs that other implementations shipped, and the tests of ours that would have found them.

One line per bug, with whose it was; the tests are named by file and function, or by a case. A test
that is renamed or removed is missed here. The simulator asks for the general properties on top:
one leader a term, one vote a term, committed entries durable on a quorum and never changed.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PAPER = "unit/consensus/test_raft_paper.py::"
THESIS = "unit/consensus/test_raft_thesis.py::"
BUGS = "unit/consensus/raft/test_bugs_of_others.py::"
STEP = "unit/consensus/raft/test_step.py::"
MEMBERSHIP = "unit/consensus/raft/test_membership.py::"
READING = "unit/consensus/raft/test_reading.py::"
LOG = "unit/consensus/raft/test_log.py::"
QUORUM = "unit/consensus/quorum/test_quorum.py::"
DISK = "unit/consensus/storage/test_durable_log.py::"
WRITER = "unit/consensus/storage/test_writer.py::"
SERVER = "unit/consensus/test_server_group.py::"
SESSIONS = "unit/consensus/test_sessions.py::"
GROUPS = "property/test_consensus_group.py::test_a_group_stays_safe_and_agrees_after_healing"
CASE = "scenarios/etcd_raft/interaction/"
WRITES = "property/test_consensus_storage.py::"
CHANGES = "property/test_consensus_confchange.py::"
WHOLE = "unit/consensus/storage/test_node_on_disk.py::"
COMMANDS = "integration/test_meta_cli.py::"
FAULTS = "integration/test_consensus_faults.py::"

SCENARIOS = {
    1: ("a duplicated vote counts twice (akka-raft 45)",
        PAPER + "test_5_2_a_repeated_vote_counts_once"),
    2: ("a vote of an older term counts (akka-raft 46)",
        PAPER + "test_5_2_a_vote_of_an_older_term_does_not_count"),
    3: ("a vote is forgotten within its term (akka-raft 56, CCF 5891)",
        PAPER + "test_5_2_a_vote_outlives_a_return_to_follower_and_a_restart"),
    4: ("a vote is answered before it is durable (akka-raft 62, PySyncObj to 0.3.14)",
        PAPER + "test_5_1_the_term_is_durable_before_anything_is_promised_in_it",
        WRITES + "test_everything_acknowledged_survives_a_crash_at_any_operation"),
    5: ("a leader takes a command before it knows where followers are (akka-raft 58)",
        BUGS + "test_5_a_proposal_before_anything_is_known_of_the_followers_is_sent_from_the_right"
        "_place"),
    6: ("a log counted from zero makes the previous index ambiguous (akka-raft 58)",
        BUGS + "test_6_the_position_before_the_first_entry_is_not_the_first_entry"),
    7: ("the quorum's index is not the median (akka-raft 42, OpenRaft d60f1e85)",
        PAPER + "test_5_3_the_committed_index_is_the_median_of_what_matches",
        QUORUM + "test_the_committed_index_is_the_median_not_the_mode"),
    8: ("positions are compared by parts (OpenRaft a48a3282)",
        PAPER + "test_5_4_1_a_voter_refuses_a_candidate_whose_log_is_behind"),
    9: ("endless elections under partial connectivity (Howard and Abraham 2020)",
        BUGS + "test_9_a_group_that_is_partly_connected_elects_and_keeps_a_leader_that_a_quorum"
        "_reaches"),
    10: ("a pre-candidate believes in a leader; leases without checks (raft-rs 84, 141)",
         BUGS + "test_10_a_pre_candidate_believes_in_no_leader_and_can_vote_for_another",
         STEP + "test_options_that_cannot_work_are_refused",
         READING + "test_lease_reads_need_no_round_but_still_a_commit_of_the_term"),
    11: ("a candidate missing from a stale configuration gets no vote (etcd 10998, KIP-853)",
         BUGS + "test_11_a_voter_votes_for_a_candidate_that_its_own_configuration_does_not_know",
         CASE + "campaign_learner_must_vote.txt"),
    12: ("a leader whose disk hangs goes on with heartbeats (etcd 15247)",
         SERVER + "test_a_stalled_disk_makes_another_member_lead"),
    13: ("an entry of an older term is committed by counting (figure 8, CCF, KAFKA-12619)",
         PAPER + "test_5_4_2_figure_8_only_entries_of_the_own_term_are_committed_by_counting"),
    14: ("a refused append raises the commit index (CCF)",
         BUGS + "test_14_a_refused_append_commits_nothing_whatever_it_names"),
    15: ("an acknowledgement names more than the request proved (CCF)",
         PAPER + "test_5_3_an_acknowledgement_names_only_what_its_append_proved",
         PAPER + "test_5_3_a_commit_index_beyond_what_an_append_proved_is_not_believed"),
    16: ("a delayed or short append cuts acknowledged entries off (akka-raft 66, CCF, OpenRaft)",
         PAPER + "test_5_3_conflicting_entries_are_replaced_and_no_others",
         PAPER + "test_5_5_a_repeated_append_changes_nothing"),
    17: ("suffixes of other terms at the same index; empty appends unchecked (CCF, OpenRaft)",
         PAPER + "test_5_3_a_follower_checks_what_precedes_an_append",
         PAPER + "test_5_3_figure_7_a_leader_brings_every_log_up_to_its_own"),
    18: ("entries that do not follow one another corrupt a follower (LogCabin 160)",
         STEP + "test_entries_that_do_not_follow_one_another_are_refused"),
    19: ("a long divergent tail is probed entry by entry (OpenRaft 6d53aa12, CCF)",
         BUGS + "test_19_a_long_divergent_tail_is_skipped_by_terms_not_by_entries",
         LOG + "test_a_hint_skips_whole_terms_and_stops_where_the_log_is_compacted"),
    20: ("a follower is stuck after a snapshot; the window is ignored (etcd 10308, 14633)",
         STEP + "test_a_follower_that_passes_its_snapshot_is_replicated_to",
         CASE + "snapshot_succeed_via_app_resp.txt",
         CASE + "replicate_pause.txt"),
    21: ("a late acknowledgement of entries that were replaced and put back (etcd)",
         STEP + "test_a_late_report_about_an_entry_that_was_replaced_and_put_back_is_not_believed",
         LOG + "test_a_late_report_of_the_writer_does_not_free_what_replaced_its_entries"),
    22: ("what is committed loses its order, without a quorum (OpenRaft 1802)",
         BUGS + "test_22_acknowledgements_out_of_order_neither_lower_nor_raise_what_is_committed"),
    23: ("a vote is written after entries by a reordering of writes (OpenRaft)",
         WRITER + "test_what_gathers_during_a_sync_shares_the_next_one_and_keeps_its_order",
         WRITES + "test_everything_acknowledged_survives_a_crash_at_any_operation"),
    24: ("followers acknowledge to the old leader after a vote (MongoDB SERVER-22136)",
         BUGS + "test_24_who_voted_for_another_takes_and_acknowledges_nothing_of_the_old_leader"),
    25: ("who lags never learns what is committed; cycles of sources (MongoDB)",
         PAPER + "test_5_3_a_follower_applies_what_it_learns_to_be_committed",
         GROUPS),
    26: ("two snapshots in quick succession (etcd 18055)",
         BUGS + "test_26_a_second_snapshot_may_come_while_the_first_is_being_written"),
    27: ("a snapshot races with applying; members lost by it (OpenRaft)",
         MEMBERSHIP + "test_a_change_that_a_snapshot_has_overtaken_is_not_applied",
         LOG + "test_nothing_is_applied_below_a_snapshot_that_is_not_durable",
         BUGS + "test_27_the_membership_outlives_two_compactions_and_a_restart"),
    28: ("a crash while a snapshot is received repeats itself (LogCabin 174)",
         DISK + "test_a_snapshot_whose_log_was_not_dropped_any_more_is_finished",
         DISK + "test_damaged_snapshots_are_refused_and_leftovers_removed"),
    29: ("a gap between snapshot and log after a restore (hashicorp 1.4.0)",
         DISK + "test_snapshots_without_a_log_and_a_log_without_its_snapshot_are_refused",
         COMMANDS + "test_a_group_is_restored_from_a_backup_as_another_group"),
    30: ("everything is lost at a fail-over (Redis-Raft 1b3fbf6)",
         WHOLE + "test_a_group_that_restarts_as_a_whole_has_lost_nothing",
         FAULTS + "test_killed_members_lose_nothing_that_was_acknowledged",
         GROUPS),
    31: ("two leaders change one voter each (erratum of the thesis)",
         BUGS + "test_31_of_two_changes_by_two_leaders_only_one_can_be_committed",
         THESIS + "test_thesis_4_1_no_change_before_the_entries_of_earlier_terms_are_applied",
         CHANGES + "test_every_quorum_before_a_change_meets_every_quorum_after_it"),
    32: ("an election is counted on the union of both halves (CCF)",
         QUORUM + "test_a_joint_quorum_is_not_a_majority_of_the_union",
         THESIS + "test_thesis_4_3_in_a_joint_configuration_both_majorities_decide"),
    33: ("a removed replica without its state votes again (RethinkDB 2.2.3)",
         SERVER + "test_a_removed_id_is_not_given_out_again"),
    34: ("the id of a removed replica is used again (etcd)",
         SERVER + "test_a_removed_id_is_not_given_out_again"),
    35: ("a removed replica disturbs; a retiring one leaves too early (CCF)",
         THESIS + "test_thesis_6_2_a_leader_that_hears_no_quorum_steps_down",
         MEMBERSHIP + "test_a_refusal_that_tells_of_a_change_ends_the_campaign_until_it_is_applied",
         CASE + "checkquorum.txt",
         CASE + "prevote.txt"),
    36: ("of two members one leaves while the other misses it (etcd)",
         BUGS + "test_36_of_two_the_one_that_stays_learns_that_the_other_left"),
    37: ("concurrent changes leave a joint configuration for ever (OpenRaft)",
         MEMBERSHIP + "test_leaving_waits_for_a_transfer_to_end_and_is_tried_again",
         THESIS + "test_thesis_4_1_one_membership_change_is_under_way_at_a_time"),
    38: ("stale reads at a leader that was paused or replaced (etcd 0.4.1, 20418)",
         BUGS + "test_38_a_leader_that_slept_through_an_election_confirms_no_read_by_old_answers",
         READING + "test_an_older_confirmation_does_not_confirm_a_later_read",
         FAULTS + "test_a_leader_that_was_frozen_serves_nothing_stale"),
    39: ("reads before the first commit of a term, or while starting (etcd 3879)",
         THESIS + "test_thesis_6_4_a_read_waits_for_an_entry_of_the_term_and_for_a_round_of"
         "_heartbeats",
         READING + "test_a_lone_voter_that_restarted_waits_until_it_knows_what_it_had_committed"),
    40: ("locks without fencing exclude nobody (etcd 3.4.3)",
         "unit/consensus/test_kv.py::test_a_compared_version_decides_the_write",
         "unit/consensus/test_kv.py::test_versions_are_not_used_twice_by_a_key_that_was_deleted"),
    41: ("a session expires on one replica only, or comes back (thesis 6.3)",
         SESSIONS + "test_a_session_without_commands_expires_by_the_time_of_the_log",
         SESSIONS + "test_a_session_that_expired_does_not_come_back",
         SESSIONS + "test_a_repeated_command_gets_the_first_answer_and_takes_effect_once"),
    42: ("retries without end hide errors; one bad member slows all (TigerBeetle 0.16.11)",
         COMMANDS + "test_who_does_not_answer_is_exit_code_3_and_who_refuses_is_2",
         SERVER + "test_a_failed_disk_stops_the_member_and_the_others_go_on"),
    43: ("the applied index is not saved with the state (etcd 13766)",
         SESSIONS + "test_an_entry_is_applied_once_inv_session_2",
         STEP + "test_a_state_machine_ahead_of_the_stored_commit_index_is_believed",
         SESSIONS + "test_a_snapshot_keeps_sessions_and_state_however_it_is_cut"),
    44: ("a lone voter acknowledges before its sync; a torn tail stops the start (etcd)",
         BUGS + "test_44_a_lone_voter_commits_nothing_before_it_is_durable",
         DISK + "test_a_torn_tail_is_cut_off_and_written_over"),
    45: ("a failed sync is retried; damage is taken for a torn tail (ATC'20, FAST'18)",
         DISK + "test_after_a_failure_nothing_is_written_any_more",
         DISK + "test_damage_before_a_whole_batch_is_refused_and_says_how_to_rejoin",
         FAULTS + "test_a_member_without_disk_stops_and_the_others_go_on"),
}  # fmt: skip


@cache
def functions_of(name):
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_bug_has_its_number():
    assert list(SCENARIOS) == list(range(1, 46))


@pytest.mark.parametrize("number", SCENARIOS)
def test_a_bug_has_tests_that_exist(number):
    bug, *tests = SCENARIOS[number]
    assert bug
    assert tests
    for test in tests:
        file, _, function = test.partition("::")
        assert (TESTS / file).is_file(), test
        assert file.endswith(".txt") or function in functions_of(file), test
