"""The state of a member in a file: what a snapshot in the log refers to, and what is streamed.

A file is a sequence of frames (``transport.frames``): a header, the pieces of the state, an empty
frame that tells a whole file from one that was cut off. It is written beside, synced, renamed, and
its directory synced. ``RaftSnapshot.data`` holds size and checksum of the whole file, so that
neither the log nor a message ever holds a state, however large.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from onceflow_consensus.errors import FrameRefused, StorageCorrupt, StorageFailed
from onceflow_consensus.limits import (
    MAX_FRAME_BYTES,
    MAX_STATE_BYTES,
    SNAPSHOT_CHUNK_BYTES,
    STATE_SYNC_BYTES,
)
from onceflow_consensus.storage.checksum import extend_crc32c
from onceflow_consensus.storage.segments import REJOIN
from onceflow_consensus.transport.frames import FrameReader, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_NAME = re.compile(r"state-(\d{20})-(\d{20})\.bin")
_VERSION = 1


class MemberRecord(msgspec.Struct, array_like=True, frozen=True):
    """Addresses of the members (``addresses.encode_book``), and ids that are never used again."""

    book: bytes
    removed: list[int]


class StateHeader(msgspec.Struct, array_like=True, frozen=True):
    """First frame of a state file.

    index, term: the last entry that the state reflects. members: who belongs to the group there.
    """

    version: int
    cluster_id: str
    index: int
    term: int
    members: MemberRecord


class StateReference(msgspec.Struct, array_like=True, frozen=True):
    """What a snapshot in the log says about its file."""

    size_bytes: int
    checksum: int


encode_reference = msgspec.msgpack.Encoder().encode
"""Returns what ``RaftSnapshot.data`` holds of a ``StateReference``."""

_decode_header = msgspec.msgpack.Decoder(StateHeader).decode
_decode_reference = msgspec.msgpack.Decoder(StateReference).decode


def new_header(cluster_id: str, index: int, term: int, members: MemberRecord) -> StateHeader:
    """Return the header of a state of this version's format."""
    return StateHeader(_VERSION, cluster_id, index, term, members)


def decode_reference(data: bytes) -> StateReference:
    """Return what a snapshot refers to.

    Raises:
        FrameRefused: it is no reference, or one to more than is allowed.
    """
    try:
        reference = _decode_reference(data)
    except msgspec.DecodeError as error:
        raise FrameRefused(f"a snapshot refers to nothing that can be read: {error}") from error
    if not 0 < reference.size_bytes <= MAX_STATE_BYTES:
        raise FrameRefused(
            f"a snapshot claims {reference.size_bytes} bytes and {MAX_STATE_BYTES} are allowed"
        )
    return reference


@dataclass(slots=True)
class PartialState:
    """A state file that is being written under a name of its own."""

    path: Path
    file: BinaryIO
    size_bytes: int = 0
    checksum: int = 0
    unsynced_bytes: int = 0

    def write(self, data: bytes) -> None:
        """Append bytes of the file.

        Raises:
            OSError: the disk failed.
        """
        self.file.write(data)
        self.size_bytes += len(data)
        self.unsynced_bytes += len(data)
        if self.unsynced_bytes >= STATE_SYNC_BYTES:
            self.file.flush()
            os.fdatasync(self.file.fileno())
            self.unsynced_bytes = 0
        self.checksum = extend_crc32c(self.checksum, data)

    @property
    def reference(self) -> StateReference:
        """Return size and checksum of what was written."""
        return StateReference(self.size_bytes, self.checksum)

    def abandon(self) -> None:
        """Remove what was written."""
        self.file.close()
        self.path.unlink(missing_ok=True)


class StateFiles:
    """The state files of one member. Methods block; call them where that is allowed."""

    def __init__(self, directory: Path) -> None:
        """Open the directory and remove what interrupted writes left.

        Raises:
            StorageFailed: it cannot be used.
        """
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for leftover in directory.glob("*.tmp"):
                leftover.unlink()
        except OSError as error:
            raise _failed("open", directory, error) from error

    def begin(self, purpose: str) -> PartialState:
        """Begin a file; ``purpose`` tells apart what may be written at the same time.

        Raises:
            StorageFailed: it cannot be created.
        """
        path = self._directory / f"{purpose}.tmp"
        try:
            return PartialState(path, path.open("wb"))
        except OSError as error:
            raise _failed("create", path, error) from error

    def finish(self, partial: PartialState, index: int, term: int) -> None:
        """Make a file durable under its name.

        Raises:
            StorageFailed: the disk failed; stop the member.
        """
        try:
            partial.file.flush()
            os.fsync(partial.file.fileno())
            partial.file.close()
            partial.path.rename(self.path_of(index, term))
            self._sync_directory()
        except OSError as error:
            raise _failed("finish", partial.path, error) from error

    def write(self, header: StateHeader, pieces: Iterable[bytes]) -> StateReference:
        """Write a whole state; when this returns it is durable.

        Raises:
            StorageFailed: the disk failed; stop the member.
        """
        partial = self.begin("own")
        try:
            for data in encode_state(header, pieces):
                partial.write(data)
        except OSError as error:
            raise _failed("write", partial.path, error) from error
        self.finish(partial, header.index, header.term)
        return partial.reference

    def path_of(self, index: int, term: int) -> Path:
        """Return where the state of a snapshot is."""
        return self._directory / f"state-{index:020d}-{term:020d}.bin"

    def drop_old(self, newest_index: int) -> None:
        """Remove what lies below the snapshot of ``newest_index``, but for the last before it.

        That one may still be on its way to a peer. What lies above is about to be made known to
        the log.

        Raises:
            StorageFailed: the disk failed; stop the member.
        """
        names = sorted(path.name for path in self._directory.iterdir())
        found = [match for match in map(_NAME.fullmatch, names) if match is not None]
        older = [match[0] for match in found if int(match[1]) < newest_index]
        try:
            for name in older[:-1]:
                (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", self._directory, error) from error

    def _sync_directory(self) -> None:
        directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)


def encode_state(header: StateHeader, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a state file, about a chunk at a time."""
    yield encode_frame(msgspec.msgpack.encode(header))
    gathered: list[bytes] = []
    gathered_bytes = 0
    for piece in pieces:
        gathered.append(piece)
        gathered_bytes += len(piece)
        if gathered_bytes >= SNAPSHOT_CHUNK_BYTES:
            yield encode_frame(b"".join(gathered))
            gathered, gathered_bytes = [], 0
    if gathered:
        yield encode_frame(b"".join(gathered))
    yield encode_frame(b"")


def open_state(path: Path) -> tuple[StateHeader, Iterator[bytes]]:
    """Return header and pieces of a state file; the pieces are read as they are taken.

    Raises:
        StorageCorrupt: the file is missing or damaged, at present or while pieces are taken.
    """
    frames = _frames(path)
    body = next(frames, b"")
    try:
        header = _decode_header(body)
    except msgspec.DecodeError as error:
        raise StorageCorrupt(f"{path.name} has no header ({error}). {REJOIN}") from error
    if header.version != _VERSION:
        raise StorageCorrupt(
            f"{path.name} is of format {header.version} and this program reads {_VERSION}; nothing "
            "was changed. Start it with the version that wrote it."
        )
    return header, frames


def _frames(path: Path) -> Iterator[bytes]:
    """Yield the frames up to the empty one, which has to be there."""
    reader = FrameReader(MAX_FRAME_BYTES)
    try:
        with path.open("rb") as file:
            while data := file.read(SNAPSHOT_CHUNK_BYTES):
                bodies = reader.feed(data)
                yield from filter(None, bodies)
                if bodies and not bodies[-1]:
                    return
    except (OSError, FrameRefused) as error:
        raise StorageCorrupt(f"{path.name} cannot be read: {error}. {REJOIN}") from error
    raise StorageCorrupt(f"{path.name} is cut off. {REJOIN}")


def _failed(action: str, path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"cannot {action} {path.name}: {error.strerror or error}; the member stops. Check the disk "
        "and its free space, then start it again."
    )
