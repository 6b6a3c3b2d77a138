"""The roles of a replica and every legal change between them.

Rules of this file: whatever changes a replica's role stands in ``TRANSITIONS``, with its cause;
a change that is not listed is a bug and stops the replica. The diagram in the package's README is
drawn from this table.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum

from onceflow_consensus.errors import invariant


class Role(Enum):
    """What a replica does in the present term."""

    __hash__ = object.__hash__  # see EntryKind

    FOLLOWER = "StateFollower"
    PRE_CANDIDATE = "StatePreCandidate"
    CANDIDATE = "StateCandidate"
    LEADER = "StateLeader"


class Cause(Enum):
    """Why a role changes."""

    HIGHER_TERM = "a message of a higher term"
    LEADER_HEARD = "the leader of this term is heard"
    PRE_CAMPAIGN = "no leader is heard: ask whether an election can be won"
    CAMPAIGN = "an election is called"
    ELECTED = "a quorum votes for it"
    OUTVOTED = "a quorum votes against it"
    CHANGE_LEARNED = "it learns that a membership change is committed"
    QUORUM_LOST = "no quorum is heard for an election timeout"
    REMOVED = "it is no longer a voter"


_ANY = tuple(Role)
_NOT_LEADER = (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)

TRANSITIONS: dict[tuple[Role, Cause], Role] = {
    **{(role, Cause.HIGHER_TERM): Role.FOLLOWER for role in _ANY},
    (Role.PRE_CANDIDATE, Cause.LEADER_HEARD): Role.FOLLOWER,
    (Role.CANDIDATE, Cause.LEADER_HEARD): Role.FOLLOWER,
    **{(role, Cause.PRE_CAMPAIGN): Role.PRE_CANDIDATE for role in _NOT_LEADER},
    **{(role, Cause.CAMPAIGN): Role.CANDIDATE for role in _NOT_LEADER},
    (Role.CANDIDATE, Cause.ELECTED): Role.LEADER,
    (Role.PRE_CANDIDATE, Cause.OUTVOTED): Role.FOLLOWER,
    (Role.CANDIDATE, Cause.OUTVOTED): Role.FOLLOWER,
    (Role.PRE_CANDIDATE, Cause.CHANGE_LEARNED): Role.FOLLOWER,
    (Role.CANDIDATE, Cause.CHANGE_LEARNED): Role.FOLLOWER,
    (Role.LEADER, Cause.QUORUM_LOST): Role.FOLLOWER,
    (Role.LEADER, Cause.REMOVED): Role.FOLLOWER,
}
"""Every legal change of role: (role, cause) to the next role."""


def next_role(role: Role, cause: Cause) -> Role:
    """Return the role that follows.

    Raises:
        InvariantViolation: the change is not in the table; a bug.
    """
    invariant(
        (role, cause) in TRANSITIONS,
        "INV-RAFT-1: a role changes only as the table allows",
        role=role.value,
        cause=cause.name,
    )
    return TRANSITIONS[role, cause]


def state_diagram() -> str:
    """Return the table as a Mermaid state diagram, one line per pair of roles and cause."""
    lines = ["stateDiagram-v2", "    [*] --> Follower"]
    for (role, cause), target in TRANSITIONS.items():
        source = role.value.removeprefix("State")
        lines.append(f"    {source} --> {target.value.removeprefix('State')}: {cause.value}")
    return "\n".join(lines)
