"""Bugs of Raft and of quorums that the simulator must find; others shipped most of them.

Each is one small change of one function.
"""

from __future__ import annotations

from onceflow_consensus.testing.simulator.mutations import Mutation

_RAFT = "raft"

RAFT_BUGS: tuple[Mutation, ...] = (
    Mutation(
        "majority-minus-one",
        _RAFT,
        "quorum.majority:majority_size",
        "voter_count // 2 + 1",
        "max(1, voter_count // 2)",
    ),
    Mutation(
        "own-vote-counted-twice",
        _RAFT,
        "quorum.majority:vote_result",
        "granted = sum(1 for voter in voters if votes.get(voter, False))",
        "granted = 1 + sum(1 for voter in voters if votes.get(voter, False))",
    ),
    Mutation(
        "highest-instead-of-median",
        _RAFT,
        "quorum.majority:committed_index",
        "indices[len(indices) - majority_size(len(indices))]",
        "indices[-1]",
    ),
    Mutation(
        "joint-quorum-of-the-union",
        _RAFT,
        "quorum.joint:JointVoters.committed_index",
        "return min(index, committed_index(self.outgoing, acked)) if self.outgoing else index",
        "return committed_index(self.peer_ids, acked)",
    ),
    Mutation(
        "joint-election-by-one-half",
        _RAFT,
        "quorum.joint:JointVoters.vote_result",
        "results = {vote_result(self.incoming, votes), vote_result(self.outgoing, votes)}",
        "results = {vote_result(self.incoming, votes)}",
    ),
    Mutation(
        "vote-forgotten-in-the-same-term",
        _RAFT,
        "raft.state:RaftState._reset",
        "if term != self.term:",
        "if True:",
    ),
    Mutation(
        "vote-kept-for-the-next-term",
        _RAFT,
        "raft.state:RaftState._reset",
        "            self.vote = NO_PEER\n",
        "",
    ),
    Mutation(
        "vote-sent-before-it-is-durable",
        _RAFT,
        "raft.state:RaftState.post",
        "if message.kind in AFTER_PERSIST_KINDS:",
        "if message.kind in AFTER_PERSIST_KINDS - {MessageKind.VOTE_RESP} or "
        "message.to == self.peer_id:",
    ),
    Mutation(
        "append-acknowledged-before-it-is-durable",
        _RAFT,
        "raft.state:RaftState.post",
        "if message.kind in AFTER_PERSIST_KINDS:",
        "if message.kind in AFTER_PERSIST_KINDS - {MessageKind.APP_RESP} or "
        "message.to == self.peer_id:",
    ),
    Mutation(
        "vote-not-written",
        _RAFT,
        "raft.state:RaftState.hard_state",
        "return HardState(self.term, self.vote, self.log.commit_index)",
        "return HardState(self.term, NO_PEER, self.log.commit_index)",
    ),
    Mutation(
        "vote-for-a-log-that-is-behind",
        _RAFT,
        "raft.matching:is_up_to_date",
        "return (candidate.term, candidate.index) >= (own.term, own.index)",
        "return candidate.term >= own.term",
    ),
    Mutation(
        "longer-log-wins-over-later-term",
        _RAFT,
        "raft.matching:is_up_to_date",
        "return (candidate.term, candidate.index) >= (own.term, own.index)",
        "return candidate.index >= own.index",
    ),
    Mutation(
        "second-vote-in-a-term",
        _RAFT,
        "raft.election:handle_vote_request",
        "or (state.vote == NO_PEER and state.raft_leader == NO_PEER)",
        "or state.raft_leader == NO_PEER",
    ),
    Mutation(
        "leading-before-the-own-vote-is-durable",
        _RAFT,
        "raft.election:handle_vote_answer",
        "result is VoteResult.WON and state.peer_id in state.tracker.votes",
        "result is VoteResult.WON",
    ),
    Mutation(
        "answers-of-older-terms-accepted",
        _RAFT,
        "raft.step:_admit_term",
        "        _answer_lower_term(state, message)\n        return False",
        "        _answer_lower_term(state, message)\n"
        "        return message.kind is MessageKind.VOTE_RESP or (\n"
        "            message.kind is MessageKind.APP_RESP and not message.rejected\n"
        "        )",
    ),
    Mutation(
        "not-stepping-down",
        _RAFT,
        "raft.step:_admit_higher_term",
        "    if not is_hypothetical:",
        "    if state.role is Role.LEADER and kind is MessageKind.APP_RESP:\n"
        "        return False\n"
        "    if not is_hypothetical:",
    ),
    Mutation(
        "entries-of-earlier-terms-committed-by-counting",
        _RAFT,
        "raft.replication:advance_commit",
        "if index <= state.log.commit_index or not state.log.matches(EntryId(state.term, index)):",
        "if index <= state.log.commit_index:",
    ),
    Mutation(
        "rejection-counted-as-acknowledgement",
        _RAFT,
        "raft.replication:handle_append_answer",
        "        _step_back(state, progress, message)\n        return",
        "        _step_back(state, progress, message)",
    ),
    Mutation(
        "more-acknowledged-than-proven",
        _RAFT,
        "raft.following:handle_append",
        "_acknowledge(state, message.sender, proven)",
        "_acknowledge(state, message.sender, state.log.last_index)",
    ),
    Mutation(
        "delayed-append-cuts-newer-entries",
        _RAFT,
        "raft.matching:find_conflict",
        "if log.term_at(entry.index) != entry.term:",
        "if entry.index > log.commit_index:",
    ),
    Mutation(
        "append-taken-without-the-entry-before",
        _RAFT,
        "raft.matching:append_from_leader",
        "if not log.matches(previous):",
        "if log.term_at(previous.index) is None:",
    ),
    Mutation(
        "more-committed-than-proven",
        _RAFT,
        "raft.matching:append_from_leader",
        "log.commit_to(min(commit_index, proven_index))",
        "log.commit_to(min(commit_index, log.last_index))",
    ),
    Mutation(
        "heartbeat-commits-what-the-follower-lacks",
        _RAFT,
        "raft.sending:broadcast_heartbeat",
        "commit_index = min(progress.match_index, state.log.commit_index)",
        "commit_index = state.log.commit_index",
    ),
    Mutation(
        "write-report-for-replaced-entries-believed",
        _RAFT,
        "raft.unstable:UnstableLog.stable_to",
        "if self.entries[position].term != written.term:",
        "if False:",
    ),
    Mutation(
        "progress-kept-from-an-earlier-leadership",
        _RAFT,
        "raft.tracker:Tracker.reset",
        "match_index = last_index if peer_id == own_id else 0",
        "match_index = last_index if peer_id == own_id else "
        "min(last_index, self.progress[peer_id].match_index)",
    ),
    Mutation(
        "read-without-a-round-of-heartbeats",
        _RAFT,
        "raft.reading:_confirm",
        "if state.tracker.is_singleton or state.options.read_mode is ReadMode.LEASE:",
        "if True:",
    ),
    Mutation(
        "read-confirmed-by-any-heartbeat",
        _RAFT,
        "raft.reads:ReadQueue.acknowledge",
        'number = int.from_bytes(context, "big")',
        "number = self._confirmed_count + len(self._unconfirmed)",
    ),
    Mutation(
        "read-before-the-first-commit-of-a-term",
        _RAFT,
        "raft.reading:read_as_leader",
        "if _has_committed_in_term(state):",
        "if True:",
    ),
    Mutation(
        "snapshot-overwrites-a-newer-log",
        _RAFT,
        "raft.following:_restore",
        "if state.log.matches(EntryId(received.term, received.index)):",
        "if False:",
    ),
    Mutation(
        "members-of-a-snapshot-ignored",
        _RAFT,
        "raft.following:_restore",
        "    state.tracker.restore(received.configuration, state.log.last_index)\n",
        "",
    ),
    Mutation(
        "applied-again-after-a-restart",
        _RAFT,
        "raft.state:RaftState.__init__",
        "self.cursor.applied_to(max(applied_index, self.cursor.applied_index), 0)",
        "self.cursor.applied_to(self.cursor.applied_index, 0)",
    ),
    Mutation(
        "change-before-the-last-one-is-applied",
        _RAFT,
        "raft.proposing:_fits",
        "if state.pending_conf_index > state.cursor.applied_index:",
        "if False:",
    ),
    Mutation(
        "change-right-after-an-election",
        _RAFT,
        "raft.state:RaftState.become_leader",
        "self.pending_conf_index = self.log.last_index",
        "self.pending_conf_index = 0",
    ),
    Mutation(
        "campaign-with-a-change-to-apply",
        _RAFT,
        "raft.election:hup",
        "not state.is_promotable or _has_unapplied_change(state)",
        "not state.is_promotable",
    ),
    Mutation(
        "probing-never-resumed",
        _RAFT,
        "raft.replication:handle_heartbeat_answer",
        "    progress.is_flow_paused = False\n",
        "",
    ),
    Mutation(
        "joint-configuration-never-left",
        _RAFT,
        "raft.membership:applied_to",
        "            propose_as_leader(state, leave)",
        "            return",
    ),
    Mutation(
        "transfer-never-given-up",
        _RAFT,
        "raft.step:_tick_leader",
        "        state.transferee = NO_PEER\n",
        "",
    ),
)
"""Bugs of the Raft engine and of the quorums."""
