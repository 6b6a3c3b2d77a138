"""What a group replicates: the state machine, and the batches of commands in the log.

A *state machine* is what the application brings; ``kv.py`` is one. It sees bytes only. The group
hands it commands in the order of the log, on every replica alike, so that whatever it does must
follow from its state and the command alone: no clock, no randomness, no order of a set, no
environment. Time comes with the log (``sessions.ReplicatedState``).

A log entry holds a *batch*: the commands of many clients that a leader proposed together. One
entry, one checksum, one append message and one sync serve all of them, and a batch is decoded by
one call. An entry without data is the empty one that a new leader begins its term with.

Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from onceflow_consensus.errors import InvariantViolation, invariant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BATCH_VERSION = 1
"""Format of a batch. A replica that meets another one stops, for it cannot apply it."""


class StateMachine(Protocol):
    """Deterministic state behind a replicated log. Called from one thread.

    None of the methods may raise because of what a client sent: a command that makes no sense is
    answered with a response that says so. An error that is raised stops the replica.
    """

    def apply_batch(self, index: int, log_time_ms: int, commands: Sequence[bytes]) -> list[bytes]:
        """Apply commands in order.

        Args:
            index: the log index of the entry that they stand in; it never falls.
            log_time_ms: the log time of that entry, see ``sessions.LogClock``; it never falls. The
                only time that a machine may go by.
            commands: payloads as clients sent them.

        Returns:
            One response for each command, of ``MAX_RESPONSE_BYTES`` at most: responses are kept
            until their client has seen them.
        """
        ...

    def query(self, question: bytes) -> bytes:
        """Answer a question without changing anything."""
        ...

    def take_snapshot(self) -> Iterator[bytes]:
        """Return the present state in chunks of about ``SNAPSHOT_CHUNK_BYTES``.

        The state is that of the call, whatever is applied before the last chunk is taken, and the
        chunks may be taken on another thread. Cheap to call, so that a loop does not stall.
        """
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by the one that ``chunks``, as they were taken, hold.

        Raises:
            SnapshotUnreadable: they are not of this machine, or cut off. The state is unchanged.
        """
        ...


class CommandKind(IntEnum):
    """What a command of a batch does to its client's session."""

    COMMAND = 0
    """Apply the payload once, see ``sessions``."""
    REGISTER = 1
    """Open a session; the payload is ``encode_registration``, the other fields are zero."""
    KEEP_ALIVE = 2
    """Put off the expiry, and drop the responses below ``first_unanswered``."""
    CLOSE = 3
    """End the session: its unanswered responses are dropped."""


SessionCommand = tuple[int, int, int, int, bytes]
"""Kind, session id, sequence, first sequence that the client has no answer to, payload.

A plain tuple, because a batch of a thousand is decoded in one call and none outlives it.
"""


class Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The content of a log entry.

    ``log_time_ms`` is the leader's clock when it proposed, see ``sessions.LogClock``.
    """

    version: int
    log_time_ms: int
    commands: list[SessionCommand]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Batch)


def encode_batch(log_time_ms: int, commands: list[SessionCommand]) -> bytes:
    """Return the data of a log entry that holds ``commands``."""
    return _ENCODER.encode(Batch(BATCH_VERSION, log_time_ms, commands))


def decode_batch(data: bytes) -> Batch:
    """Return what the data of a log entry holds.

    Raises:
        InvariantViolation: it is no batch of a version we know. The replica must stop: going on
            without it would leave this replica's state behind the others'.
    """
    try:
        batch = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise InvariantViolation(
            f"INV-SESSION-1: a batch in the log is whole ({len(data)} bytes: {error})"
        ) from error
    invariant(
        batch.version == BATCH_VERSION,
        "INV-SESSION-1: a batch in the log is of a known format; install a program that knows it",
        version=batch.version,
    )
    return batch
