"""How a membership becomes another (Raft thesis, chapter 4; etcd-raft's confchange).

Pure functions: a configuration and a change in, the next configuration out, or a refusal. At most
one voter may change directly, because then any old and any new majority share a member. More go
through a joint configuration, in which both majorities decide. A change that repeats what holds
already is no error, since retries propose it again.
Must never import anything that does I/O.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.errors import ConfChangeRefusal, ConfChangeRefused, invariant
from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.configuration import Configuration

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId

_HEADER = struct.Struct("<BBH")
_CHANGE = struct.Struct("<BQ")
_FORMAT = 1


class ChangeOp(Enum):
    """What happens to one peer. The letters are those of the text cases."""

    ADD_VOTER = "v"
    ADD_LEARNER = "l"
    REMOVE = "r"
    UPDATE = "u"


class Transition(Enum):
    """Whether a change goes through a joint configuration, and who ends it.

    AUTO: directly if one change allows it, else as IMPLICIT. IMPLICIT: joint, left by the leader.
    EXPLICIT: joint, left when an empty change is proposed.
    """

    AUTO = 0
    IMPLICIT = 1
    EXPLICIT = 2


@dataclass(frozen=True, slots=True)
class SingleChange:
    """One operation on one peer; peer 0 marks an operation that was taken back."""

    op: ChangeOp
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class ConfChange:
    """A proposed change of the membership; without any operation it leaves a joint one."""

    changes: tuple[SingleChange, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    @property
    def leaves_joint(self) -> bool:
        """Whether the change ends a joint configuration."""
        return self.transition is Transition.AUTO and not self.changes

    @property
    def enters_joint(self) -> bool:
        """Whether the change must go through a joint configuration."""
        return self.transition is not Transition.AUTO or len(self.changes) > 1


LEAVE_JOINT = ConfChange()
"""The change that leaves a joint configuration."""

_OPS = tuple(ChangeOp)


def encode_conf_change(change: ConfChange) -> bytes:
    """Return the data of an entry that carries ``change``; leaving a joint one has no data."""
    if change == LEAVE_JOINT:
        return b""
    parts = [_HEADER.pack(_FORMAT, change.transition.value, len(change.changes))]
    parts.extend(_CHANGE.pack(_OPS.index(item.op), item.peer_id) for item in change.changes)
    return b"".join([*parts, change.context])


def decode_conf_change(data: bytes) -> ConfChange:
    """Return the change an entry's data carries.

    Raises:
        InvariantViolation: the data is not what ``encode_conf_change`` writes; the log holds an
            entry this version does not understand, and guessing would split the group.
    """
    if not data:
        return LEAVE_JOINT
    invariant(len(data) >= _HEADER.size, "INV-RAFT-17: a configuration entry is whole", data=data)
    version, transition, count = _HEADER.unpack_from(data)
    end = _HEADER.size + count * _CHANGE.size
    invariant(
        version == _FORMAT and transition < len(Transition) and len(data) >= end,
        "INV-RAFT-17: a configuration entry is of a known format",
        data=data,
    )
    packed: list[tuple[int, int]] = list(_CHANGE.iter_unpack(data[_HEADER.size : end]))
    invariant(
        all(op < len(_OPS) for op, _ in packed),
        "INV-RAFT-17: a configuration entry holds known operations",
        data=data,
    )
    changes = tuple(SingleChange(_OPS[op], peer_id) for op, peer_id in packed)
    return ConfChange(changes, Transition(transition), data[end:])


@dataclass(frozen=True, slots=True)
class ConfOutcome:
    """The next configuration, and the members whose progress must start anew.

    A peer that leaves and comes back within one change is fresh too: it may have lost its log.
    """

    configuration: Configuration
    fresh: frozenset[PeerId] = frozenset()


class _Draft:
    """A configuration that is being changed. ``members`` are those that have a progress."""

    def __init__(self, before: Configuration) -> None:
        self.incoming = set(before.voters.incoming)
        self.outgoing = before.voters.outgoing
        self.learners = set(before.learners)
        self.learners_next = set(before.learners_next)
        self.members = set(before.peer_ids)
        self.fresh: set[PeerId] = set()

    def make_voter(self, peer_id: PeerId) -> None:
        self._track(peer_id)
        self.learners.discard(peer_id)
        self.learners_next.discard(peer_id)
        self.incoming.add(peer_id)

    def make_learner(self, peer_id: PeerId) -> None:
        if peer_id in self.learners:
            return
        self._track(peer_id)
        self.incoming.discard(peer_id)
        # An outgoing voter stays one until the joint configuration is left: a peer must not be
        # voter and learner at once.
        target = self.learners_next if peer_id in self.outgoing else self.learners
        target.add(peer_id)

    def remove(self, peer_id: PeerId) -> None:
        self.incoming.discard(peer_id)
        self.learners.discard(peer_id)
        self.learners_next.discard(peer_id)
        if peer_id not in self.outgoing:
            self.members.discard(peer_id)

    def outcome(self, *, auto_leave: bool = False) -> ConfOutcome:
        configuration = Configuration(
            JointVoters(frozenset(self.incoming), self.outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        return ConfOutcome(configuration.checked(), frozenset(self.fresh & self.members))

    def _track(self, peer_id: PeerId) -> None:
        if peer_id not in self.members:
            self.members.add(peer_id)
            self.fresh.add(peer_id)


def change_configuration(before: Configuration, change: ConfChange) -> ConfOutcome:
    """Return what ``change`` makes of ``before``.

    Raises:
        ConfChangeRefused: the change does not fit; the configuration stays as it is.
    """
    if change.leaves_joint:
        return leave_joint(before)
    if change.enters_joint:
        auto_leave = change.transition is not Transition.EXPLICIT
        return enter_joint(before, change.changes, auto_leave=auto_leave)
    return simple(before, change.changes)


def simple(before: Configuration, changes: tuple[SingleChange, ...]) -> ConfOutcome:
    """Apply a change of at most one voter directly.

    Raises:
        ConfChangeRefused: the configuration is joint, more than one voter changes, or none stays.
    """
    if before.is_joint:
        raise ConfChangeRefused(ConfChangeRefusal.SIMPLE_WHILE_JOINT)
    draft = _drafted(before, changes)
    if len(draft.incoming ^ before.voters.incoming) > 1:
        raise ConfChangeRefused(ConfChangeRefusal.TOO_MANY_VOTERS)
    return draft.outcome()


def enter_joint(
    before: Configuration, changes: tuple[SingleChange, ...], *, auto_leave: bool
) -> ConfOutcome:
    """Make the present voters the outgoing half and apply the changes to the incoming one.

    Raises:
        ConfChangeRefused: the configuration is joint already, or has or keeps no voter.
    """
    if before.is_joint:
        raise ConfChangeRefused(ConfChangeRefusal.ALREADY_JOINT)
    if not before.voters.incoming:
        raise ConfChangeRefused(ConfChangeRefusal.ZERO_VOTERS)
    joint = JointVoters(before.voters.incoming, before.voters.incoming)
    draft = _drafted(replace(before, voters=joint), changes)
    return draft.outcome(auto_leave=auto_leave)


def leave_joint(before: Configuration) -> ConfOutcome:
    """Drop the outgoing half; voters that wait to become learners become them.

    Raises:
        ConfChangeRefused: the configuration is not joint.
    """
    if not before.is_joint:
        raise ConfChangeRefused(ConfChangeRefusal.NOT_JOINT)
    after = Configuration(
        JointVoters(before.voters.incoming), before.learners | before.learners_next
    )
    return ConfOutcome(after.checked())


def _drafted(before: Configuration, changes: tuple[SingleChange, ...]) -> _Draft:
    draft = _Draft(before)
    for change in changes:
        if change.peer_id == 0:
            continue
        if change.op is ChangeOp.ADD_VOTER:
            draft.make_voter(change.peer_id)
        elif change.op is ChangeOp.ADD_LEARNER:
            draft.make_learner(change.peer_id)
        elif change.op is ChangeOp.REMOVE:
            draft.remove(change.peer_id)
    if not draft.incoming:
        raise ConfChangeRefused(ConfChangeRefusal.NO_VOTERS_LEFT)
    return draft
