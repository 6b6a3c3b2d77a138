"""What the transport has to know of an engine's messages, which are each engine's own.

Must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.replica import Engine
from onceflow_consensus.transport import raft_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onceflow_consensus.raft.messages import Message


@dataclass(frozen=True, slots=True)
class Codec:
    """How the messages of one engine travel.

    encode, decode: a bundle of messages to bytes and back. may_wait: whether a message only tells
    what a later one tells as well. without_overtaken: a bundle without messages that a later one
    in it makes superfluous.
    """

    encode: Callable[[Sequence[Message]], bytes]
    decode: Callable[[bytes], list[Message]]
    may_wait: Callable[[Message], bool]
    without_overtaken: Callable[[Sequence[Message]], list[Message]]


CODECS = {
    Engine.RAFT: Codec(
        raft_wire.encode_messages,
        raft_wire.decode_messages,
        raft_wire.only_tells_commit,
        raft_wire.without_overtaken,
    ),
}
"""The codec of each engine."""
