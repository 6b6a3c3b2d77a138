"""A store's directory: who holds it, what it says of itself, and how it is emptied.

Each directory has a marker file, written before RocksDB's files and locked (``flock``) while the
store is open. The marker makes sure that only directories which onceflow made are ever emptied, and
the lock that none is emptied under another worker: RocksDB's own lock file cannot serve, because it
is itself among what a wipe removes. The kernel releases the lock when its process dies.

The marker also carries what must be known before RocksDB opens: the format version, and whether an
earlier run found the files damaged. Imports no rocksdict.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Final, cast

import orjson

from onceflow.errors import ConfigError, StorageFailed
from onceflow.state.storage_errors import locked
from onceflow.state.trust import FORMAT_VERSION, Reason, RebuildReason

if TYPE_CHECKING:
    from pathlib import Path

MARKER_NAME = "onceflow-store.json"
"""Name of the marker file in a store's directory."""


class StoreDirectory:
    """A store's directory, held by this process until ``release``.

    Args:
        path: the directory; made if missing.

    Raises:
        ConfigError: it is held by another process, or it holds files that are not a store's.
        StorageFailed: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        try:
            self._marker_fd = self._acquire()
        except OSError as error:
            raise _disk_error(path, error) from error

    def distrust(self) -> RebuildReason | None:
        """Why the files must not be opened at all; None if they may be."""
        stated = self._read_marker()
        version = stated.get("format")
        if version != FORMAT_VERSION:
            return RebuildReason(
                Reason.OTHER_FORMAT,
                f"its format version is {version}, but this onceflow reads {FORMAT_VERSION}",
            )
        damage = stated.get("damage")
        if damage is not None:
            return RebuildReason(Reason.CORRUPT, str(damage))
        if stated.get("opened") and not (self.path / "CURRENT").exists():
            return RebuildReason(Reason.CORRUPT, f"files of {self.path} are missing")
        return None

    def note_opened(self) -> None:
        """Remember that RocksDB's files exist, so that their loss is told from a new store."""
        if not self._read_marker().get("opened"):
            self._write_marker({"format": FORMAT_VERSION, "opened": True})

    def note_damage(self, text: str) -> None:
        """Remember beyond this process that files are damaged, so that the next open wipes them."""
        self._write_marker({"format": FORMAT_VERSION, "opened": True, "damage": text})

    def empty(self) -> None:
        """Remove everything but the marker, which keeps the lock, and reset what it says."""
        try:
            for entry in sorted(self.path.iterdir()):
                if entry.name == MARKER_NAME:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._write_marker({"format": FORMAT_VERSION})

    def remove(self) -> None:
        """Remove the directory itself and give up the lock."""
        self.empty()
        try:
            (self.path / MARKER_NAME).unlink()
            self.path.rmdir()
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self.release()

    def release(self) -> None:
        """Give up the lock. Idempotent."""
        if self._marker_fd >= 0:
            os.close(self._marker_fd)
            self._marker_fd = -1

    def _acquire(self) -> int:
        self.path.mkdir(parents=True, exist_ok=True)
        marker = self.path / MARKER_NAME
        if not marker.exists() and any(self.path.iterdir()):
            raise ConfigError(
                f"The directory {self.path} holds files that are not a store of onceflow. It was "
                "left untouched, because a store's directory is emptied when it must be rebuilt. "
                "Choose another data directory, or empty this one yourself."
            )
        marker_fd = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(marker_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(marker_fd)
            raise locked(self.path, f"{MARKER_NAME} is locked") from error
        self._marker_fd = marker_fd
        try:
            if os.fstat(marker_fd).st_size == 0:
                self._write_marker({"format": FORMAT_VERSION})
        except StorageFailed:
            self.release()
            raise
        return marker_fd

    def _read_marker(self) -> dict[str, object]:
        try:
            stated: object = orjson.loads(os.pread(self._marker_fd, 65_536, 0))
        except orjson.JSONDecodeError:
            return {"format": None}
        except OSError as error:
            raise _disk_error(self.path, error) from error
        return cast("dict[str, object]", stated) if isinstance(stated, dict) else {}

    def _write_marker(self, stated: dict[str, object]) -> None:
        """Overwrite the marker in place: replacing the file would lose the lock on it.

        A torn marker reads as an unknown format, which has the store rebuilt.
        """
        try:
            text = orjson.dumps(stated)
            os.ftruncate(self._marker_fd, 0)
            os.pwrite(self._marker_fd, text, 0)
            os.fsync(self._marker_fd)
        except OSError as error:
            raise _disk_error(self.path, error) from error


def _disk_error(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"The store directory {path} cannot be used: {error}. Nothing was lost, Kafka holds "
        "the state. "
        "Check that the data directory exists, belongs to this user and has free space, then "
        "start the worker again."
    )
