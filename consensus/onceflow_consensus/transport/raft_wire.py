"""Messages between Raft peers as bytes (msgpack arrays), and what a bundle of them may leave out.

A frame carries a bundle: all that one turn of the sender's loop had for one peer. Whatever arrives
is checked for its types before it is stepped; the engine checks its meaning.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.storage.records import (
    DamagedError,
    decode_configuration,
    encode_configuration,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KINDS = tuple(MessageKind)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_ENTRY_KINDS = tuple(EntryKind)
_ENTRY_NUMBERS = {kind: number for number, kind in enumerate(_ENTRY_KINDS)}

_Number = Annotated[int, msgspec.Meta(ge=0)]
_WireEntry = tuple[_Number, _Number, _Number, bytes]
_WireSnapshot = tuple[_Number, _Number, bytes, bytes]


class _Wire(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message; the order of the fields is the format."""

    kind: _Number
    to: _Number
    sender: _Number
    term: _Number
    log_term: _Number
    index: _Number
    commit_index: _Number
    vote: _Number
    rejected: bool
    reject_hint: _Number
    context: bytes
    entries: list[_WireEntry]
    raft_snapshot: _WireSnapshot | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Wire]).decode


def encode_messages(messages: Iterable[Message]) -> bytes:
    """Return the bundle of these messages."""
    return _encode([_to_wire(message) for message in messages])


def decode_messages(body: bytes) -> list[Message]:
    """Return the messages of a bundle.

    Raises:
        FrameRefused: it is not a bundle of messages that peers send; close the connection.
    """
    try:
        return [_from_wire(wire) for wire in _decode(body)]
    except (msgspec.DecodeError, IndexError, DamagedError) as error:
        raise FrameRefused(
            f"a bundle of messages has another form ({error}); the connection is closed. Do both "
            "peers run versions that understand each other?"
        ) from error


def _to_wire(message: Message) -> _Wire:
    received = message.raft_snapshot
    return _Wire(
        _KIND_NUMBERS[message.kind],
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit_index,
        message.vote,
        message.rejected,
        message.reject_hint,
        message.context,
        [
            (entry.term, entry.index, _ENTRY_NUMBERS[entry.kind], entry.data)
            for entry in message.entries
        ],
        None
        if received is None
        else (
            received.index,
            received.term,
            encode_configuration(received.configuration),
            received.data,
        ),
    )


def _from_wire(wire: _Wire) -> Message:
    received = wire.raft_snapshot
    return Message(
        _KINDS[wire.kind],
        wire.to,
        wire.sender,
        wire.term,
        wire.log_term,
        wire.index,
        tuple(
            Entry(term, index, _ENTRY_KINDS[kind], data) for term, index, kind, data in wire.entries
        ),
        wire.commit_index,
        wire.vote,
        None
        if received is None
        else RaftSnapshot(received[0], received[1], decode_configuration(received[2]), received[3]),
        wire.rejected,
        wire.reject_hint,
        wire.context,
    )


def only_tells_commit(message: Message) -> bool:
    """Whether a message is an append without entries, which may wait for one with some.

    Most of them only tell the commit index, which the next append tells as well.
    """
    return message.kind is MessageKind.APP and not message.entries


def without_overtaken(messages: Sequence[Message]) -> list[Message]:
    """Return a bundle without acknowledgements that a later one of the bundle includes.

    An acknowledgement of an index holds for everything below it. Leaving one out is like losing
    it on the way, which the engine has to bear anyway.
    """
    kept: list[Message] = []
    for message in messages:
        if kept and _includes(message, kept[-1]):
            kept[-1] = message
        else:
            kept.append(message)
    return kept


def _includes(later: Message, earlier: Message) -> bool:
    return (
        later.kind is MessageKind.APP_RESP
        and earlier.kind is MessageKind.APP_RESP
        and not later.rejected
        and not earlier.rejected
        and later.term == earlier.term
        and later.index >= earlier.index
    )
