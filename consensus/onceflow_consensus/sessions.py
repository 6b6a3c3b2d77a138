"""Client sessions: a retried command takes effect once (thesis, section 6.3).

``ReplicatedState`` stands between the log and the state machine. It is replicated itself: it
changes by log entries alone, equally on every replica, and is a part of the snapshot.

Theory of operation. A client registers and gets a session id. It numbers its commands 1, 2, 3, ...
and repeats a command, with its number, until it is answered. A session takes its numbers in order:

- the next number: the command is applied and its outcome kept;
- a number that was taken: the outcome is given again and nothing is applied;
- a number beyond: refused, because one before it is missing. The client repeats from there.

So the commands of a session also take effect in the order in which they were sent. With each
command the client says from which number on it lacks answers; outcomes below are dropped.

A session ends when it is closed, or when no command of it came for its timeout. What counts is the
*log time*: each batch carries its leader's clock, and every replica takes the highest so far. The
clock of a leader goes on from the log time it found and runs with its monotonic clock, so that log
time never jumps, stands still while nobody leads, and expires nobody meanwhile (LogCabin does
likewise). A client whose session ended does not know what became of its unanswered commands.

Rules of this file: only ``apply`` and ``restore`` change the state. The bounds used here are a part
of what is replicated: replicas that disagree on one diverge.
Must never import anything that does I/O.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, cast

import msgspec

from onceflow_consensus.errors import SnapshotUnreadable, invariant
from onceflow_consensus.limits import (
    MAX_KEPT_OUTCOMES,
    MAX_RESPONSE_BYTES,
    MAX_SESSION_TIMEOUT_MS,
    MAX_SESSIONS,
    MAX_UNANSWERED_COMMANDS,
    MIN_SESSION_TIMEOUT_MS,
    SESSION_SWEEP_MS,
)
from onceflow_consensus.state_machine import CommandKind, decode_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onceflow_consensus.state_machine import SessionCommand, StateMachine

RESTORED_SESSION_STRIDE = 1 << 32
"""How far session ids jump when a backup is restored: no id that was given out after the backup
was taken is given out again, so that no client takes a stranger's session for its own."""


class Status(IntEnum):
    """First byte of an outcome."""

    OK = 0
    """Applied, once; the state machine's response follows."""
    SESSION_EXPIRED = 1
    """The session ended. Register again; the fate of unanswered commands is unknown."""
    SESSION_UNKNOWN = 2
    """The group never gave out this id: it was restored, or is another one. As above."""
    SEQUENCE_GAP = 3
    """A command before this one is missing, so this was not applied. Repeat from the first
    unanswered one, in order."""
    ALREADY_ANSWERED = 4
    """The client said that it has this answer. A late duplicate: ignore it."""
    TOO_MANY_UNANSWERED = 5
    """Not applied: too many outcomes are kept. Wait for answers, then repeat."""
    TOO_MANY_SESSIONS = 6
    """Not registered. Wait for sessions to expire, or close some."""
    BAD_REQUEST = 7
    """Not applied: a malformed registration, an unknown kind, or numbers that contradict
    themselves. A bug of the client; do not repeat."""


class _Registration(msgspec.Struct, array_like=True, frozen=True, gc=False):
    timeout_ms: int


_REFUSALS = {status: bytes([status]) for status in Status if status is not Status.OK}
_OK = bytes([Status.OK])
_COMMAND = int(CommandKind.COMMAND)
_BLOCK = struct.Struct(">I")
_STATE_VERSION = 1


def split_outcome(outcome: bytes) -> tuple[Status, bytes]:
    """Return status and response of an outcome."""
    return Status(outcome[0]), outcome[1:]


def encode_registration(timeout_ms: int) -> bytes:
    """Return the payload that registers a session which expires after ``timeout_ms``."""
    return msgspec.msgpack.encode(_Registration(timeout_ms))


def registered_session_id(response: bytes) -> int:
    """Return the session id in the response to a registration."""
    return msgspec.msgpack.decode(response, type=int)


class LogClock:
    """The clock that a leader stamps its batches with; made anew when it begins to lead.

    Goes on from the log time that the leader's own state has reached.
    """

    def __init__(self, log_time_ms: int, monotonic_ms: int) -> None:
        """Start at ``log_time_ms`` when the leader's monotonic clock shows ``monotonic_ms``."""
        self._shift_ms = log_time_ms - monotonic_ms

    def stamp(self, monotonic_ms: int) -> int:
        """Return the log time when the monotonic clock shows ``monotonic_ms``."""
        return self._shift_ms + monotonic_ms


class _Session:
    """What is kept of one client.

    next_sequence: the number that is taken next; advanced by each command.
    first_kept: number of the first outcome in ``outcomes``. Invariant, between entries:
        first_kept + len(outcomes) == next_sequence.
    """

    __slots__ = ("first_kept", "heard_ms", "next_sequence", "outcomes", "timeout_ms")

    def __init__(self, timeout_ms: int, heard_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self.heard_ms = heard_ms
        self.next_sequence = 1
        self.first_kept = 1
        self.outcomes: deque[bytes] = deque()


class _SessionImage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    session_id: int
    timeout_ms: int
    heard_ms: int
    first_kept: int
    outcomes: list[bytes]


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: int
    applied_index: int
    log_time_ms: int
    next_sweep_ms: int
    next_session_id: int
    sessions: list[_SessionImage]


_HEADER_DECODER = msgspec.msgpack.Decoder(_Header)


class ReplicatedState:
    """Sessions and state machine of one replica, as of ``applied_index``."""

    def __init__(self, machine: StateMachine) -> None:
        """Begin with the machine as it is, which is that of an empty log, and no sessions."""
        self._machine = machine
        self._sessions: dict[int, _Session] = {}
        self._applied_index = 0
        self._log_time_ms = 0
        self._next_sweep_ms = 0
        self._next_session_id = 1
        self._kept_outcomes = 0
        # Of the entry that is being applied: outcomes, and what waits for the machine.
        self._outcomes: list[bytes] = []
        self._payloads: list[bytes] = []
        self._waiting: list[tuple[int, _Session]] = []

    @property
    def applied_index(self) -> int:
        """Index of the last entry applied."""
        return self._applied_index

    @property
    def log_time_ms(self) -> int:
        """Highest log time of the entries applied."""
        return self._log_time_ms

    @property
    def session_count(self) -> int:
        """Sessions that are open, or expired and not yet swept."""
        return len(self._sessions)

    def query(self, question: bytes) -> bytes:
        """Ask the state machine."""
        return self._machine.query(question)

    def apply(self, index: int, data: bytes) -> list[bytes]:
        """Apply a log entry that is not a membership change.

        Args:
            index: its log index, above all that were applied. Membership changes are left out.
            data: a batch, or nothing.

        Returns:
            An outcome for each command of the batch: a ``Status`` byte, then the response.

        Raises:
            InvariantViolation: the entry is out of order or no batch; stop the replica.
        """
        invariant(
            index > self._applied_index,
            "INV-SESSION-2: an entry is applied once, in order",
            index=index,
            applied=self._applied_index,
        )
        self._applied_index = index
        if not data:
            return []
        batch = decode_batch(data)
        self._log_time_ms = max(self._log_time_ms, batch.log_time_ms)
        if self._log_time_ms >= self._next_sweep_ms:
            self._sweep()
        return self._apply_commands(batch.commands)

    def _apply_commands(self, commands: list[SessionCommand]) -> list[bytes]:
        # The hot loop of a replica: a fresh command takes the short way, which is written out.
        self._outcomes = outcomes = [b""] * len(commands)
        sessions, now_ms = self._sessions, self._log_time_ms
        payloads, waiting = self._payloads, self._waiting
        for position, command in enumerate(commands):
            kind, session_id, sequence, first_unanswered, payload = command
            session = sessions.get(session_id)
            if (
                kind != _COMMAND
                or session is None
                or sequence != session.next_sequence
                or now_ms - session.heard_ms > session.timeout_ms
                or not session.first_kept <= first_unanswered <= sequence
                or sequence - first_unanswered >= MAX_UNANSWERED_COMMANDS
                or self._kept_outcomes >= MAX_KEPT_OUTCOMES
            ):
                outcomes[position] = self._apply_rest(command)
                continue
            if first_unanswered > session.first_kept:
                self._forget_answered(session, first_unanswered)
            session.heard_ms = now_ms
            session.next_sequence = sequence + 1
            payloads.append(payload)
            waiting.append((position, session))
        self._flush()
        return outcomes

    def _flush(self) -> None:
        """Let the machine apply what waits, and keep the outcomes."""
        if not self._waiting:
            return
        responses = self._machine.apply_batch(
            self._applied_index, self._log_time_ms, self._payloads
        )
        invariant(
            len(responses) == len(self._waiting),
            "INV-SESSION-3: a state machine gives one response for each command",
            commands=len(self._waiting),
            responses=len(responses),
        )
        invariant(
            max(map(len, responses)) <= MAX_RESPONSE_BYTES,
            "INV-SESSION-4: a response is small enough to be kept",
            allowed_bytes=MAX_RESPONSE_BYTES,
        )
        outcomes = self._outcomes
        for (position, session), response in zip(self._waiting, responses, strict=True):
            outcome = _OK + response
            outcomes[position] = outcome
            session.outcomes.append(outcome)
        self._kept_outcomes += len(responses)
        self._payloads.clear()
        self._waiting.clear()

    def _apply_rest(self, command: SessionCommand) -> bytes:
        """Apply what is no fresh command that can be taken."""
        # What follows reads outcomes and counts them, so that none may be missing.
        self._flush()
        kind, session_id, sequence, first_unanswered, payload = command
        if kind == CommandKind.REGISTER:
            return self._register(payload)
        session = self._sessions.get(session_id)
        if session is None or self._is_expired(session):
            known = 0 < session_id < self._next_session_id
            return _REFUSALS[Status.SESSION_EXPIRED if known else Status.SESSION_UNKNOWN]
        if kind == CommandKind.CLOSE:
            self._end(session_id)
            return _OK
        if kind == CommandKind.KEEP_ALIVE:
            return self._keep_alive(session, first_unanswered)
        if kind != CommandKind.COMMAND:
            return _REFUSALS[Status.BAD_REQUEST]
        return self._apply_out_of_order(session, sequence, first_unanswered, payload)

    def _apply_out_of_order(
        self, session: _Session, sequence: int, first_unanswered: int, payload: bytes
    ) -> bytes:
        session.heard_ms = self._log_time_ms
        if sequence > session.next_sequence:
            return _REFUSALS[Status.SEQUENCE_GAP]
        if first_unanswered > sequence or sequence < 1:
            return _REFUSALS[Status.BAD_REQUEST]
        self._forget_answered(session, first_unanswered)
        if sequence < session.first_kept:
            return _REFUSALS[Status.ALREADY_ANSWERED]
        if sequence < session.next_sequence:
            return session.outcomes[sequence - session.first_kept]
        is_full = len(session.outcomes) >= MAX_UNANSWERED_COMMANDS
        if is_full or self._kept_outcomes >= MAX_KEPT_OUTCOMES:
            return _REFUSALS[Status.TOO_MANY_UNANSWERED]
        return self._apply_alone(session, payload)

    def _apply_alone(self, session: _Session, payload: bytes) -> bytes:
        """Apply a fresh command whose number of the first unanswered one lags behind."""
        outcomes, self._outcomes = self._outcomes, [b""]
        session.next_sequence += 1
        self._payloads.append(payload)
        self._waiting.append((0, session))
        self._flush()
        self._outcomes, taken = outcomes, self._outcomes
        return taken[0]

    def _forget_answered(self, session: _Session, first_unanswered: int) -> None:
        if session.first_kept + len(session.outcomes) < first_unanswered:
            # The client claims an answer to what waits for the machine. Odd, but well defined.
            self._flush()
        kept = session.outcomes
        while session.first_kept < first_unanswered and kept:
            kept.popleft()
            session.first_kept += 1
            self._kept_outcomes -= 1

    def _register(self, payload: bytes) -> bytes:
        try:
            timeout_ms = msgspec.msgpack.decode(payload, type=_Registration).timeout_ms
        except msgspec.DecodeError:
            return _REFUSALS[Status.BAD_REQUEST]
        if not MIN_SESSION_TIMEOUT_MS <= timeout_ms <= MAX_SESSION_TIMEOUT_MS:
            return _REFUSALS[Status.BAD_REQUEST]
        if len(self._sessions) >= MAX_SESSIONS:
            self._sweep()
        if len(self._sessions) >= MAX_SESSIONS:
            return _REFUSALS[Status.TOO_MANY_SESSIONS]
        session_id = self._next_session_id
        self._next_session_id += 1
        self._sessions[session_id] = _Session(timeout_ms, self._log_time_ms)
        return _OK + msgspec.msgpack.encode(session_id)

    def _keep_alive(self, session: _Session, first_unanswered: int) -> bytes:
        if first_unanswered > session.next_sequence:
            return _REFUSALS[Status.BAD_REQUEST]
        session.heard_ms = self._log_time_ms
        self._forget_answered(session, first_unanswered)
        return _OK

    def _is_expired(self, session: _Session) -> bool:
        return self._log_time_ms - session.heard_ms > session.timeout_ms

    def _end(self, session_id: int) -> None:
        self._kept_outcomes -= len(self._sessions.pop(session_id).outcomes)

    def _sweep(self) -> None:
        """Free what expired. Whether a session is expired does not depend on it."""
        self._next_sweep_ms = self._log_time_ms + SESSION_SWEEP_MS
        expired = [each for each, session in self._sessions.items() if self._is_expired(session)]
        for session_id in expired:
            self._end(session_id)

    def take_snapshot(self) -> Iterator[bytes]:
        """Return the present state as a stream of bytes, in pieces.

        It is that of the call, whatever is applied meanwhile, and may be taken on another thread.
        """
        header = _Header(
            _STATE_VERSION,
            self._applied_index,
            self._log_time_ms,
            self._next_sweep_ms,
            self._next_session_id,
            [
                _SessionImage(
                    key, each.timeout_ms, each.heard_ms, each.first_kept, [*each.outcomes]
                )
                for key, each in self._sessions.items()
            ],
        )
        return _blocks(msgspec.msgpack.encode(header), self._machine.take_snapshot())

    def restore(self, pieces: Iterable[bytes]) -> None:
        """Replace the state by that of a snapshot; ``applied_index`` becomes the snapshot's.

        Args:
            pieces: the stream of ``take_snapshot``, cut into pieces anyhow.

        Raises:
            SnapshotUnreadable: damaged, cut off, or of another version. Nothing was changed.
        """
        blocks = _read_blocks(pieces)
        header = _read_header(next(blocks, b""))
        self._machine.restore(blocks)
        self._applied_index = header.applied_index
        self._log_time_ms = header.log_time_ms
        self._next_sweep_ms = header.next_sweep_ms
        self._next_session_id = header.next_session_id
        self._sessions = {image.session_id: _session_of(image) for image in header.sessions}
        self._kept_outcomes = sum(len(image.outcomes) for image in header.sessions)

    def forget_sessions(self) -> None:
        """End all sessions, because this state begins a new history from a backup.

        Only for a state that no log follows. Clients of the old group are refused, see
        ``RESTORED_SESSION_STRIDE``.
        """
        self._sessions = {}
        self._kept_outcomes = 0
        self._next_session_id += RESTORED_SESSION_STRIDE


def _session_of(image: _SessionImage) -> _Session:
    session = _Session(image.timeout_ms, image.heard_ms)
    session.first_kept = image.first_kept
    session.next_sequence = image.first_kept + len(image.outcomes)
    session.outcomes.extend(image.outcomes)
    return session


def _read_header(block: bytes) -> _Header:
    try:
        header = _HEADER_DECODER.decode(block)
    except msgspec.DecodeError as error:
        raise SnapshotUnreadable(f"its header cannot be read: {error}") from error
    if header.version != _STATE_VERSION:
        raise SnapshotUnreadable(
            f"it is of format {header.version} and this program reads {_STATE_VERSION}"
        )
    return header


def _blocks(header: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield _BLOCK.pack(len(header)) + header
    for chunk in chunks:
        if chunk:
            yield _BLOCK.pack(len(chunk))
            yield chunk
    # An end that is written tells a whole stream from one that was cut between two blocks.
    yield _BLOCK.pack(0)


def _read_blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a stream that is cut into pieces anyhow."""
    held = bytearray()
    for piece in pieces:
        held += piece
        start = 0
        while (end := _block_end(held, start)) is not None:
            content = start + _BLOCK.size
            if content == end:
                return
            yield bytes(held[content:end])
            start = end
        del held[:start]
    raise SnapshotUnreadable("it is cut off")


def _block_end(held: bytearray, start: int) -> int | None:
    """Return where the block at ``start`` ends; None while it is not whole."""
    content = start + _BLOCK.size
    if len(held) < content:
        return None
    (content_bytes,) = cast("tuple[int]", _BLOCK.unpack_from(held, start))
    end = content + content_bytes
    return end if len(held) >= end else None
