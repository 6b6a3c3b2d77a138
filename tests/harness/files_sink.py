"""Reads what a files sink shows, and kills processes at each of its calls of the operating system.

``crash_runs`` forks one process per call: the child works on its sink until its n-th call that
changes the disk, and there kills itself with SIGKILL, before the call or half-way through a write.
What the child has said on its pipe by then is what a coordinator would know.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import signal
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks.gid import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onceflow.sinks.files import Files

SCOPE = Scope.of("cluster", "app")


def branch(incarnation: str, commit_epoch: int) -> BranchId:
    return BranchId(Incarnation(incarnation), CommitEpoch(commit_epoch))


def visible_files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and ".onceflow" not in path.relative_to(directory).parts
    )


def visible_rows(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of all JSON files, in the order of the files' names."""
    return [
        json.loads(line)
        for path in visible_files(directory)
        for line in path.read_text("utf-8").splitlines()
    ]


def hidden(directory: pathlib.Path, sink: Files) -> pathlib.Path:
    return directory / ".onceflow" / SCOPE.scope / sink.name


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Moment(StrEnum):
    BEFORE = "before"
    """Before the n-th call that changes the disk; the one before it is done then."""
    TORN = "torn"
    """When half of the n-th write is done."""


class Counter:
    """Counts calls, and kills the process at one of them."""

    def __init__(self, call: int, moment: Moment) -> None:
        self.left = call
        self.moment = moment

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self.moment is Moment.BEFORE:
                self.left -= 1
            if self.left == 0:
                kill_self()
            return function(*args, **options)

        return counted


class KilledWriter(io.BufferedWriter):
    """A file whose writes count as calls."""

    counter: Counter

    def writelines(self, lines: Any) -> None:
        data = b"".join(lines)
        self.counter.left -= 1
        if self.counter.left == 0:
            if self.counter.moment is Moment.TORN:
                self.write(data[: len(data) // 2])
                self.flush()
            kill_self()
        self.write(data)


def _count_calls(call: int, moment: Moment) -> None:
    counter = Counter(call, moment)
    # pathlib calls these; what is killed has its writes kept by the system, synced or not.
    os.fsync = counter.around(lambda _: None)
    for name in ("rename", "link", "mkdir", "rmdir", "unlink"):
        setattr(os, name, counter.around(getattr(os, name)))
    opened = pathlib.Path.open

    def open_counted(path: pathlib.Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "wb":
            return opened(path, mode, *args, **options)
        writer = KilledWriter(io.FileIO(path, "wb"))
        writer.counter = counter
        return writer

    pathlib.Path.open = open_counted  # type: ignore[method-assign]


def _say(writing: int, said: str) -> None:
    os.write(writing, said.encode() + b"\n")


def crash_runs(
    work: Callable[[Callable[[str], None]], None], moment: Moment, stride: int = 1
) -> Iterator[list[str]]:
    """Run ``work`` in processes that die at their first, second, ... call.

    Args:
        work: is given a function by which it says what has happened.
        moment: at which they die there.
        stride: they die at every n-th call only.

    Yields:
        What the process said until it died; after the run that came to its end, nothing more.
    """
    for call in itertools.count(stride, stride):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):  # the code tells the parent
                os.close(reading)
                _count_calls(call, moment)
                work(partial(_say, writing))
                os._exit(0)
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as said:
            lines = said.read().splitlines()
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"the child failed at call {call}"
            yield lines
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield lines
