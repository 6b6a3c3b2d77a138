"""What the members of a group replicate: the key-value space and the coordinator's record.

They stand beside each other and know nothing of one another; the first byte of a command or query
says whose it is. A snapshot holds both, each chunk behind a byte that says whose. One that holds
the key-value space alone, of a member that knew no more, is read as well; such a member refuses
ours, and says of which machine it is.

Pure: must never import anything that does I/O.
"""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING

import msgspec

from onceflow.coordinator.machine import CoordinatorMachine
from onceflow.coordinator.vocabulary import LEAD
from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.kv import KeyValueMachine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MACHINE = "onceflow group"
STATE_VERSION = 1


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Has the shape of the key-value machine's header, counts included.

    So a program that knows that one alone can say whose state it was given.
    """

    machine: str
    version: int
    writes: int = 0
    keys: int = 0


_HEADERS = msgspec.msgpack.Decoder(_Header)
_KEYS = b"k"
_RECORD = b"r"


class GroupMachine:
    """Key-value space and record of one replica; see ``onceflow_consensus.state_machine``."""

    def __init__(self) -> None:
        """Begin empty."""
        self._keys = KeyValueMachine()
        self._record = CoordinatorMachine()

    def apply_batch(self, index: int, log_time_ms: int, commands: Sequence[bytes]) -> list[bytes]:
        """Apply commands in order; see ``StateMachine``."""
        responses: list[bytes] = []
        for is_of_record, some in groupby(commands, key=_is_of_record):
            machine = self._record if is_of_record else self._keys
            responses += machine.apply_batch(index, log_time_ms, [*some])
        return responses

    def query(self, question: bytes) -> bytes:
        """Answer a query; see ``StateMachine``."""
        return (self._record if _is_of_record(question) else self._keys).query(question)

    def numbers(self) -> dict[str, float]:
        """Return what of the record is worth an alarm; see ``CoordinatorMachine.numbers``."""
        return self._record.numbers()

    def take_snapshot(self) -> Iterator[bytes]:
        """Return the present state in chunks; see ``StateMachine``."""
        header = msgspec.msgpack.encode(_Header(MACHINE, STATE_VERSION))
        return chain(
            [header],
            map(_KEYS.__add__, self._keys.take_snapshot()),
            map(_RECORD.__add__, self._record.take_snapshot()),
        )

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by that of a snapshot; see ``StateMachine``."""
        source = iter(chunks)
        first = next(source, b"")
        keys, record = KeyValueMachine(), CoordinatorMachine()
        if _reads_both(first):
            parts = groupby(source, key=lambda chunk: chunk[:1])
            keys.restore(_part_of(parts, _KEYS))
            record.restore(_part_of(parts, _RECORD))
            if next(parts, None) is not None:
                raise SnapshotUnreadable("it holds more than this program knows")
        else:
            keys.restore(chain([first], source))
        self._keys, self._record = keys, record


def _is_of_record(payload: bytes) -> bool:
    return payload[:1] == LEAD


def _reads_both(first: bytes) -> bool:
    """Whether the first chunk begins a state of ours; else it is left to the key-value space.

    Raises:
        SnapshotUnreadable: it is ours, and of a later version.
    """
    try:
        header = _HEADERS.decode(first)
    except msgspec.DecodeError:
        return False
    if header.machine != MACHINE:
        return False
    if header.version != STATE_VERSION:
        raise SnapshotUnreadable(
            f"it is of format {header.version} and this program reads {STATE_VERSION}; nothing was "
            "changed. Start it with the version that wrote it."
        )
    return True


def _part_of(parts: Iterator[tuple[bytes, Iterator[bytes]]], whose: bytes) -> Iterator[bytes]:
    """Yield the chunks of the next part, which must be of ``whose``."""
    found, chunks = next(parts, (b"", iter(())))
    if found != whose:
        raise SnapshotUnreadable("a part of it is missing")
    for chunk in chunks:
        yield chunk[len(whose) :]
