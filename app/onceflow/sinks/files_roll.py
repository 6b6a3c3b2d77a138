"""Rolls: waiting segments become files that readers see.

::

    waiting/<incarnation>.<commit epoch>    committed rows
    rolling/<roll>/<segment>                rows that one roller has claimed
    rolling/<roll>/<n>.<roll>.out           a file in the making
    rolling/<roll>/manifest                 these segments are in these files, which are whole

No locks: claiming a segment is a ``rename``, so that each is in one roll only. Until the manifest
is there nothing is visible, and a roll can be made again from its segments; from then on its files
are moved to their places, each by one ``rename`` that nobody can repeat, the segments that it names
are removed, then the manifest.

Who makes a roll touches its directory as long as it goes on. One that lies still, because its
worker died, is taken by renaming its directory; what a stopped roller does later finds nothing
under the old name. Only a claim that was under way just then, perhaps at a file server that did not
answer, may still arrive: such a segment is in no file, and goes back to those that wait.

The name of a file tells the sink, which other sinks in the same directory do not share, and the
incarnation and commit epoch of its first rows. It begins with the sink's name, because
incarnations may begin with an underscore, and readers skip such files.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from onceflow.errors import DataAtRisk
from onceflow.limits import FILES_ADOPT_S, FILES_LOOK_S
from onceflow.sinks.files_branches import BranchStore, branch_of_segment
from onceflow.sinks.files_disk import (
    make_directory,
    opened_directory,
    remove,
    replace_durably,
    sync_directory,
)
from onceflow.sinks.files_format import suffix_of, writer_of
from onceflow.sinks.files_segment import Footer, Piece, pieces_of, read_footer, read_piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from onceflow.ids import BranchId, Incarnation

_MANIFEST: Final = "manifest"


class _Made(msgspec.Struct, frozen=True, array_like=True):
    """A file of a roll: its name in the roll, its directory and its name for readers."""

    output: str
    directory: str
    name: str


class _Manifest(msgspec.Struct, frozen=True):
    """What became of a roll: these segments are in these files, and no other one is."""

    segments: list[str]
    files: list[_Made]


@dataclass(frozen=True, slots=True)
class RollLimits:
    """When rows become files: whichever is reached first."""

    rows: int
    """Of one directory."""
    size_bytes: int
    """Of one directory, before compression."""
    interval_s: float
    """Since the first row that waits."""


class Roller:
    """Makes files of committed segments.

    Args:
        directory: where readers look.
        root: directory of the participant.
        limits: when to roll.
        token: of this process, used by no other.
        branches: in ``root``.
        name: of the participant; the names of its files begin with it.
    """

    def __init__(
        self,
        directory: Path,
        root: Path,
        limits: RollLimits,
        token: str,
        branches: BranchStore,
        name: str,
    ) -> None:
        self._directory = directory
        self._name = name
        self._branches = branches
        self._waiting = branches.waiting
        self._rolling = root / "rolling"
        self._limits = limits
        self._token = token
        self._rolls = 0
        self._own: frozenset[Incarnation] = frozenset()
        self._open: set[str] = set()
        self._since_s: dict[str, float] = {}
        self._touched_ns: dict[str, int] = {}
        self._life_s = 0.0
        self._footers: dict[str, Footer] = {}
        self._lock = threading.Lock()

    def make(self) -> None:
        """Make the directory of rolls."""
        make_directory(self._rolling)

    def adopt(self, incarnation: Incarnation) -> None:
        """Roll the rows of an incarnation from now on: ours. Those that are raised are as well."""
        # Without the lock: a roll may take seconds, and a prepare must not wait for it.
        self._own |= {incarnation}

    def turn(self, now_s: float) -> None:
        """Roll what is due.

        Args:
            now_s: seconds since 1970.

        Raises:
            OSError: tried again at the next turn.
            DataAtRisk: a segment is damaged.
        """
        with self._lock:
            self._resume()
            rolls = {entry.name for entry in self._rolling.iterdir()}
            segments = _segments_in(self._waiting)
            self._remember(rolls, segments, now_s)
            late_s = now_s - FILES_ADOPT_S
            for name in sorted(rolls):
                if self._since_s[name] <= late_s:
                    self._take_over(name)
            own = self._ours(segments)
            aged = {
                name
                for name in segments - own
                if self._since_s[name] <= late_s - self._limits.interval_s
            }
            if self._is_due(own, now_s):
                self._roll(own)
            self._roll(aged)

    def roll_own(self) -> None:
        """Roll all rows of ours that wait, due or not."""
        with self._lock:
            self._resume()
            self._roll(self._ours(_segments_in(self._waiting)))

    def _resume(self) -> None:
        """Bring rolls to their end that an error interrupted."""
        for name in sorted(self._open):
            self._finish(self._rolling / name)

    def _ours(self, segments: set[str]) -> set[str]:
        """Those of our own incarnation and of all that are raised, which will never roll them."""
        ended = {_branch(name).incarnation for name in segments} - self._own
        self._own |= {each for each in ended if self._branches.is_raised(each)}
        return {name for name in segments if _branch(name).incarnation in self._own}

    def _remember(self, rolls: set[str], segments: set[str], now_s: float) -> None:
        """Note since when a roll has lain still, and since when a segment has waited."""
        touched_ns = self._touches(rolls)
        rolls.intersection_update(touched_ns)
        since_s = {
            name: self._since_s[name] if self._touched_ns.get(name) == at_ns else now_s
            for name, at_ns in touched_ns.items()
        }
        self._touched_ns = touched_ns
        for name in segments:
            try:
                # Its own time outlives workers; another host's clock may be ahead of ours.
                written_s = (self._waiting / name).stat().st_mtime
            except FileNotFoundError:
                continue
            since_s[name] = min(written_s, self._since_s.get(name, now_s))
        segments.intersection_update(since_s)
        self._since_s = since_s
        self._footers = {name: foot for name, foot in self._footers.items() if name in segments}

    def _touches(self, rolls: set[str]) -> dict[str, int]:
        """Give when each roll was touched, by a clock that is only compared with itself."""
        touched_ns: dict[str, int] = {}
        for name in rolls:
            try:
                # Opened, because a network file system may answer from its memory otherwise.
                with opened_directory(self._rolling / name) as descriptor:
                    touched_ns[name] = os.fstat(descriptor).st_mtime_ns
            except FileNotFoundError:
                continue  # finished, or taken by another one
        return touched_ns

    def _is_due(self, names: set[str], now_s: float) -> bool:
        rows: dict[str, int] = {}
        size_bytes: dict[str, int] = {}
        for name in names:
            if now_s - self._since_s[name] >= self._limits.interval_s:
                return True
            if name not in self._footers:
                try:
                    self._footers[name] = read_footer(self._waiting / name)
                except FileNotFoundError:
                    continue  # another roller has it
            for section in self._footers[name].sections:
                at = section.directory
                rows[at] = rows.get(at, 0) + section.rows
                size_bytes[at] = size_bytes.get(at, 0) + section.size_bytes
        return any(count >= self._limits.rows for count in rows.values()) or any(
            size >= self._limits.size_bytes for size in size_bytes.values()
        )

    def _next_home(self) -> Path:
        self._rolls += 1
        home = self._rolling / f"{self._token}.{self._rolls}"
        self._open.add(home.name)
        return home

    def _roll(self, names: Iterable[str]) -> None:
        """Claim segments and make files of those that nobody else claimed."""
        ordered = sorted(names, key=_branch)
        if not ordered:
            return
        home = self._next_home()
        home.mkdir()
        sync_directory(self._rolling)
        for name in ordered:
            try:
                (self._waiting / name).rename(home / name)
            except FileNotFoundError:
                continue  # another roller has it
        self._finish(home)

    def _take_over(self, name: str) -> None:
        home = self._next_home()
        try:
            (self._rolling / name).rename(home)
        except FileNotFoundError:
            self._open.discard(home.name)
            return  # finished, or taken by another one
        sync_directory(self._rolling)
        self._finish(home)

    def _finish(self, home: Path) -> None:
        """Bring a roll to its end from wherever it stands; nothing if it is no longer ours."""
        try:
            self._finish_ours(home)
        except FileNotFoundError:
            if home.exists():
                raise
        self._open.discard(home.name)

    def _finish_ours(self, home: Path) -> None:
        manifest = home / _MANIFEST
        names = sorted(_segments_in(home), key=_branch)
        # No segment that is published from here may be found in ``waiting`` after a power failure.
        sync_directory(home)
        sync_directory(self._waiting)
        if not manifest.exists():
            self._make_manifest(home, names)
        roll = msgspec.json.decode(manifest.read_bytes(), type=_Manifest)
        for made in roll.files:
            self._publish(home, made)
        for name in roll.segments:
            remove(home / name)
        sync_directory(home)
        for name in _segments_in(home):
            (home / name).rename(self._waiting / name)
            sync_directory(self._waiting)
            sync_directory(home)
        # The manifest goes after the segments: without it they would be made into files again. One
        # that arrives from here on keeps the directory, and is a roll of its own at the next turn.
        for left in list(home.iterdir()):
            if left != manifest and branch_of_segment(left.name) is None:
                remove(left)
        manifest.unlink()
        home.rmdir()
        sync_directory(self._rolling)

    def _make_manifest(self, home: Path, names: list[str]) -> None:
        """Make the files of a roll and say so, if nobody has said so before."""
        # The last one who had this roll may have been about to give its manifest that name. Without
        # this file it cannot, and without that manifest nobody misses its files.
        for left in home.glob(f".{_MANIFEST}.*"):
            remove(left)
        if (home / _MANIFEST).exists():
            return
        # Each who dies over a roll leaves such files, which would fill the disk with time.
        for left in home.glob("*.out"):
            remove(left)
        whole = _Manifest(names, self._build(home, names))
        replace_durably(home / _MANIFEST, msgspec.json.encode(whole))

    def _build(self, home: Path, names: list[str]) -> list[_Made]:
        """Make the files of a roll; they are whole and on the disk at return."""
        # Each footer is read once: with many directories they are most of what there is to read.
        files: dict[tuple[str, str], list[tuple[str, Piece]]] = {}
        for name in names:
            self._show_life(home)
            footer = read_footer(home / name)
            for piece in pieces_of(footer):
                files.setdefault((piece.section.directory, footer.kind), []).append((name, piece))
        made: list[_Made] = []
        for number, ((directory, kind), members) in enumerate(files.items()):
            output = f"{number}.{home.name}.out"
            first = _branch(members[0][0])
            with (home / output).open("wb") as file:
                writer_of(kind)(self._packed(home, members), file)
                file.flush()
                os.fsync(file.fileno())
            rows_from = f"{first.incarnation}-{first.commit_epoch:012d}"
            public = f"{self._name}-{rows_from}-{number}{suffix_of(kind)}"
            made.append(_Made(output, directory, public))
        return made

    def _packed(self, home: Path, members: Iterable[tuple[str, Piece]]) -> Iterator[bytes]:
        for name, piece in members:
            self._show_life(home)
            yield read_piece(home / name, piece)

    def _show_life(self, home: Path) -> None:
        """Keep others from taking a roll that takes long; ends it if one has taken it.

        Raises:
            FileNotFoundError: it is no longer ours.
        """
        at_s = time.monotonic()
        if at_s - self._life_s >= FILES_LOOK_S:
            os.utime(home)
            self._life_s = at_s

    def _publish(self, home: Path, made: _Made) -> None:
        target = self._directory / made.directory
        output = home / made.output
        if not output.exists():
            return  # it was moved to its place before; readers may have taken it away since
        make_directory(target)
        output.rename(target / made.name)
        sync_directory(target)


def _segments_in(directory: Path) -> set[str]:
    names = {entry.name for entry in directory.iterdir()}
    return {name for name in names if branch_of_segment(name) is not None}


def _branch(name: str) -> BranchId:
    branch = branch_of_segment(name)
    if branch is None:
        raise DataAtRisk(f"{name!r} names no segment")
    return branch
