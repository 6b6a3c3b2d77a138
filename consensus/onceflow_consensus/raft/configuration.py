"""Who belongs to the group: voters, learners, and the half-way state of a joint configuration.

Values only. How one configuration becomes another is decided in ``confchange``; when it takes
effect is decided by whoever applies the entry.
Must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.quorum.joint import JointVoters

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId

_NOBODY: frozenset[PeerId] = frozenset()
_NO_VOTERS = JointVoters()


@dataclass(frozen=True, slots=True)
class Configuration:
    """The membership in force on a replica.

    voters: the majorities that decide; two while the configuration is joint.
    learners: receive the log and do not vote.
    learners_next: voters of the outgoing half that become learners when the joint configuration
        is left; until then their vote counts in the outgoing half.
    auto_leave: the leader leaves the joint configuration by itself.
    """

    voters: JointVoters = _NO_VOTERS
    learners: frozenset[PeerId] = _NOBODY
    learners_next: frozenset[PeerId] = _NOBODY
    auto_leave: bool = False

    @property
    def peer_ids(self) -> frozenset[PeerId]:
        """Return every member, voting or not."""
        return self.voters.peer_ids | self.learners

    @property
    def is_joint(self) -> bool:
        """Whether the configuration is half-way between two memberships."""
        return self.voters.is_joint

    def checked(self) -> Configuration:
        """Return the configuration itself.

        Raises:
            InvariantViolation: a bug, or a snapshot that holds a configuration no change makes.
        """
        invariant(
            not self.learners & self.voters.peer_ids,
            "INV-RAFT-7: nobody is a voter and a learner at once",
            learners=sorted(self.learners),
            voters=sorted(self.voters.peer_ids),
        )
        invariant(
            self.learners_next <= self.voters.outgoing,
            "INV-RAFT-7: only an outgoing voter can wait to become a learner",
            learners_next=sorted(self.learners_next),
            outgoing=sorted(self.voters.outgoing),
        )
        invariant(
            self.is_joint or not self.auto_leave,
            "INV-RAFT-7: only a joint configuration can be left by itself",
        )
        return self


EMPTY_CONFIGURATION = Configuration()
"""The configuration of a replica that was told nothing: it cannot elect itself."""


def configuration_of(
    voters: frozenset[PeerId], learners: frozenset[PeerId] = _NOBODY
) -> Configuration:
    """Return the simple configuration with these voters and learners."""
    return Configuration(JointVoters(voters), learners).checked()
