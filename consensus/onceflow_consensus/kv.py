"""A small key-value space: the state machine for administration and for checking.

Keys and values are bytes. Each write gives its key a *version*, the count of writes so far, so that
a version is never used twice, not even by a key that was deleted and written again.

The entries lie in many small dicts, chosen by the key's checksum. A snapshot takes the dicts as
they are; a dict that is written to afterwards is copied first. So taking one costs the same for any
number of keys, and the copies are small ones, made one by one. The sorted keys, which only scans
need, lie beside, in short lists, and change only when a key comes or goes.

Must never import anything that does I/O.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.limits import (
    MAX_KEY_BYTES,
    MAX_SCAN_PAGE_BYTES,
    MAX_SCAN_PAGE_ENTRIES,
    MAX_VALUE_BYTES,
    SNAPSHOT_CHUNK_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Version = int
"""Count of all writes when a key was written last; 0 stands for a key that does not exist."""

Value = tuple[bytes, Version]
Row = tuple[bytes, bytes, Version]
"""Key, value, version."""


class Put(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Command: set a key."""

    key: bytes
    value: bytes


class CompareVersion(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Command: set a key if its version is the expected one; 0 if it must not exist."""

    key: bytes
    expected: Version
    value: bytes


class CompareValue(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Command: set a key if its value is the expected one; None if it must not exist."""

    key: bytes
    expected: bytes | None
    value: bytes


class Delete(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Command: delete a key; it need not exist."""

    key: bytes


class Get(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Query: the value of a key."""

    key: bytes


class Scan(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Query: a page of the keys that begin with ``prefix`` and lie above ``after``, in order.

    ``after`` is empty for the first page and the last key of a page for the next one. A page has
    ``max_entries`` at most, or fewer where the bounds of a page say so.
    """

    prefix: bytes
    after: bytes = b""
    max_entries: int = MAX_SCAN_PAGE_ENTRIES


class Written(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """Response: the key is set, and has this version."""

    version: Version


class Mismatch(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Response: the expectation did not hold, and nothing changed. The version found, or 0."""

    version: Version


class Deleted(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Response: the key is gone. The version it had, or 0 if it did not exist."""

    version: Version


class Refused(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Response: no valid command or query, or out of bounds; nothing changed. Do not repeat it."""

    reason: str


class Found(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Answer to ``Get``: value and version; version 0 if the key does not exist."""

    value: bytes
    version: Version


class Page(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """Answer to ``Scan``; ``more`` says whether keys lie beyond the last of ``rows``."""

    rows: list[Row]
    more: bool


Command = Put | CompareVersion | CompareValue | Delete
Query = Get | Scan
Response = Written | Mismatch | Deleted | Refused | Found | Page

_ENCODER = msgspec.msgpack.Encoder()
_COMMANDS = msgspec.msgpack.Decoder(Command)
_QUERIES = msgspec.msgpack.Decoder(Query)
_RESPONSES = msgspec.msgpack.Decoder(Response)

_SHARDS = 1024
_KEYS_OF_A_LIST = 512
_STATE_VERSION = 1


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    machine: str
    version: int
    writes: int
    keys: int


_MACHINE = "onceflow kv"
_HEADERS = msgspec.msgpack.Decoder(_Header)
_ROWS = msgspec.msgpack.Decoder(list[Row])


encode_command: Callable[[Command], bytes] = _ENCODER.encode
"""Return the payload of a command."""

encode_query: Callable[[Query], bytes] = _ENCODER.encode
"""Return the question that asks a query."""

decode_response: Callable[[bytes], Response] = _RESPONSES.decode
"""Return what a response or an answer says; ``msgspec.DecodeError`` if it is not this machine's."""


class KeyValueMachine:
    """The key-value space of one replica; see ``state_machine.StateMachine``."""

    def __init__(self) -> None:
        """Begin empty."""
        self._shards: list[dict[bytes, Value]] = [{} for _ in range(_SHARDS)]
        # Shards that a snapshot may still read: copied before they are written to.
        self._frozen = bytearray(_SHARDS)
        self._keys = _SortedKeys(())
        self._writes = 0

    @property
    def key_count(self) -> int:
        """Number of keys."""
        return sum(map(len, self._shards))

    def apply_batch(
        self,
        index: int,  # noqa: ARG002 - of no meaning here, and so is the time
        log_time_ms: int,  # noqa: ARG002
        commands: Sequence[bytes],
    ) -> list[bytes]:
        """Apply commands in order; see ``StateMachine``."""
        decode, encode = _COMMANDS.decode, _ENCODER.encode
        responses: list[bytes] = []
        for payload in commands:
            try:
                command = decode(payload)
            except msgspec.DecodeError:
                responses.append(encode(Refused("not a command of the key-value space")))
                continue
            place = crc32(command.key) % _SHARDS
            known = self._shards[place]
            # What most commands are is written out: another value for a key that there is.
            if (
                type(command) is Put
                and command.key in known
                and not self._frozen[place]
                and len(command.value) <= MAX_VALUE_BYTES
            ):
                self._writes = version = self._writes + 1
                known[command.key] = (command.value, version)
                responses.append(encode(Written(version)))
            else:
                responses.append(encode(self._apply(command, place)))
        return responses

    def _apply(self, command: Command, place: int) -> Response:
        key = command.key
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return Refused(f"a key has 1 to {MAX_KEY_BYTES} bytes")
        found = self._shards[place].get(key)
        if isinstance(command, Delete):
            return self._delete(place, key, found)
        if len(command.value) > MAX_VALUE_BYTES:
            return Refused(f"a value has at most {MAX_VALUE_BYTES} bytes")
        if not isinstance(command, Put) and not _is_expected(command, found):
            return Mismatch(0 if found is None else found[1])
        if self._frozen[place]:
            self._thaw(place)
        self._writes = version = self._writes + 1
        self._shards[place][key] = (command.value, version)
        if found is None:
            self._keys.add(key)
        return Written(version)

    def _delete(self, place: int, key: bytes, found: Value | None) -> Response:
        if found is None:
            return Deleted(0)
        if self._frozen[place]:
            self._thaw(place)
        self._writes += 1
        del self._shards[place][key]
        self._keys.remove(key)
        return Deleted(found[1])

    def _thaw(self, place: int) -> None:
        self._shards[place] = self._shards[place].copy()
        self._frozen[place] = 0

    def query(self, question: bytes) -> bytes:
        """Answer a query; see ``StateMachine``."""
        try:
            query = _QUERIES.decode(question)
        except msgspec.DecodeError:
            return _ENCODER.encode(Refused("not a query of the key-value space"))
        if isinstance(query, Get):
            value, version = self._shards[crc32(query.key) % _SHARDS].get(query.key, (b"", 0))
            return _ENCODER.encode(Found(value, version))
        return _ENCODER.encode(self._scan(query))

    def _scan(self, query: Scan) -> Page:
        max_entries = max(1, min(query.max_entries, MAX_SCAN_PAGE_ENTRIES))
        rows: list[Row] = []
        page_bytes = 0
        for key in self._keys.above(query.prefix, query.after):
            if not key.startswith(query.prefix):
                break
            if len(rows) >= max_entries or page_bytes >= MAX_SCAN_PAGE_BYTES:
                return Page(rows, more=True)
            value, version = self._shards[crc32(key) % _SHARDS][key]
            rows.append((key, value, version))
            page_bytes += len(key) + len(value)
        return Page(rows, more=False)

    def take_snapshot(self) -> Iterator[bytes]:
        """Return the present state in chunks; see ``StateMachine``."""
        header = _Header(_MACHINE, _STATE_VERSION, self._writes, self.key_count)
        self._frozen = bytearray(b"\1") * _SHARDS
        return _chunks(header, list(self._shards))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by that of a snapshot; see ``StateMachine``."""
        source = iter(chunks)
        shards: list[dict[bytes, Value]] = [{} for _ in range(_SHARDS)]
        keys: list[bytes] = []
        try:
            header = _HEADERS.decode(next(source, b""))
            if (header.machine, header.version) != (_MACHINE, _STATE_VERSION):
                raise SnapshotUnreadable(
                    f"it holds {header.machine!r} of format {header.version}, not {_MACHINE!r} "
                    f"of format {_STATE_VERSION}"
                )
            for chunk in source:
                for key, value, version in _ROWS.decode(chunk):
                    shards[crc32(key) % _SHARDS][key] = (value, version)
                    keys.append(key)
        except msgspec.DecodeError as error:
            raise SnapshotUnreadable(f"it is damaged: {error}") from error
        if len(keys) != header.keys:
            raise SnapshotUnreadable(f"it has {len(keys)} of {header.keys} keys")
        keys.sort()
        self._shards, self._keys, self._writes = shards, _SortedKeys(keys), header.writes
        self._frozen = bytearray(_SHARDS)


def _is_expected(command: CompareVersion | CompareValue, found: Value | None) -> bool:
    if isinstance(command, CompareVersion):
        return command.expected == (0 if found is None else found[1])
    return command.expected == (None if found is None else found[0])


def _chunks(header: _Header, shards: list[dict[bytes, Value]]) -> Iterator[bytes]:
    yield _ENCODER.encode(header)
    rows: list[Row] = []
    chunk_bytes = 0
    for shard in shards:
        for key, (value, version) in shard.items():
            rows.append((key, value, version))
            chunk_bytes += len(key) + len(value)
            if chunk_bytes >= SNAPSHOT_CHUNK_BYTES:
                yield _ENCODER.encode(rows)
                rows, chunk_bytes = [], 0
    if rows:
        yield _ENCODER.encode(rows)


class _SortedKeys:
    """Keys in order, in short lists, so that one that comes or goes moves few others.

    Invariant: the lists are not empty, each is sorted, and none holds a key below an earlier one's.
    """

    def __init__(self, ordered: Sequence[bytes]) -> None:
        half = _KEYS_OF_A_LIST // 2
        self._lists = [list(ordered[at : at + half]) for at in range(0, len(ordered), half)]
        self._lasts = [each[-1] for each in self._lists]

    def add(self, key: bytes) -> None:
        if not self._lists:
            self._lists, self._lasts = [[key]], [key]
            return
        at = min(bisect_left(self._lasts, key), len(self._lists) - 1)
        keys = self._lists[at]
        insort(keys, key)
        self._lasts[at] = keys[-1]
        if len(keys) > _KEYS_OF_A_LIST:
            half = len(keys) // 2
            self._lists[at : at + 1] = [keys[:half], keys[half:]]
            self._lasts[at : at + 1] = [keys[half - 1], keys[-1]]

    def remove(self, key: bytes) -> None:
        at = bisect_left(self._lasts, key)
        keys = self._lists[at]
        del keys[bisect_left(keys, key)]
        if keys:
            self._lasts[at] = keys[-1]
        else:
            del self._lists[at], self._lasts[at]

    def above(self, prefix: bytes, after: bytes) -> Iterator[bytes]:
        """Yield the keys from ``prefix`` on that lie above ``after``."""
        first = max(prefix, after)
        at = bisect_left(self._lasts, first)
        if at == len(self._lists):
            return
        for key in self._lists[at][bisect_left(self._lists[at], first) :]:
            if key != after:
                yield key
        for keys in self._lists[at + 1 :]:
            yield from keys
