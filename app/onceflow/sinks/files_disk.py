"""Writes of files and directories that are on the disk when they return.

What it decides: which ``fsync`` belongs to which change. Contents are synced before a name points
to them, and a directory after a name in it was made, moved or removed; without the second a file
may be whole on the disk and yet have no name after a power failure.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path


@contextmanager
def opened_directory(path: Path) -> Generator[int]:
    """Give a descriptor of a directory, which stays with it when it is renamed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on the disk."""
    with opened_directory(path) as descriptor:
        os.fsync(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and those above it; what exists is fine. Each new name is durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def write_durably(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file and put its contents on the disk; its name is the caller's to sync.

    What a failed write leaves is removed.
    """
    try:
        with path.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        remove(path)
        raise


def replace_durably(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new one, never a part."""
    # Two processes may write the same file, so the temporary one is nobody else's.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_durably(temporary, [content])
    temporary.rename(path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is gone, with its directory or without, is fine."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
