"""One directory of files, with syncs made explicit.

``Disk`` is what the log and the snapshots ask of a file system; ``OsDisk`` is the real one, and
``onceflow_consensus.testing.memory_disk`` one that loses what was not synced. Rules: a file's data
is durable after ``sync``, its name after ``sync_directory``; a failed sync is never repeated.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Protocol

from onceflow_consensus.errors import StorageFailed, StorageLocked

if TYPE_CHECKING:
    from pathlib import Path

_LOCK_NAME = "LOCK"
_FILE_MODE = 0o640


class Disk(Protocol):
    """A directory. Every method may raise ``StorageFailed``: the replica stops then."""

    def names(self) -> list[str]:
        """Return the names of the files, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        ...

    def create(self, name: str, allocated_bytes: int) -> None:
        """Create a file of zeros, replacing one of that name."""
        ...

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file; durable after ``sync``."""
        ...

    def sync(self, name: str) -> None:
        """Make a file's content durable."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old`` at once; durable after ``sync_directory``."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable."""
        ...

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        ...


class OsDisk:
    """A real directory, locked while it is open."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, creating it if needed.

        Raises:
            StorageLocked: another process uses it.
            StorageFailed: it cannot be used.
        """
        self._directory = directory
        self._files: dict[str, int] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            self._lock_fd = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        except OSError as error:
            raise _failed("open", str(directory), error) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            os.close(self._directory_fd)
            raise StorageLocked(
                f"{directory} is used by another process; two replicas on one log would destroy "
                "it. Stop the other process or choose another directory."
            ) from error
        self._is_open = True

    def names(self) -> list[str]:
        """See ``Disk``."""
        return sorted(path.name for path in self._directory.iterdir() if path.name != _LOCK_NAME)

    def read(self, name: str) -> bytes:
        """See ``Disk``."""
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise _failed("read", name, error) from error

    def create(self, name: str, allocated_bytes: int) -> None:
        """See ``Disk``."""
        self._forget(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        try:
            fd = os.open(name, flags, _FILE_MODE, dir_fd=self._directory_fd)
            self._files[name] = fd
            if allocated_bytes:
                os.posix_fallocate(fd, 0, allocated_bytes)
        except OSError as error:
            raise _failed("create", name, error) from error

    def write(self, name: str, offset: int, data: bytes) -> None:
        """See ``Disk``."""
        view = memoryview(data)
        try:
            fd = self._fd(name)
            while view:
                written = os.pwrite(fd, view, offset)
                offset += written
                view = view[written:]
        except OSError as error:
            raise _failed("write", name, error) from error

    def sync(self, name: str) -> None:
        """See ``Disk``."""
        try:
            os.fdatasync(self._fd(name))
        except OSError as error:
            raise _failed("sync", name, error) from error

    def rename(self, old: str, new: str) -> None:
        """See ``Disk``."""
        self._forget(new)
        self._forget(old)
        directory = self._directory_fd
        try:
            os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            raise _failed("rename", old, error) from error

    def remove(self, name: str) -> None:
        """See ``Disk``."""
        self._forget(name)
        try:
            os.unlink(name, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed("remove", name, error) from error

    def sync_directory(self) -> None:
        """See ``Disk``."""
        try:
            os.fsync(self._directory_fd)
        except OSError as error:
            raise _failed("sync", str(self._directory), error) from error

    def close(self) -> None:
        """See ``Disk``."""
        if not self._is_open:
            return
        self._is_open = False
        for fd in (*self._files.values(), self._lock_fd, self._directory_fd):
            os.close(fd)
        self._files = {}

    def _fd(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(name, os.O_RDWR, dir_fd=self._directory_fd)
        return self._files[name]

    def _forget(self, name: str) -> None:
        fd = self._files.pop(name, None)
        if fd is not None:
            os.close(fd)


def _failed(action: str, name: str, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"cannot {action} {name}: {error.strerror or error}; what was not synced may be lost, so "
        "the replica stops. Check the disk and its free space, then start the replica again."
    )
