"""Branches and marker rows of a files sink, as names in directories.

::

    prepared/<incarnation>/<commit epoch>     a prepared branch: its segment
    prepared/<incarnation>                    a *file* of that name: the incarnation is raised
    raised/<incarnation>.<token>/<epoch>      a branch that was prepared before the raise
    markers/<incarnation>/<commit epoch>      an empty file: this epoch is committed
    waiting/<incarnation>.<commit epoch>      committed rows that wait for a roll

No locks: one ``rename`` is the prepare, and one is the commit.

- The last step of a prepare moves the staged segment within ``prepared/<incarnation>/``. A raise
  moves that directory away and puts a file in its place. Whatever a stopped process does later, the
  move fails: there is no directory, and none can be made where a file lies.
- A commit makes the marker, then moves the segment to ``waiting``. Between the two the branch is
  still listed, so that whoever comes next completes it; after them the marker proves it. The
  highest marker is the row, and a marker is removed only after a higher one is on the disk. So
  whoever comes late may make a lower one again, and the row stays where it is.
- Branches move from ``prepared`` to ``raised`` and never back. Who looks in this order finds them.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from onceflow.errors import ParticipantUnavailable, Superseded
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.limits import FILES_MOVES_MAX
from onceflow.sinks.files_disk import (
    make_directory,
    opened_directory,
    remove,
    sync_directory,
    write_durably,
)
from onceflow.sinks.participant import FinishOutcome, MarkerRow, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_STAGED: Final = ".staging"
_WAITING: Final = re.compile(r"([A-Za-z0-9_-]+)\.([0-9]+)")


def branch_of_segment(name: str) -> BranchId | None:
    """Which branch a file in ``waiting`` came from; None for what is no segment."""
    found = _WAITING.fullmatch(name)
    if found is None:
        return None
    return BranchId(Incarnation(found[1]), CommitEpoch(int(found[2])))


class BranchStore:
    """The branches of one participant of one application.

    Args:
        root: directory of the participant; see the module's head for what lies in it.
    """

    def __init__(self, root: Path) -> None:
        self._prepared = root / "prepared"
        self._raised = root / "raised"
        self._markers = root / "markers"
        self.waiting = root / "waiting"
        self._begun: set[Incarnation] = set()
        self._marked: set[Incarnation] = set()

    def make(self) -> None:
        """Make the directories that are not there yet."""
        for path in (self._prepared, self._raised, self._markers, self.waiting):
            make_directory(path)

    def prepare(self, branch: BranchId, segment: Sequence[bytes]) -> None:
        """Store a branch durably, invisible to readers.

        Raises:
            Superseded: the incarnation is raised, or committed this epoch or a later one.
        """
        home = self._prepared / branch.incarnation
        marker = self._marker(branch.incarnation)
        if marker is not None and marker >= branch.commit_epoch:
            raise Superseded(
                f"commit epoch {branch.commit_epoch} cannot be prepared in {self._prepared}: epoch "
                f"{marker} of this incarnation is committed there. Nothing is lost; the worker "
                "starts again as another incarnation"
            )
        if branch.incarnation not in self._begun:
            # Once in a process's life. Made again after a raise it would undo the raise, were
            # there not a file in its place.
            with suppress(FileExistsError):
                home.mkdir()
            sync_directory(self._prepared)
            self._begun.add(branch.incarnation)
        staged = home / f"{branch.commit_epoch}{_STAGED}"
        try:
            with opened_directory(home) as descriptor:
                write_durably(staged, segment)
                staged.rename(home / str(branch.commit_epoch))
                # By the descriptor: a raise may move the directory just now, with the branch.
                os.fsync(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Superseded(
                f"this process was judged dead: its partitions belong to another one, which closed "
                f"{home} to it. Nothing of commit epoch {branch.commit_epoch} is stored; the "
                "worker starts again as another incarnation"
            ) from error

    def commit_branch(self, branch: BranchId) -> FinishOutcome:
        """Commit a branch: its rows wait for a roll from now on, whatever happens."""
        committed = self.waiting / f"{branch.incarnation}.{branch.commit_epoch}"
        for place in self._places(branch):
            if (self._marker(branch.incarnation) or 0) < branch.commit_epoch:
                self._mark(branch)
            try:
                with opened_directory(place.parent) as descriptor:
                    if place.stat().st_size == 0:
                        place.unlink()  # the marker row was all there was
                    else:
                        place.rename(committed)
                        sync_directory(self.waiting)
                    os.fsync(descriptor)
            except (FileNotFoundError, NotADirectoryError):
                continue  # another process finished it, or a raise moved it
            return FinishOutcome.DONE
        sync_directory(self.waiting)
        shown = self._marker(branch.incarnation) == branch.commit_epoch
        return FinishOutcome.DONE if shown else FinishOutcome.MISSING

    def roll_back(self, branch: BranchId) -> None:
        """Remove a branch; one that is not there is fine."""
        for place in self._places(branch):
            try:
                with opened_directory(place.parent) as descriptor:
                    place.unlink()
                    os.fsync(descriptor)
            except (FileNotFoundError, NotADirectoryError):
                continue

    def branches(self) -> list[BranchId]:
        """All prepared branches, in order."""
        found: set[BranchId] = set()
        # The second directory is read after all of the first one: branches move that way.
        for parent in (self._prepared, self._raised):
            for home in _entries(parent):
                incarnation = Incarnation(home.name.partition(".")[0])
                found.update(
                    BranchId(incarnation, CommitEpoch(int(entry.name)))
                    for entry in _entries(home)
                    if entry.name.isdecimal()
                )
        return sorted(found)

    def marker_row(self, incarnation: Incarnation) -> MarkerRow | None:
        """What is known of an incarnation."""
        commit_epoch = self._marker(incarnation)
        if self.is_raised(incarnation):
            return MarkerRow(CommitEpoch(commit_epoch or 0), Standing.RAISED)
        if commit_epoch is None:
            return None
        return MarkerRow(CommitEpoch(commit_epoch), Standing.ACTIVE)

    def is_raised(self, incarnation: Incarnation) -> bool:
        """Whether ``prepared`` is closed to an incarnation."""
        return (self._prepared / incarnation).is_file()

    def raise_marker(self, incarnation: Incarnation) -> None:
        """Close ``prepared`` to an incarnation for ever."""
        home = self._prepared / incarnation
        for _ in range(FILES_MOVES_MAX):
            try:
                os.close(os.open(home, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            except FileExistsError:
                target = self._raised / f"{incarnation}.{secrets.token_hex(4)}"
                try:
                    # The slash lets the move fail on a file, which has closed it already.
                    os.rename(f"{home}/", target)  # noqa: PTH104 - Path drops the slash
                except FileNotFoundError:
                    continue
                except NotADirectoryError:
                    break
            else:
                break
        else:
            raise ParticipantUnavailable(f"{home} could not be closed; other processes move it too")
        sync_directory(self._raised)
        sync_directory(self._prepared)
        self._sweep(incarnation)

    def _sweep(self, incarnation: Incarnation) -> None:
        """Remove what a raised incarnation staged and never prepared."""
        for home in self._raised.glob(f"{incarnation}.*"):
            for entry in _entries(home):
                if entry.name.endswith(_STAGED):
                    remove(entry)
            try:
                home.rmdir()
            except OSError:
                continue  # branches are left in it

    def _places(self, branch: BranchId) -> Iterator[Path]:
        """Give where a branch lies, again as long as it is somewhere."""
        name = str(branch.commit_epoch)
        for _ in range(FILES_MOVES_MAX):
            place = self._prepared / branch.incarnation / name
            if not place.is_file():
                found = list(self._raised.glob(f"{branch.incarnation}.*/{name}"))
                if not found:
                    return
                place = found[0]
            yield place
        raise ParticipantUnavailable(f"branch {name} in {self._prepared} does not stay in place")

    def _mark(self, branch: BranchId) -> None:
        """Let the marker row show a commit epoch, if it shows no later one."""
        home = self._markers / branch.incarnation
        if branch.incarnation not in self._marked:
            home.mkdir(exist_ok=True)
            # Also if it was there: who made it may have died before its name was on the disk.
            sync_directory(self._markers)
            self._marked.add(branch.incarnation)
        (home / str(branch.commit_epoch)).touch()
        sync_directory(home)
        for entry in _entries(home):
            if int(entry.name) < branch.commit_epoch:
                remove(entry)

    def _marker(self, incarnation: Incarnation) -> int | None:
        # There are a few names at most, which the system reads in one piece.
        found = _entries(self._markers / incarnation)
        return max((int(entry.name) for entry in found), default=None)


def _entries(directory: Path) -> list[Path]:
    """What lies in a directory; nothing if it is a file, or was moved away."""
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
