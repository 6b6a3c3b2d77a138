"""Every bug that the simulator must find, by the name that the command line knows it by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.testing.simulator.paxos_bugs import PAXOS_BUGS
from onceflow_consensus.testing.simulator.raft_bugs import RAFT_BUGS
from onceflow_consensus.testing.simulator.storage_bugs import DRIVER_BUGS, STORAGE_BUGS

if TYPE_CHECKING:
    from onceflow_consensus.testing.simulator.mutations import Mutation

KNOWN_BUGS: dict[str, Mutation] = {
    item.name: item for item in (*RAFT_BUGS, *PAXOS_BUGS, *STORAGE_BUGS, *DRIVER_BUGS)
}
"""Every bug by its name."""

UNFOUND = frozenset(
    {
        "answers-of-other-ballots-counted",
        "ballot-given-up-never",
        "campaign-with-a-change-to-apply",
        "joint-election-by-one-half",
        "leading-before-the-own-vote-is-durable",
        "more-acknowledged-than-proven",
        "more-committed-than-proven",
        "older-snapshot-installed",
        "progress-kept-from-an-earlier-leadership",
        "read-confirmed-by-any-heartbeat",
        "replaced-log-counted-as-accepted",
        "write-report-for-replaced-entries-believed",
    }
)
"""Bugs of which no seed among the first 2,000 is known that finds them.

They need more to come together than a short run brings. Until one is found they prove nothing, and
are left out when all are looked for; each can be put in by its name.
"""
