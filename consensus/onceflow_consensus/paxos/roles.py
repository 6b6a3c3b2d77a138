"""The phases of a replica and every legal change between them.

Every replica accepts and learns in every phase; the phase says what it does as a proposer. Rules
of this file: whatever changes a phase stands in ``TRANSITIONS``, with its cause; a change that is
not listed is a bug and stops the replica. The diagram in the package's README is drawn from this
table.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.roles import Role


class Phase(Enum):
    """What a replica does as a proposer."""

    __hash__ = object.__hash__  # see PaxosKind

    FOLLOW = "Follow"
    PREPARE = "Prepare"
    ACCEPT = "Accept"


class Cause(Enum):
    """Why a phase changes."""

    TAKE_OVER = "it takes a higher ballot"
    PREPARED = "a quorum promised, and it holds all that they may have chosen"
    HIGHER_BALLOT = "it promises another's higher ballot"
    REFUSED = "too few are left that did not promise another ballot"
    QUORUM_LOST = "no quorum is heard"
    STALLED = "the log that it must adopt does not come"
    REMOVED = "it is no longer a voter"


_PROPOSING = (Phase.PREPARE, Phase.ACCEPT)

TRANSITIONS: dict[tuple[Phase, Cause], Phase] = {
    **{(phase, Cause.TAKE_OVER): Phase.PREPARE for phase in Phase},
    (Phase.PREPARE, Cause.PREPARED): Phase.ACCEPT,
    **{(phase, Cause.HIGHER_BALLOT): Phase.FOLLOW for phase in Phase},
    **{(phase, Cause.REFUSED): Phase.FOLLOW for phase in _PROPOSING},
    **{(phase, Cause.QUORUM_LOST): Phase.FOLLOW for phase in _PROPOSING},
    (Phase.PREPARE, Cause.STALLED): Phase.FOLLOW,
    **{(phase, Cause.REMOVED): Phase.FOLLOW for phase in _PROPOSING},
}
"""Every legal change of phase: (phase, cause) to the next phase."""

SHOWN_ROLES = {
    Phase.FOLLOW: Role.FOLLOWER,
    Phase.PREPARE: Role.FOLLOWER,
    Phase.ACCEPT: Role.LEADER,
}
"""What is shown to users: who leads takes proposals."""


def next_phase(phase: Phase, cause: Cause) -> Phase:
    """Return the phase that follows.

    Raises:
        InvariantViolation: the change is not in the table; a bug.
    """
    invariant(
        (phase, cause) in TRANSITIONS,
        "INV-PAXOS-1: a phase changes only as the table allows",
        phase=phase.value,
        cause=cause.name,
    )
    return TRANSITIONS[phase, cause]


def phase_diagram() -> str:
    """Return the table as a Mermaid state diagram, one line per pair of phases and cause."""
    lines = ["stateDiagram-v2", "    [*] --> Follow"]
    lines.extend(
        f"    {phase.value} --> {target.value}: {cause.value}"
        for (phase, cause), target in TRANSITIONS.items()
    )
    return "\n".join(lines)
