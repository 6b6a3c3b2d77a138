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
