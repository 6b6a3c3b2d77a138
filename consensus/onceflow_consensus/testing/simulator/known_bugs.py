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

_AGREES_ALREADY = (
    "a leader's first append stands where the logs agree and brings an entry, so that whatever "
    "differs is cut off by the time anything is proven: only another kind of leader shows it"
)

UNFOUND: dict[str, str] = {
    "ballot-given-up-never": (
        "the disk of the replica whose log is being adopted has to be lost in the few moments in "
        "which it is asked"
    ),
    "more-acknowledged-than-proven": _AGREES_ALREADY,
    "more-committed-than-proven": _AGREES_ALREADY,
    "older-snapshot-installed": (
        "an acceptor's answers have to be lost, what it holds to be compacted elsewhere, and a "
        "report to come that it is not reached, before it hears what is decided"
    ),
    "write-report-for-replaced-entries-believed": (
        "entries are replaced in a later term only, and reports of an earlier one are not believed "
        "in the first place"
    ),
}
"""Bugs of which no seed among the first 2,000 is known that finds them, each with the reason.

They are left out when all are looked for; each can be put in by its name. A test of the engine
finds each of them.
"""
