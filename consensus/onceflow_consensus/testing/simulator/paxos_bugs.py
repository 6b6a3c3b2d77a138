"""Bugs of Multi-Paxos that the simulator must find.

Each is one small change of one function.
"""

from __future__ import annotations

from onceflow_consensus.testing.simulator.mutations import Mutation

_PAXOS = "paxos"

PAXOS_BUGS: tuple[Mutation, ...] = (
    Mutation(
        "replaced-log-counted-as-accepted",
        _PAXOS,
        "paxos.state:PaxosState._begin_period",
        "self.tracker.reset(self.peer_id, 0)",
        "self.tracker.reset(self.peer_id, self.log.last_index)",
    ),
    Mutation(
        "promise-of-a-lower-ballot",
        _PAXOS,
        "paxos.step:_admit",
        "    elif message.ballot != state.promised:\n",
        "    elif message.ballot != state.promised and message.kind is not PaxosKind.ACCEPT:\n",
    ),
    Mutation(
        "two-owners-of-a-number",
        _PAXOS,
        "paxos.step:_admit",
        "    elif message.ballot != state.promised:\n",
        "    elif message.term != state.promised.number:\n",
    ),
    Mutation(
        "promise-sent-before-it-is-durable",
        _PAXOS,
        "paxos.state:PaxosState.post",
        "if kind in AFTER_PERSIST_KINDS:",
        "if kind in AFTER_PERSIST_KINDS and (\n"
        '            kind.value != "Promise" or message.to == self.peer_id\n'
        "        ):",
    ),
    Mutation(
        "accepted-sent-before-it-is-durable",
        _PAXOS,
        "paxos.state:PaxosState.post",
        "if kind in AFTER_PERSIST_KINDS:",
        "if kind in AFTER_PERSIST_KINDS and (\n"
        '            kind.value != "Accepted" or message.to == self.peer_id\n'
        "        ):",
    ),
    Mutation(
        "owner-of-the-promise-not-written",
        _PAXOS,
        "paxos.state:PaxosState.hard_state",
        "HardState(self.promised.number, self.promised.owner, self.log.commit_index)",
        "HardState(self.promised.number, NO_PEER, self.log.commit_index)",
    ),
    Mutation(
        "highest-promise-not-adopted",
        _PAXOS,
        "paxos.proposer:advance_preparation",
        "if is_above(proposal.promises[proposal.best()].last, state.log.last_id):",
        "if False:",
    ),
    Mutation(
        "longest-instead-of-highest-promise",
        _PAXOS,
        "paxos.state:_rank",
        "return last.term, last.index",
        "return last.index, last.term",
    ),
    Mutation(
        "ballot-opened-without-the-own-promise",
        _PAXOS,
        "paxos.state:PaxosState.standing",
        "if result is VoteResult.WON and self.peer_id not in proposal.promises:",
        "if False:",
    ),
    Mutation(
        "entries-of-lower-ballots-decided-by-counting",
        _PAXOS,
        "paxos.synchronising:count_accepted",
        "is_own = state.log.matches(EntryId(state.promised.number, index))",
        "is_own = True",
    ),
    Mutation(
        "answers-of-other-ballots-counted",
        _PAXOS,
        "paxos.step:step",
        "is_expected = state.phase is not Phase.FOLLOW and message.term == state.promised.number",
        "is_expected = state.phase is not Phase.FOLLOW",
    ),
    Mutation(
        "more-accepted-than-proven",
        _PAXOS,
        "paxos.acceptor:handle_accept",
        "_accepted(state, message, proven)",
        "_accepted(state, message, state.log.last_index)",
    ),
    Mutation(
        "seal-not-waited-for",
        _PAXOS,
        "paxos.proposals:_check_bounds",
        "if state.seal_index > state.cursor.applied_index:",
        "if False:",
    ),
    Mutation(
        "older-snapshot-installed",
        _PAXOS,
        "paxos.acceptor:install_snapshot",
        "if state.log.matches(EntryId(received.term, received.index)):",
        "if False:",
    ),
    Mutation(
        "members-of-an-installed-snapshot-ignored",
        _PAXOS,
        "paxos.acceptor:install_snapshot",
        "    state.tracker.restore(received.configuration, state.log.last_index)\n",
        "",
    ),
    Mutation(
        "read-before-the-first-decision-of-a-ballot",
        _PAXOS,
        "paxos.reading:release_early_reads",
        "if not state.early_reads or state.log.term_at(index) != state.promised.number:",
        "if not state.early_reads:",
    ),
    Mutation(
        "read-without-a-confirmation",
        _PAXOS,
        "paxos.reads:ReadRounds.take_confirmed",
        "number = min(voters.committed_index(self._confirmed_by), self.youngest)",
        "number = self.youngest",
    ),
    Mutation(
        "ballot-given-up-never",
        _PAXOS,
        "paxos.step:_tick_proposer",
        "            state.give_up(Cause.STALLED)\n",
        "            pass\n",
    ),
)
"""Bugs of the Paxos engine."""
