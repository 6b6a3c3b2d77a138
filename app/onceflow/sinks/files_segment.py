"""Segments: the rows of one branch in one hidden file, grouped by the directory they belong to.

Layout: the sections one after the other, then a footer (JSON: kind of the rows, and directory,
rows, bytes and checksum of each section), then 16 bytes: length and checksum of the footer, and
eight bytes that tell a segment from anything else. One file per branch, however many directories
it has rows for, so that a prepare costs one ``fsync`` of data.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from onceflow.errors import DataAtRisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_MAGIC: Final = b"ofseg001"
_TAIL: Final = struct.Struct("<II8s")


class Section(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one directory in a segment."""

    directory: str
    """Below the sink's directory; empty for that one itself."""
    rows: int
    size_bytes: int
    checksum: int


class Footer(msgspec.Struct, frozen=True):
    """What a segment holds.

    Attributes:
        kind: how the rows are written: ``json``, or ``parquet`` and a checksum of the schema. Only
            rows of one kind go into one file.
        sections: in the order in which they lie in the file.
    """

    kind: str
    sections: tuple[Section, ...]


class Piece(NamedTuple):
    """A section and where it begins. A tuple, because a roll has one per directory and segment."""

    section: Section
    start_bytes: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows of one directory, as they go into a segment."""

    rows: int
    packed: bytes


def segment_chunks(kind: str, parts: Mapping[str, Rows]) -> Sequence[bytes]:
    """Give the contents of a segment; nothing at all if there are no rows.

    Args:
        kind: of the rows.
        parts: rows by directory.
    """
    if not parts:
        return []
    footer = msgspec.json.encode(
        Footer(
            kind,
            tuple(
                Section(directory, part.rows, len(part.packed), zlib.crc32(part.packed))
                for directory, part in parts.items()
            ),
        )
    )
    tail = _TAIL.pack(len(footer), zlib.crc32(footer), _MAGIC)
    return [*(part.packed for part in parts.values()), footer, tail]


def read_footer(path: Path) -> Footer:
    """Read what a segment holds.

    Raises:
        DataAtRisk: the file is damaged.
    """
    with path.open("rb") as file:
        size_bytes = file.seek(0, 2)
        file.seek(max(0, size_bytes - _TAIL.size))
        tail = file.read()
        if len(tail) != _TAIL.size:
            raise _damaged(path, "it is too short")
        length, checksum, magic = _TAIL.unpack(tail)
        if magic != _MAGIC or length > size_bytes - _TAIL.size:
            raise _damaged(path, "its end is not that of a segment")
        file.seek(size_bytes - _TAIL.size - length)
        encoded = file.read(length)
    if zlib.crc32(encoded) != checksum:
        raise _damaged(path, "the checksum of its footer is wrong")
    footer = msgspec.json.decode(encoded, type=Footer)
    whole_bytes = sum(section.size_bytes for section in footer.sections)
    if whole_bytes + length + _TAIL.size != size_bytes:
        raise _damaged(path, "its length is wrong")
    return footer


def pieces_of(footer: Footer) -> Iterator[Piece]:
    """Give the sections of a segment with their places in it."""
    start_bytes = 0
    for section in footer.sections:
        yield Piece(section, start_bytes)
        start_bytes += section.size_bytes


def read_piece(path: Path, piece: Piece) -> bytes:
    """Read the packed rows of one directory.

    Raises:
        DataAtRisk: the file is damaged.
    """
    section = piece.section
    with path.open("rb") as file:
        file.seek(piece.start_bytes)
        packed = file.read(section.size_bytes)
    if zlib.crc32(packed) != section.checksum:
        raise _damaged(path, f"the checksum of the rows for {section.directory!r} is wrong")
    return packed


def _damaged(path: Path, what: str) -> DataAtRisk:
    return DataAtRisk(
        f"the file {path} holds committed rows and is damaged: {what}. It was synced before it got "
        "its name, so the disk or the file system changed it. These rows are in no visible file "
        "yet; restore this file from a backup, or move it away to go on without its rows"
    )
