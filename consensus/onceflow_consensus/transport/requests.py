"""What clients and members say to each other besides the engine's messages (msgpack arrays).

Every conversation begins with ``Hello`` and is answered by ``Welcome`` or ``Refused``. A client
then sends requests, each with a number of its choice that the answer repeats; answers may come in
any order. The order of the fields is the format; ``PROTOCOL_VERSION`` grows with it.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from onceflow_consensus.errors import FrameRefused

PROTOCOL_VERSION = 1

Number = Annotated[int, msgspec.Meta(ge=0)]


class Purpose(IntEnum):
    """What a connection is for."""

    MESSAGES = 1
    SNAPSHOT = 2
    CLIENT = 3


class Refusal(IntEnum):
    """Why a request was not carried out. Each says what the asker may do."""

    NOT_LEADER = 1
    """Nothing was done, or the outcome is not known here: ask the leader, with the same number."""
    OVERLOADED = 2
    """Nothing was done: too much is under way; wait, then repeat."""
    SHUTTING_DOWN = 3
    """Nothing was done here: ask another member."""
    WRONG_CLUSTER = 4
    """The connection leads to another group: correct the address."""
    NOT_AUTHENTICATED = 5
    """The token is missing or wrong."""
    BAD_REQUEST = 6
    """The request cannot be carried out as it stands; repeating does not help."""
    TOO_STALE = 7
    """This member is further behind than the read allows: ask another one."""
    WRONG_VERSION = 8
    """The members and the asker speak different versions of this protocol."""


class Consistency(IntEnum):
    """What a read may miss.

    LINEARIZABLE: nothing that was answered before the read was asked. SESSION: nothing that its
    client has seen (``min_index``). STALE: what happened during ``max_age_ms``, if given, else
    anything.
    """

    LINEARIZABLE = 1
    SESSION = 2
    STALE = 3


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """First frame of who connects. ``sender`` and ``to`` are zero for clients."""

    version: Number
    purpose: Purpose
    cluster_id: str
    engine: str = ""
    sender: Number = 0
    to: Number = 0
    token: str = ""

    def __repr__(self) -> str:
        return f"Hello({self.purpose.name}, {self.cluster_id!r}, {self.sender} to {self.to})"


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The answer to a ``Hello`` that is accepted."""

    peer_id: Number
    max_frame_bytes: Number


class Refused(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The answer to a request that is not carried out; ``leader_address`` is empty if unknown."""

    request_id: Number
    refusal: Refusal
    leader_address: str = ""
    detail: str = ""


class Submitted(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Outcomes of commands as of ``index``; ``sessions.split_outcome`` reads them."""

    request_id: Number
    index: Number
    outcomes: list[bytes]


class ReadAnswered(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Results of queries, as the state is after ``index``."""

    request_id: Number
    index: Number
    results: list[bytes]


class Done(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """An administrative request was carried out; ``body`` is JSON where there is something."""

    request_id: Number
    body: bytes = b""


Answer = Welcome | Refused | Submitted | ReadAnswered | Done


class Submit(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Carry out commands of one session, numbered from ``first_sequence`` on.

    Each is carried out once, however often it is asked for.
    """

    request_id: Number
    session: Number
    first_unanswered: Number
    first_sequence: Number
    commands: list[bytes]


class Read(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Answer queries from the state of this member."""

    request_id: Number
    consistency: Consistency
    queries: list[bytes]
    min_index: Number = 0
    max_age_ms: Number = 0


class TendSession(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Open, keep or close a session; ``kind`` is a ``CommandKind`` other than COMMAND."""

    request_id: Number
    kind: Number
    session: Number = 0
    first_unanswered: Number = 0
    payload: bytes = b""


class GetStatus(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Ask a member how it sees itself."""

    request_id: Number


class Transfer(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Hand leadership to a voter."""

    request_id: Number
    to: Number


class ChangeMember(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Add, promote or remove one member; ``op`` is the letter of ``ChangeOp``."""

    request_id: Number
    op: str
    peer_id: Number
    peer_address: str = ""
    client_address: str = ""


class TakeBackup(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Ask for the state in pieces: each answer's body is one, an empty one is the last."""

    request_id: Number


Request = Submit | Read | TendSession | GetStatus | Transfer | ChangeMember | TakeBackup

encode = msgspec.msgpack.Encoder().encode
"""Returns the body of a frame that carries a message."""

_decode_hello = msgspec.msgpack.Decoder(Hello).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_request = msgspec.msgpack.Decoder(Request).decode


def decode_hello(body: bytes) -> Hello:
    """Return the first message of a connection.

    Raises:
        FrameRefused: it is none; close the connection.
    """
    try:
        return _decode_hello(body)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def decode_request(body: bytes) -> Request:
    """Return a client's request.

    Raises:
        FrameRefused: it is none; close the connection.
    """
    try:
        return _decode_request(body)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def decode_answer(body: bytes) -> Answer:
    """Return a member's answer.

    Raises:
        FrameRefused: it is none; close the connection.
    """
    try:
        return _decode_answer(body)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def _unreadable(error: msgspec.DecodeError) -> FrameRefused:
    return FrameRefused(
        f"a message has another form ({error}); the connection is closed. Do both sides run "
        "versions that understand each other?"
    )
