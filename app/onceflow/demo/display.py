"""What a run shows while it works: a bar on a terminal, a line now and then elsewhere.

Rules of this file: everything here goes to standard error; the verdict alone is a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINES = 10
"""Lines that a whole run prints of its progress where no bar can be drawn."""


class Display:
    """Shows the steps of a run and the progress of its flights."""

    def __init__(self, flights: int) -> None:
        self._console = Console(stderr=True)
        self._flights = flights
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            refresh_per_second=4,
            disable=not self._console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._lines = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, step: str) -> None:
        """Say that a step begins, or that something has happened."""
        self._console.print(f"[dim]·[/dim] {step}", highlight=False)

    def show(self, done: int, note: str) -> None:
        """Show how many flights are committed, and a few words more."""
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = self._progress.add_task("flights", total=self._flights, note="")
            self._progress.update(self._bar, completed=done, note=note)
            return
        lines = _LINES * done // max(1, self._flights)
        if lines > self._lines:
            self._lines = lines
            self.tell(f"{done:,} of {self._flights:,} flights, {note}")

    def figures(self, figures: Mapping[str, str]) -> None:
        """Show the run's figures as a table, below the bar in its last state."""
        self._progress.stop()
        table = Table(show_header=False, box=None, padding=(0, 2))
        for name, value in figures.items():
            table.add_row(name, value)
        self._console.print(table)
