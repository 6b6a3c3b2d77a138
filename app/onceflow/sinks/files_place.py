"""Where a files sink's directory is: shared by all workers, or bound to one host.

Branches of a worker that died are finished by another one, which must see them. So a directory is
declared ``shared``, or ``local`` and then bound to the host that used it first; a file in it says
which. Whether the workers of two hosts see the same directory cannot be told from inside it; its
``identity`` is there to be compared by who knows all workers. Were it not the same, the next owner
would find neither branch nor marker of the last one, and stop before it processes anything.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import os
import secrets
import socket
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from onceflow.errors import ConfigError, Unreachable
from onceflow.sinks.files_disk import make_directory, remove, replace_durably, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

_MACHINE_ID: Final = Path("/etc/machine-id")


class Location(StrEnum):
    """Which workers see a directory."""

    SHARED = "shared"
    """All workers, on whatever hosts: a network file system, or one host only."""
    LOCAL = "local"
    """The workers of one host; a worker of another one is refused."""


class Place(msgspec.Struct, frozen=True):
    """What is known of a directory.

    Attributes:
        identity: random, made with the directory.
        location: as its first user declared it.
        host: to which a local directory is bound.
    """

    identity: str
    location: Location
    host: str


def host_identity() -> str:
    """Give what tells this host from others: its machine id, or its name if it has none."""
    try:
        return _MACHINE_ID.read_text(encoding="ascii").strip() or socket.gethostname()
    except FileNotFoundError:
        return socket.gethostname()


def settle(directory: Path, location: Location, host: str) -> Place:
    """Check that a directory can be used as declared, and note who uses it.

    Args:
        directory: of the sink; made if it does not exist.
        location: as declared.
        host: this one.

    Raises:
        ConfigError: it cannot be written, lacks an operation, or is bound to another host.
        Unreachable: its file system does not work just now.
    """
    hidden = directory / ".onceflow"
    try:
        make_directory(hidden)
        for _ in _probe(hidden):
            pass
        place = _noted(hidden / "place.json", Place(secrets.token_hex(8), location, host))
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError(
            f"the directory {directory} cannot be used by a files sink: {error}. Nothing was "
            "consumed or written; let this user write in it, or name another one"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"the file system of {directory} does not work: {error}. Nothing was consumed or "
            "written; mend it, then start again"
        ) from error
    if place.location is Location.LOCAL and location is Location.SHARED:
        shared = msgspec.structs.replace(place, location=Location.SHARED)
        replace_durably(hidden / "place.json", msgspec.json.encode(shared))
        return shared
    if place.location is not location:
        raise ConfigError(
            f"the directory {directory} is declared local here and was used as a shared one. "
            'Nothing was consumed or written; declare location="shared", or, if all workers are '
            f"on this host for good, remove {hidden / 'place.json'}"
        )
    if location is Location.LOCAL and place.host != host:
        raise ConfigError(
            f"the directory {directory} is declared local and belongs to the host {place.host}; "
            f"this is {host}. Nothing was consumed or written, and rows prepared there are safe. "
            f'Run all workers on that host, or declare location="shared" if every worker sees '
            "this very directory"
        )
    return place


def _probe(hidden: Path) -> Iterator[str]:
    """Try what the sink needs: a synced file, a move of a directory, and one that must fail."""
    token = secrets.token_hex(8)
    before, after = hidden / f"probe.{token}", hidden / f"probe.{token}.moved"
    before.mkdir()
    try:
        replace_durably(before / "file", b"probe")
        yield "written"
        before.rename(after)
        sync_directory(hidden)
        yield "moved"
        if (after / "file").read_bytes() != b"probe" or before.exists():
            raise ConfigError(
                f"the file system of {hidden} does not move a directory in one step, which the "
                "safety of a files sink rests on; use another one"
            )
    finally:
        for directory in (before, after):
            remove(directory / "file")
            if directory.exists():
                directory.rmdir()


def _noted(path: Path, ours: Place) -> Place:
    """Give the place as it is noted; ours is noted if there was none."""
    temporary = path.with_name(f".{path.name}.{ours.identity}")
    replace_durably(temporary, msgspec.json.encode(ours))
    try:
        # A link, unlike a move, does not replace what another worker noted meanwhile.
        os.link(temporary, path)
        sync_directory(path.parent)
    except FileExistsError:
        pass
    finally:
        remove(temporary)
    return msgspec.json.decode(path.read_bytes(), type=Place)
