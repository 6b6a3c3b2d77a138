"""Messages between peers as bytes (msgpack arrays), for both engines.

A frame carries a bundle: all that one turn of the sender's loop had for one peer. The engines'
messages have the same fields, so that a codec needs to know only their kinds. Whatever arrives is
checked for its types before it is stepped; the engine checks its meaning.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from onceflow_consensus.errors import FrameRefused
from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.raft.messages import Entry, EntryKind, Message, MessageKind, RaftSnapshot
from onceflow_consensus.replica import Engine, PeerMessage
from onceflow_consensus.storage.records import (
    DamagedError,
    decode_configuration,
    encode_configuration,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

_Kind = MessageKind | PaxosKind


class Codec:
    """How the messages of one engine travel.

    appends: kinds that bring entries, and the commit index with them. acknowledges: the kind that
    says up to where they are durable.
    """

    def __init__(
        self,
        make: Callable[..., PeerMessage],
        kinds: Sequence[_Kind],
        appends: frozenset[MessageKind] | frozenset[PaxosKind],
        acknowledges: _Kind,
    ) -> None:
        self._make = make
        self._kinds = kinds
        self._numbers = {kind: number for number, kind in enumerate(kinds)}
        self._appends = appends
        self._acknowledges = acknowledges

    def encode(self, messages: Sequence[PeerMessage]) -> bytes:
        """Return the bundle of these messages."""
        numbers = self._numbers
        return _encode(
            [
                _Wire(
                    numbers[each.kind],
                    each.to,
                    each.sender,
                    each.term,
                    each.log_term,
                    each.index,
                    each.commit_index,
                    each.vote,
                    each.rejected,
                    each.reject_hint,
                    each.context,
                    [
                        (entry.term, entry.index, _ENTRY_NUMBERS[entry.kind], entry.data)
                        for entry in each.entries
                    ],
                    _packed(each.raft_snapshot),
                )
                for each in messages
            ]
        )

    def decode(self, body: bytes) -> list[PeerMessage]:
        """Return the messages of a bundle.

        Raises:
            FrameRefused: it is not a bundle of messages that peers send; close the connection.
        """
        try:
            return [self._unpacked(wire) for wire in _decode(body)]
        except (msgspec.DecodeError, IndexError, DamagedError) as error:
            raise FrameRefused(
                f"a bundle of messages has another form ({error}); the connection is closed. Do "
                "both peers run versions that understand each other?"
            ) from error

    def _unpacked(self, wire: _Wire) -> PeerMessage:
        received = wire.raft_snapshot
        return self._make(
            kind=self._kinds[wire.kind],
            to=wire.to,
            sender=wire.sender,
            term=wire.term,
            log_term=wire.log_term,
            index=wire.index,
            entries=tuple(
                [
                    Entry(term, index, _ENTRY_KINDS[kind], data)
                    for term, index, kind, data in wire.entries
                ]
            ),
            commit_index=wire.commit_index,
            vote=wire.vote,
            raft_snapshot=None
            if received is None
            else RaftSnapshot(
                received[0], received[1], decode_configuration(received[2]), received[3]
            ),
            rejected=wire.rejected,
            reject_hint=wire.reject_hint,
            context=wire.context,
        )

    def may_wait(self, message: PeerMessage) -> bool:
        """Whether a message is an append without entries, which may wait for one with some.

        Most of them only tell the commit index, which the next append tells as well.
        """
        return not message.entries and message.kind in self._appends

    def without_overtaken(self, messages: Sequence[PeerMessage]) -> list[PeerMessage]:
        """Return a bundle without acknowledgements that a later one of the bundle includes.

        An acknowledgement of an index holds for everything below it. Leaving one out is like
        losing it on the way, which the engine has to bear anyway.
        """
        kept: list[PeerMessage] = []
        for message in messages:
            if kept and self._includes(message, kept[-1]):
                kept[-1] = message
            else:
                kept.append(message)
        return kept

    def _includes(self, later: PeerMessage, earlier: PeerMessage) -> bool:
        return (
            later.kind is self._acknowledges
            and earlier.kind is self._acknowledges
            and not later.rejected
            and not earlier.rejected
            and later.term == earlier.term
            and later.index >= earlier.index
        )


def _packed(received: RaftSnapshot | None) -> _WireSnapshot | None:
    if received is None:
        return None
    configuration = encode_configuration(received.configuration)
    return received.index, received.term, configuration, received.data


RAFT_CODEC = Codec(Message, tuple(MessageKind), frozenset({MessageKind.APP}), MessageKind.APP_RESP)
"""How Raft's messages travel."""

PAXOS_CODEC = Codec(
    PaxosMessage,
    tuple(PaxosKind),
    frozenset({PaxosKind.ACCEPT, PaxosKind.DECIDE}),
    PaxosKind.ACCEPTED,
)
"""How Paxos' messages travel."""

CODECS = {Engine.RAFT: RAFT_CODEC, Engine.PAXOS: PAXOS_CODEC}
"""The codec of each engine."""
