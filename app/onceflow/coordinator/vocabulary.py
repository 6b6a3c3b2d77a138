"""What the coordinator's record can be told and asked: commands, queries, answers, their bytes.

A command is a batch of *changes* of one application. Every command and query begins with a byte
that no other state machine's does, then the version of the format; so the record can live beside
the key-value space in one group, and a member that is older than its client says so.

Rules of this file: fields are only ever appended, with a default, and each such change raises
``FORMAT_VERSION``; a member takes all versions up to its own. Members are therefore upgraded before
workers. Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

LEAD = b"\xc1"
"""First byte of our commands and queries: the only one that msgpack never uses, so that nothing
which begins with a msgpack value, as the key-value space's do, is taken for ours."""

FORMAT_VERSION = 1
"""Version of commands and queries, their second byte."""

TopicPartitions = tuple[str, list[int]]
"""A topic and numbers of its partitions."""

NamedBranch = tuple[str, str]
"""A participant's name, and the name (gid) of the branch that was prepared there."""


class TxnState(IntEnum):
    """How far the two-phase commit of one epoch has come, as far as the group was told."""

    BEGUN = 1
    """It is about to be prepared."""
    PREPARED = 2
    """All participants have prepared; Kafka decides. In doubt while its owner is gone."""
    COMMITTED = 3
    """Kafka committed; branches are still to be committed."""
    ABORTED = 4
    """Kafka did not commit and will not; branches are still to be rolled back."""
    ENDED = 5
    """No branch is left."""


class Decision(IntEnum):
    """What became of an epoch. Once it is COMMIT or ABORT it never changes (INV-META-1)."""

    NONE = 0
    COMMIT = 1
    ABORT = 2


class Finding(IntEnum):
    """Kinds of heuristic outcomes: a participant did what Kafka did not decide, or might have."""

    BRANCH_MISSING = 1
    """A committed branch is neither prepared nor shown as committed: its rows may be lost."""
    ROW_BEHIND = 2
    """The marker row is behind what Kafka committed: the participant was set back."""
    ROW_AHEAD = 3
    """The marker row is ahead of what Kafka committed: Kafka lost commits."""
    FORCED_COMMIT = 4
    """Somebody committed a branch by hand against the evidence."""
    FORCED_ABORT = 5
    """Somebody rolled a branch back by hand against the evidence."""
    OTHER = 6


class Begun(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Change: an epoch with participants is about to be prepared."""

    incarnation: str
    commit_epoch: int
    partitions: list[TopicPartitions]
    participants: list[str]


class Prepared(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Change: every participant has prepared. ``marker`` is what Kafka's commit will carry."""

    incarnation: str
    commit_epoch: int
    partitions: list[TopicPartitions]
    branches: list[NamedBranch]
    marker: str


class Committed(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Change: Kafka committed the epoch. ``by``: who found out, its owner or who took over."""

    incarnation: str
    commit_epoch: int
    marker: str
    by: str


class Aborted(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Change: Kafka did not commit the epoch and cannot any more."""

    incarnation: str
    commit_epoch: int
    by: str


class Ended(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Change: no branch of the epoch is left, nor of any earlier one of the same incarnation.

    The latter holds because an epoch is prepared only when no earlier branch is left. So one lost
    message does not leave an epoch in doubt for ever.
    """

    incarnation: str
    commit_epoch: int


EVERY_EPOCH = (1 << 63) - 1
"""In ``Ended``, an epoch above all that an incarnation had: none of its branches is left."""


class Heuristic(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """Change: the epoch has a heuristic outcome at a participant. Recorded for ever."""

    incarnation: str
    commit_epoch: int
    participant: str
    finding: Finding
    detail: str
    by: str


class OffsetsMoved(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """Change: an epoch committed these (topic, partition number, offset), all with ``marker``."""

    incarnation: str
    commit_epoch: int
    marker: str
    rows: list[tuple[str, int, int]]


class Leased(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """Change: a worker lives, and will have said so again within ``lease_ms`` of log time."""

    incarnation: str
    worker: str
    host: str
    pid: int
    lease_ms: int


class Left(msgspec.Struct, array_like=True, tag=9, frozen=True, gc=False):
    """Change: a worker ended in order."""

    incarnation: str


class Observed(msgspec.Struct, array_like=True, tag=10, frozen=True, gc=False):
    """Change: none; it lets the time of the log go on, so that leases of the dead run out."""


Change = (
    Begun
    | Prepared
    | Committed
    | Aborted
    | Ended
    | Heuristic
    | OffsetsMoved
    | Leased
    | Left
    | Observed
)


class Told(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A command: changes of one application, carried out in order.

    scope: which application on which Kafka cluster (``Scope`` of the sinks); app: its name, for
    people; told_unix_ms: the teller's wall clock, for people and their ages only.
    """

    scope: str
    app: str
    told_unix_ms: int
    changes: list[Change]


class Outcome(IntEnum):
    """What became of one change."""

    APPLIED = 0
    ALREADY = 1
    """Nothing to change: it was known, or something later is. A repetition is fine."""
    CONTRADICTS = 2
    """The other decision stands recorded. Nothing changed but an alarm that was recorded; whoever
    told it must stop and let a person look (INV-META-1)."""
    FORGOTTEN = 3
    """The transaction ended and is gone from the record, which cannot tell what became of it."""
    FULL = 4
    """A bound is reached; nothing was recorded. Only what can be told again later may be lost."""


class Outcomes(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Response to a command: one outcome for each change, in order."""

    outcomes: list[Outcome]


class Declined(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Response and answer: not understood, or out of bounds; nothing changed. Do not repeat it."""

    reason: str


class HeuristicNote(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A heuristic outcome as it is kept; see ``Heuristic``."""

    participant: str
    finding: Finding
    detail: str
    by: str
    told_unix_ms: int


class Transaction(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Everything that is known of one epoch with participants.

    sequence: orders the transactions of one standing of an application; never used twice.
    begun_unix_ms, decided_unix_ms: wall clocks of those who told, 0 if nobody did. index: log index
    of the last change.
    """

    sequence: int
    incarnation: str
    commit_epoch: int
    state: TxnState
    decision: Decision = Decision.NONE
    partitions: list[TopicPartitions] = []
    participants: list[str] = []
    branches: list[NamedBranch] = []
    marker: str = ""
    decided_by: str = ""
    heuristics: list[HeuristicNote] = []
    begun_unix_ms: int = 0
    decided_unix_ms: int = 0
    index: int = 0


class OffsetNote(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The last committed offset of a partition that the group was told of. Never resume from it."""

    topic: str
    number: int
    offset: int
    marker: str
    incarnation: str
    commit_epoch: int
    told_unix_ms: int


class Lease(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A worker that lives as far as the group knows, until ``expires_log_ms`` of log time."""

    incarnation: str
    worker: str
    host: str
    pid: int
    expires_log_ms: int
    told_unix_ms: int


class Alarm(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Somebody told the opposite of a recorded decision. The recorded one stands."""

    sequence: int
    index: int
    scope: str
    app: str
    incarnation: str
    commit_epoch: int
    recorded: Decision
    refused: Decision
    by: str
    told_unix_ms: int


class Standing(IntEnum):
    """Where a transaction stands for those who look."""

    OPEN = 1
    """Not ended: in doubt, or still being finished."""
    HEURISTIC = 2
    """Ended, with heuristic outcomes; kept for ever."""
    ENDED = 3
    """Ended in order; only the last ones are kept."""


class ListTransactions(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Query: a page of the transactions of one standing, by scope and sequence, above ``after``.

    of: scope or name of an application, empty for all.
    """

    of: str
    standing: Standing
    after: tuple[str, int] = ("", 0)
    limit: int = 100


class ShowTransaction(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Query: one transaction; of each application with that name, if there are several."""

    of: str
    incarnation: str
    commit_epoch: int


class ListOffsets(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Query: a page of an application's offsets, by topic and number, above ``after``."""

    scope: str
    after: tuple[str, int] = ("", -1)
    limit: int = 1_000


class ListWorkers(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Query: workers whose lease has not run out. ``of`` as above."""

    of: str


class ListAlarms(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Query: a page of the alarms above ``after``."""

    after: int = 0
    limit: int = 100


class ListApps(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """Query: the applications, and how much is kept of each."""


Query = ListTransactions | ShowTransaction | ListOffsets | ListWorkers | ListAlarms | ListApps


class TransactionRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A transaction, its application, and where it stands."""

    scope: str
    app: str
    standing: Standing
    transaction: Transaction


class Transactions(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Answer to ``ListTransactions`` and ``ShowTransaction``.

    more: whether others lie beyond the last row. is_forgotten: with ``ShowTransaction``, whether
    transactions of that incarnation up to this epoch ended and are gone from the record.
    """

    rows: list[TransactionRow]
    more: bool
    is_forgotten: bool = False


class Offsets(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Answer to ``ListOffsets``."""

    rows: list[OffsetNote]
    more: bool


class WorkerRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A worker, and its application."""

    scope: str
    app: str
    lease: Lease


class Workers(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Answer to ``ListWorkers``; ``log_time_ms`` is what leases are compared with."""

    rows: list[WorkerRow]
    log_time_ms: int


class Alarms(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """Answer to ``ListAlarms``; only the last ones are kept, ``total`` counts all."""

    rows: list[Alarm]
    more: bool
    total: int


class AppSummary(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How much is kept of an application."""

    scope: str
    app: str
    open_transactions: int
    heuristic_transactions: int
    ended_transactions: int
    offsets: int
    workers: int


class Apps(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """Answer to ``ListApps``."""

    rows: list[AppSummary]


Response = Outcomes | Declined
Answer = Transactions | Offsets | Workers | Alarms | Apps | Declined

_PREFIX = LEAD + bytes([FORMAT_VERSION])
_ENCODER = msgspec.msgpack.Encoder()
_COMMANDS = msgspec.msgpack.Decoder(Told)
_QUERIES = msgspec.msgpack.Decoder(Query)
_RESPONSES = msgspec.msgpack.Decoder(Response)
_ANSWERS = msgspec.msgpack.Decoder(Answer)


encode_answer: Callable[[Response | Answer], bytes] = _ENCODER.encode
"""Return a response or an answer as bytes."""

decode_response: Callable[[bytes], Response] = _RESPONSES.decode
"""Return what the response to a command says; ``msgspec.DecodeError`` if it is not the record's."""

decode_answer: Callable[[bytes], Answer] = _ANSWERS.decode
"""Return what the answer to a query says; ``msgspec.DecodeError`` if it is not the record's."""


class NotUnderstood(Exception):  # noqa: N818 - control flow of this room
    """Bytes that are no command or query of a version we know. Answered by ``Declined``."""


def encode_command(told: Told) -> bytes:
    """Return the payload of a command."""
    return _PREFIX + _ENCODER.encode(told)


def encode_query(query: Query) -> bytes:
    """Return the question that asks a query."""
    return _PREFIX + _ENCODER.encode(query)


def decode_command(payload: bytes) -> Told:
    """Read a command.

    Raises:
        NotUnderstood: it is none, or of a later version.
    """
    body = _body(payload)
    try:
        return _COMMANDS.decode(body)
    except msgspec.DecodeError as error:
        raise NotUnderstood(f"not a command of the coordinator: {error}") from error


def decode_query(question: bytes) -> Query:
    """Read a query.

    Raises:
        NotUnderstood: it is none, or of a later version.
    """
    body = _body(question)
    try:
        return _QUERIES.decode(body)
    except msgspec.DecodeError as error:
        raise NotUnderstood(f"not a query of the coordinator: {error}") from error


def _body(payload: bytes) -> bytes:
    if payload[:1] != LEAD or len(payload) < len(_PREFIX):
        raise NotUnderstood("not of the coordinator")
    version = payload[1]
    if not 1 <= version <= FORMAT_VERSION:
        raise NotUnderstood(
            f"format {version} is not known here, only up to {FORMAT_VERSION}; upgrade all members "
            "of the group before the workers"
        )
    return payload[len(_PREFIX) :]
