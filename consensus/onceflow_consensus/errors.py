"""Every public exception of the replicated group, classed by the reaction that is expected.

    ConsensusError
    ├── InvalidOptions         the caller corrects the options; nothing was started
    ├── ProposalDropped        the proposal is not in the log; wait or ask the leader, then repeat
    ├── ReadDropped            the read was not accepted; wait for a leader, then ask again
    ├── MessageRefused         the message is not one a peer may send us; drop it
    ├── ConfChangeRefused      the change does not fit the present configuration; propose another
    ├── FrameRefused           what came over a connection is damaged or too large; close it
    ├── RequestRefused         a member refused for good, and says why; correct the request
    ├── SessionLost            the session ended; open another, find out what took effect
    ├── GroupUnreachable       no member answered in time; what was submitted may take effect
    ├── SnapshotUnreadable     a state cannot be restored from it; take another one
    └── StorageError           the replica's own disk; none of these is ever retried
        ├── StorageLocked      another process uses the directory; stop it, or name another one
        ├── StorageUnknown     not a log of a version we know; use the version that wrote it
        ├── StorageCorrupt     acknowledged data is damaged; rejoin empty as a learner
        └── StorageFailed      a write or a sync failed; the replica stops, the disk is checked
    InvariantViolation         a bug, or a log that lost what it had acknowledged: the replica stops

Messages say what happened, what it means for correctness, and what to do. The package logs
nothing: an error is told by whoever handles it.
"""

from __future__ import annotations

from enum import Enum


class ConsensusError(Exception):
    """Root of all errors a caller can handle. Not raised itself."""


class InvalidOptions(ConsensusError):  # noqa: N818 - named by what is wrong, as its siblings
    """An option or a combination of options is not allowed. Reaction: correct it."""


class DropReason(Enum):
    """Why a proposal or a read was not taken."""

    NO_LEADER = "no leader is known here"
    NOT_A_MEMBER = "the leader is no longer a member of its group"
    TRANSFERRING = "leadership is being transferred"
    FORWARDING_DISABLED = "this replica does not lead and may not forward"
    UNCOMMITTED_BOUND = "too many bytes are proposed and not committed"
    READ_BOUND = "too many reads wait for their confirmation"
    RECONFIGURING = "a membership change is under way, and nothing follows it until it is applied"


class ProposalDropped(ConsensusError):  # noqa: N818 - see above
    """The proposal did not enter the log. Reaction: back off, or propose at the leader.

    The entry is certainly not in the log of this replica, so that repeating is safe.
    """

    def __init__(self, reason: DropReason) -> None:
        super().__init__(f"proposal dropped: {reason.value}; it is not in the log, so repeat it")
        self.reason = reason


class ReadDropped(ConsensusError):  # noqa: N818 - see above
    """The read index was not asked for. Reaction: back off, then ask again."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(f"read dropped: {reason.value}; nothing was read, so ask again")
        self.reason = reason


class RefusalReason(Enum):
    """Why a message was not stepped."""

    LOCAL_KIND = "this kind of message is only for a replica's own use"
    UNKNOWN_PEER = "the answer comes from a peer outside the configuration"
    NOT_CONTIGUOUS = "its entries do not follow one another, or are of a later term than itself"


class MessageRefused(ConsensusError):  # noqa: N818 - see above
    """A message was not stepped. Reaction: drop it; the sender repeats what matters."""

    def __init__(self, reason: RefusalReason, kind: str, sender: int) -> None:
        super().__init__(f"{kind} from {sender} refused: {reason.value}; nothing changed")
        self.reason = reason


class ConfChangeRefusal(Enum):
    """Why a change of the membership does not fit the configuration it is applied to."""

    ALREADY_JOINT = "the configuration is joint; leave it before entering another"
    ZERO_VOTERS = "a configuration without voters cannot become joint"
    NOT_JOINT = "the configuration is not joint, so there is nothing to leave"
    SIMPLE_WHILE_JOINT = "the configuration is joint, so that single changes must wait"
    NO_VOTERS_LEFT = "the change removes every voter, so that nothing could ever commit"
    TOO_MANY_VOTERS = "more than one voter changes; this is only safe through a joint configuration"


class ConfChangeRefused(ConsensusError):  # noqa: N818 - see above
    """A configuration change does not fit. Reaction: propose one that does.

    Raised for a committed entry it means that the proposer switched validation off and entered a
    change that no replica can apply: the application must skip it on every replica alike.
    """

    def __init__(self, refusal: ConfChangeRefusal) -> None:
        super().__init__(f"configuration change refused: {refusal.value}")
        self.refusal = refusal


class SnapshotUnreadable(ConsensusError):  # noqa: N818 - see above
    """A state cannot be restored from this snapshot. Reaction: take another one; nothing changed.

    It is damaged, cut off, of another state machine, or of another version of it.
    """

    def __init__(self, finding: str) -> None:
        super().__init__(
            f"the snapshot cannot be restored: {finding}; the state is unchanged. Take another "
            "snapshot, or the version of the program that wrote this one."
        )


class FrameRefused(ConsensusError):  # noqa: N818 - see above
    """Bytes of a connection are damaged, too large or of another form. Reaction: close it.

    Nothing of the frame was taken. Peers repeat what matters; clients repeat what is unanswered.
    """


class RequestRefused(ConsensusError):  # noqa: N818 - see above
    """A member refused a request, and repeating it does not help. Reaction: correct it.

    ``reason`` is the name of the ``Refusal``, empty if it was refused on this side.
    """

    def __init__(self, detail: str, reason: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if reason else detail)
        self.reason = reason


class SessionLost(ConsensusError):  # noqa: N818 - see above
    """The client's session ended, so that commands under way can no longer be repeated safely.

    Reaction: open another session. Whether unanswered commands took effect is not known: ask the
    state before repeating them.
    """


class GroupUnreachable(ConsensusError):  # noqa: N818 - see above
    """No member carried the request out in time. Reaction: check the addresses and the members.

    A command that was submitted may still take effect, once at most.
    """


class StorageError(ConsensusError):
    """The replica's own disk cannot be used. Not raised itself."""


class StorageLocked(StorageError):  # noqa: N818 - see above
    """Another process holds the directory. Reaction: stop it, or use another directory."""


class StorageUnknown(StorageError):  # noqa: N818 - see above
    """The files are not ours, or of another version. Reaction: use the version that wrote them."""


class StorageCorrupt(StorageError):  # noqa: N818 - see above
    """What was acknowledged is damaged or missing. Reaction: do not start from these files.

    Cutting the damage off would take back a promise, and could lose what the group committed. The
    replica rejoins with an empty directory, as a learner that gets a snapshot.
    """


class StorageFailed(StorageError):  # noqa: N818 - see above
    """A write or a sync failed. Reaction: stop the replica; check the disk; start it again.

    Never retried: after a failed sync the kernel may report success for pages it has dropped.
    """


class InvariantViolation(Exception):  # noqa: N818 - see above
    """A stated invariant does not hold. Reaction: stop this replica; the others go on."""


def invariant(condition: object, message: str, **numbers: object) -> None:
    """Stop the replica unless ``condition`` holds.

    Args:
        condition: what must be true.
        message: begins with the invariant's id, such as ``INV-RAFT-2: ...``.
        numbers: the values that decide it, shown in the error.

    Raises:
        InvariantViolation: a bug, or storage that lost what it acknowledged. The replica must
            stop, because a wrong log entry or vote is worse than one replica fewer.
    """
    if not condition:
        details = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
        raise InvariantViolation(f"{message} ({details})" if details else message)
