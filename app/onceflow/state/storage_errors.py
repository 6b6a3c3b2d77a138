"""What RocksDB's errors mean: the one place where rocksdict's exceptions become ours.

rocksdict raises bare ``Exception`` with the text of a RocksDB ``Status`` ("IO error: ...",
"Corruption: ..."), so the text decides. Every call into rocksdict that can fail stands in a
``try`` whose handler raises ``translate(...)``; nothing outside this room sees a rocksdict error.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from onceflow.errors import ConfigError, OnceflowError, StorageFailed, TaskCorrupted

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED = ("lock hold by current process", "While lock file")
_MISSING = "No such file or directory"


def translate(error: Exception, path: Path) -> Exception:
    """The error to raise instead of rocksdict's ``error`` about the store at ``path``.

    Also empties the frames that ``error`` has passed through: a cursor kept alive by a traceback
    would keep RocksDB's lock, and the store could not be opened again while the error is handled.

    Returns:
        ConfigError: the store is open elsewhere. TaskCorrupted: files are damaged or missing, wipe
        and restore. StorageFailed: the disk is full, read-only or broken. Anything that RocksDB did
        not say (a programming error, an interrupt) comes back as it is.
    """
    traceback.clear_frames(error.__traceback__)
    text = str(error)
    if isinstance(error, OnceflowError) or type(error) is not Exception:
        return error
    if any(mark in text for mark in _LOCKED):
        return locked(path, text)
    if text.startswith("IO error") and _MISSING not in text:
        return StorageFailed(
            f"The local store {path} cannot be read or written: {text}. Nothing is lost: it holds "
            "its last successful apply and Kafka the rest. Free space or mend the disk (check "
            "permissions, quotas, `df` and the limit of open files), then start the worker again; "
            "or delete the directory to have it rebuilt from the changelog."
        )
    return TaskCorrupted(
        f"The local store {path} is damaged: {text}. Its rows cannot be trusted, so it must be "
        "wiped and restored from the changelog, which holds everything. If this comes back, "
        "check the disk."
    )


def locked(path: Path, details: str) -> ConfigError:
    """The error for a store that another process (or another part of this one) has open."""
    return ConfigError(
        f"The local store {path} is open already, most likely in another process ({details}). Two "
        "workers with one data directory would overwrite each other's state, so this one stops; "
        "nothing was written. Give each worker a data directory of its own, or stop the other one."
    )
