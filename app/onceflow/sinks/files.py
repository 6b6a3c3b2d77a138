"""Rows in files: JSON lines or Parquet, exactly once, also through crashes and takeovers.

What it decides: the sink's settings, and how the participant's protocol becomes operations on
branches (``files_branches``) and rolls (``files_roll``). A committed row is safe at once and
becomes visible when its file is rolled; a file, once visible, is whole and never changes. Hidden
files lie below ``.onceflow`` in the same directory, because only moves within one file system are
atomic.

Must never import Faust or Kafka.
"""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onceflow.columns.parquetrows import schema_of
from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    ParticipantUnavailable,
    Unreachable,
)
from onceflow.limits import FILES_LOOK_S
from onceflow.sinks.files_branches import BranchStore
from onceflow.sinks.files_format import JsonFormat, ParquetFormat, Part, RowFormat
from onceflow.sinks.files_place import Location, Place, host_identity, settle
from onceflow.sinks.files_roll import Roller, RollLimits
from onceflow.sinks.files_segment import segment_chunks
from onceflow.sinks.gid import checked_name, derived_name
from onceflow.sinks.participant import EncodedRows, FinishOutcome, MarkerRow, Participant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow.ids import BranchId, Incarnation
    from onceflow.sinks.gid import Scope

_FORMATS: Final = ("json", "parquet")


class Files(Participant):
    """A two-phase sink that appends rows to files of a directory.

    Args:
        directory: where the files go; made if it does not exist. All workers must see it.
        format: ``json`` (one object per line) or ``parquet``.
        schema: columns of Parquet: a ``pyarrow.Schema``, a record class, or a mapping of names to
            types. JSON takes none.
        partition_by: column whose value names a directory below, as ``column=value``.
        roll_rows: a file is made when so many rows wait for one directory,
        roll_bytes: or so many bytes, before compression,
        roll_interval_s: or rows have waited so long; 0 makes files at each commit.
        location: ``shared``, or ``local`` if all workers run on one host, to which the directory
            is then bound.
        name: of the participant; by default made of the directory's last name and the format.
            The names of files begin with it, so several sinks may share a directory.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(  # noqa: PLR0913 - the settings of a sink, all but the first by name
        self,
        directory: str | Path,
        *,
        format: str = "json",  # noqa: A002 - what users call it
        schema: object = None,
        partition_by: str | None = None,
        roll_rows: int = 1_000_000,
        roll_bytes: int = 128 * 1024 * 1024,
        roll_interval_s: float = 60.0,
        location: str = Location.SHARED,
        name: str | None = None,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._format = _format(format, schema, partition_by)
        if roll_rows < 1 or roll_bytes < 1 or roll_interval_s < 0:
            raise ConfigError(
                "roll_rows and roll_bytes must be at least 1, and roll_interval_s not negative: "
                f"they are {roll_rows}, {roll_bytes} and {roll_interval_s}"
            )
        if location not in set(Location):
            raise ConfigError(f'location={location!r} is neither "shared" nor "local"')
        self._limits = RollLimits(roll_rows, roll_bytes, roll_interval_s)
        self._location = Location(location)
        default = derived_name("files", self._directory.name, format)
        self.name = default if name is None else checked_name(name)
        if self.name.startswith("_"):
            raise ConfigError(
                f"the name {self.name!r} begins with an underscore, and so would the names of its "
                "files, which readers skip then; use another one"
            )
        self._opened: _Opened | None = None

    @property
    def place(self) -> Place:
        """What is known of the directory since ``open``; two that are equal are one directory."""
        return self._now_open().place

    def encode(self, value: object) -> EncodedRows:
        """Turn a dict, a record, a list of them, or an Arrow table into rows."""
        parts = self._format.parts(value)
        return EncodedRows(
            sum(part.rows for part in parts.values()),
            sum(part.size_bytes for part in parts.values()),
            parts,
        )

    def open(self, scope: Scope) -> None:
        """Check the directory, and begin to roll what waits in it."""
        if self._opened is not None:
            self._opened.start()
            return
        place = settle(self._directory, self._location, host_identity())
        root = self._directory / ".onceflow" / scope.scope / self.name
        branches = BranchStore(root)
        roller = Roller(
            self._directory, root, self._limits, secrets.token_hex(8), branches, self.name
        )
        try:
            branches.make()
            roller.make()
        except OSError as error:
            raise Unreachable(
                f"{root} cannot be made: {error}. Nothing was consumed or written; mend it, then "
                "start again"
            ) from error
        self._opened = _Opened(place, branches, roller)
        self._opened.start()

    def prepare(self, branch: BranchId, rows: Sequence[EncodedRows]) -> None:
        """Store the rows durably, invisible to readers."""
        opened = self._now_open()
        opened.raise_trouble()
        opened.roller.adopt(branch.incarnation)
        merged: dict[str, Part] = {}
        for encoded in rows:
            for directory, part in encoded.payload.items():
                whole = merged.setdefault(directory, Part())
                whole.add(part.rows, part.size_bytes, part.pieces)
        packed = {directory: self._format.pack(part) for directory, part in merged.items()}
        try:
            opened.branches.prepare(branch, segment_chunks(self._format.kind, packed))
        except OSError as error:
            raise self._unavailable("prepared", error) from error

    def commit(self, branch: BranchId) -> FinishOutcome:
        """Commit a branch; with ``roll_interval_s=0`` its files are visible at return."""
        opened = self._now_open()
        try:
            outcome = opened.branches.commit_branch(branch)
            if self._limits.interval_s == 0:
                opened.roller.adopt(branch.incarnation)
                opened.roller.roll_own()
        except OSError as error:
            raise self._unavailable("committed", error) from error
        return outcome

    def roll_back(self, branch: BranchId) -> None:
        """Remove a branch."""
        try:
            self._now_open().branches.roll_back(branch)
        except OSError as error:
            raise self._unavailable("rolled back", error) from error

    def branches(self) -> list[BranchId]:
        """List the prepared branches."""
        try:
            return self._now_open().branches.branches()
        except OSError as error:
            raise self._unavailable("listed", error) from error

    def marker_row(self, incarnation: Incarnation) -> MarkerRow | None:
        """Read what is known of an incarnation."""
        try:
            return self._now_open().branches.marker_row(incarnation)
        except OSError as error:
            raise self._unavailable("looked up", error) from error

    def raise_marker(self, incarnation: Incarnation) -> None:
        """Close the sink to an incarnation; its waiting rows are rolled as our own then."""
        try:
            self._now_open().branches.raise_marker(incarnation)
        except OSError as error:
            raise self._unavailable("closed to an incarnation", error) from error

    def close(self) -> None:
        """Make files of the rows that wait, and stop making more by the clock."""
        if self._opened is not None:
            self._opened.stop()

    def _now_open(self) -> _Opened:
        if self._opened is None:
            raise ConfigError(
                f"the files sink {self.name} was used before it was opened. Give it to an agent "
                f"(sink=[...]), or call open() first"
            )
        return self._opened

    def _unavailable(self, what: str, error: OSError) -> ParticipantUnavailable:
        return ParticipantUnavailable(
            f"a branch in {self._directory} could not be {what}: {error}. It is tried again; "
            "nothing is lost. Mend the file system, or make room on it"
        )


class _Opened:
    """What a files sink has while it is open, with the thread that rolls."""

    def __init__(self, place: Place, branches: BranchStore, roller: Roller) -> None:
        self.place = place
        self.branches = branches
        self.roller = roller
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._trouble: Exception | None = None

    def start(self) -> None:
        """Begin to roll by the clock, if that is not so yet."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="onceflow-files", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(FILES_LOOK_S):
            try:
                self.roller.turn(datetime.now(UTC).timestamp())
            except Exception as error:  # noqa: BLE001 - the next prepare raises it
                self._trouble = error
            else:
                self._trouble = None

    def raise_trouble(self) -> None:
        """Take no more rows while those that are committed cannot become files.

        Raises:
            ParticipantUnavailable: the file system refuses.
            DataAtRisk: a segment is damaged. Any other error is a bug; both end the worker.
        """
        trouble = self._trouble
        if isinstance(trouble, OSError):
            raise ParticipantUnavailable(
                f"committed rows cannot become files: {trouble}. They are safe and wait; no more "
                "are taken until it works again"
            ) from trouble
        if trouble is not None:
            raise trouble

    def stop(self) -> None:
        """Stop rolling, after what waits was rolled as far as the file system lets us."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        try:
            self.roller.roll_own()
        except (OSError, DataAtRisk):
            return  # the rows are committed and wait; the next worker finds them


def _format(kind: str, schema: object, partition_by: str | None) -> RowFormat:
    if partition_by is not None and (not partition_by or partition_by[0] in "._"):
        raise ConfigError(f"partition_by={partition_by!r}: readers skip such directories")
    if kind == "json" and schema is None:
        return JsonFormat(partition_by)
    if kind == "parquet" and schema is not None:
        return ParquetFormat(schema_of(schema), partition_by)
    if kind not in _FORMATS:
        raise ConfigError(f"format={kind!r} is none of {', '.join(_FORMATS)}")
    raise ConfigError(
        'format="parquet" needs a schema=, so that all files have the same columns, and '
        'format="json" takes none'
    )
