"""Groups few records by window and key, without Arrow; what ``grouping`` does for many.

What it decides: nothing of its own. Its groups are those that Arrow makes, number by number: sums
of floats are made in the order of the records, and of panes where windows hop. Only the order of
the keys within a window differs: here it is the one in which they were met, while Arrow's depends
on its hashes. Neither is promised to anybody.

Why: a call into Arrow costs some 5 us whatever its size, and a fold makes a hundred of them. An
epoch of 20 ms has some fifty records of a partition, which are folded here in a fifth of the time.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

from onceflow.columns.merging import Windows, runs_of, store_keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from onceflow.columns.grouping import Panes
    from onceflow.columns.reading import Chunk
    from onceflow.columns.rows import Kind

_Place: TypeAlias = tuple[int, bytes]
"""Start of a pane or window, and key."""


def _added(numbers: Sequence[Any]) -> Any:
    """Add up in order; the built-in ``sum`` rounds floats otherwise since Python 3.12."""
    return reduce(operator.add, numbers, 0)


_REDUCE: dict[str, Callable[[Sequence[Any]], Any]] = {"sum": _added, "min": min, "max": max}


def few_windows(
    kind: Kind, chunks: Sequence[Chunk], panes: Panes, numbers: tuple[str, ...]
) -> Windows[list[Any]]:
    """Group records into windows.

    Args:
        kind: of the records.
        chunks: their columns, as lists; at least one record.
        panes: how event time is cut.
        numbers: which of ``sum``, ``min``, ``max`` are wanted.
    """
    step_ms = panes.step_ms
    places = [
        (at_ms - at_ms % step_ms, key)
        for chunk in chunks
        for at_ms, key in zip(chunk.timestamps_ms, chunk.keys, strict=True)
    ]
    values = [value for chunk in chunks if chunk.values is not None for value in chunk.values]
    # Where nothing but the count is wanted, anything can be counted.
    groups = _gathered(places, values or places)
    members = list(groups.values())
    columns = {
        "count": list(map(len, members)),
        **{name: list(map(_REDUCE[name], members)) for name in numbers},
    }
    windows = list(groups)
    if panes.size_ms != step_ms:
        windows, columns = _spread(windows, columns, panes)
    if any(start_ms != windows[0][0] for start_ms, _ in windows):
        order = sorted(range(len(windows)), key=lambda index: windows[index][0])
        windows = [windows[index] for index in order]
        columns = {name: [column[index] for index in order] for name, column in columns.items()}
    runs = runs_of(start_ms for start_ms, _ in windows)
    keys = [key for _, key in windows]
    return Windows(
        kind, runs, keys, store_keys_of(runs, keys), columns.pop("count"), numbers=columns
    )


def _spread(
    groups: list[_Place], columns: dict[str, list[Any]], panes: Panes
) -> tuple[list[_Place], dict[str, list[Any]]]:
    """Turn groups of panes into groups of the windows that contain them."""
    backs_ms = range(0, panes.size_ms, panes.step_ms)
    places = [(start_ms - back_ms, key) for back_ms in backs_ms for start_ms, key in groups]
    spread = {
        name: list(
            map(
                _added if name == "count" else _REDUCE[name],
                _gathered(places, column * len(backs_ms)).values(),
            )
        )
        for name, column in columns.items()
    }
    return list(dict.fromkeys(places)), spread


def _gathered(places: Iterable[_Place], entries: Iterable[Any]) -> dict[_Place, list[Any]]:
    """Give the entries of each place, both in the order in which they come."""
    gathered: defaultdict[_Place, list[Any]] = defaultdict(list)
    for place, entry in zip(places, entries, strict=True):
        gathered[place].append(entry)
    return gathered
