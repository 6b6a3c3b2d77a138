"""A directory in memory that behaves like a disk in a crash: what was not synced may be lost.

``crash`` keeps of each un-synced write any of its sectors, in no particular order, and of the
un-synced creations, renames and removals any prefix; the caller's seed decides.
``fail_next`` lets an operation fail. A sync that fails has lost what it should have written, as
with a kernel that drops the pages: the file reads as before, and a second sync makes nothing of it
durable. ``cut_power_after`` ends everything at a later operation, which is not performed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow_consensus.errors import StorageFailed

if TYPE_CHECKING:
    from random import Random

SECTOR_BYTES = 512
_KEPT_SHARE = 0.5


class PowerCutError(Exception):
    """The machine stopped in the middle of an operation. Reaction: ``crash``, then start anew."""


@dataclass(slots=True)
class _File:
    """A file as it is read, as it is durable, and the writes between the two."""

    content: bytearray
    durable: bytearray
    unsynced: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])


class MemoryDisk:
    """A ``Disk`` whose crashes are decided by the caller."""

    def __init__(
        self, files: dict[str, bytes] | None = None, sector_bytes: int = SECTOR_BYTES
    ) -> None:
        self._files = {
            name: _File(bytearray(content), bytearray(content))
            for name, content in (files or {}).items()
        }
        self._durable_names = dict(self._files)
        # The directory after each change of a name that is not durable.
        self._later_names: list[dict[str, _File]] = []
        self._sector_bytes = sector_bytes
        self.sync_count = 0
        self.fail_next: str | None = None
        self.cut_power_after: int | None = None

    def names(self) -> list[str]:
        """See ``Disk``."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """See ``Disk``."""
        self._may_fail("read")
        return bytes(self._files[name].content)

    def create(self, name: str, allocated_bytes: int) -> None:
        """See ``Disk``."""
        self._may_fail("create")
        self._files[name] = _File(bytearray(allocated_bytes), bytearray(allocated_bytes))
        self._later_names.append(dict(self._files))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """See ``Disk``."""
        self._may_fail("write")
        file = self._files[name]
        _put(file.content, offset, data)
        file.unsynced.append((offset, data))

    def sync(self, name: str) -> None:
        """See ``Disk``."""
        file = self._files[name]
        if self.fail_next == "sync":
            file.unsynced = []
        self._may_fail("sync")
        self.sync_count += 1
        for offset, data in file.unsynced:
            _put(file.durable, offset, data)
        file.unsynced = []

    def rename(self, old: str, new: str) -> None:
        """See ``Disk``."""
        self._may_fail("rename")
        self._files[new] = self._files.pop(old)
        self._later_names.append(dict(self._files))

    def remove(self, name: str) -> None:
        """See ``Disk``."""
        self._may_fail("remove")
        self._files.pop(name, None)
        self._later_names.append(dict(self._files))

    def sync_directory(self) -> None:
        """See ``Disk``."""
        self._may_fail("sync_directory")
        self._durable_names = dict(self._files)
        self._later_names = []

    def close(self) -> None:
        """See ``Disk``."""

    def damage(self, name: str, offset: int) -> None:
        """Flip the bits of a byte on the disk."""
        file = self._files[name]
        file.content[offset] ^= 0xFF
        file.durable = bytearray(file.content)

    def crash(self, choice: Random) -> MemoryDisk:
        """Return the disk as it is found after a crash."""
        kept = choice.randint(0, len(self._later_names))
        names = self._later_names[kept - 1] if kept else self._durable_names
        size = self._sector_bytes
        kept_files = {name: _survivor(file, size, choice) for name, file in names.items()}
        return MemoryDisk(kept_files, size)

    def _may_fail(self, operation: str) -> None:
        if self.cut_power_after is not None:
            if self.cut_power_after == 0:
                raise PowerCutError(f"the power is cut before {operation}")
            self.cut_power_after -= 1
        if self.fail_next == operation:
            raise StorageFailed(f"the test lets {operation} fail")


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _survivor(file: _File, sector_bytes: int, choice: Random) -> bytes:
    survived = bytearray(file.durable)
    for offset, data in file.unsynced:
        start, end = offset, offset + len(data)
        while start < end:
            stop = min(end, (start // sector_bytes + 1) * sector_bytes)
            if choice.random() < _KEPT_SHARE:
                _put(survived, start, data[start - offset : stop - offset])
            start = stop
    return bytes(survived)
