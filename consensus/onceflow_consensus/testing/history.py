"""Recorded histories: what clients asked a replicated store for, and what they were told.

A history is a file of JSON lines ``{process, type, op, key, value, time}``:

- ``type``: ``invoke`` begins an operation, ``ok`` ends it with success, ``fail`` says that it had
  no effect and never will, ``info`` that nobody knows: it may take effect at any later time, or
  never. An operation without an end counts as ``info``.
- ``op``: ``read``, ``write`` or ``cas``. The value of a write is what it writes; that of a ``cas``
  is ``[expected, new]``; that of a read stands where it ends. What was never written is null.
- ``time`` orders the lines; lines of equal time are in the file's order. Further fields are kept
  out of it, but ``replica`` names who answered (see ``convergence``).

Anything else is never ignored: it makes the file unreadable, with the line that is wrong.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from onceflow_consensus.testing.casefile import EXIT_UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOTHING = "null"
"""The value of a key that nobody has written."""


class HistoryUnreadable(Exception):  # noqa: N818 - named by what is wrong with the history
    """A history cannot be judged as it stands. Reaction: correct the file, or its recorder."""


class Op(Enum):
    """What an operation does."""

    READ = "read"
    WRITE = "write"
    CAS = "cas"


class Outcome(Enum):
    """What is known of an operation. One that failed had no effect, and is not kept."""

    OK = "ok"
    UNKNOWN = "info"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key.

    Values are texts of canonical JSON, so that equal values are equal texts and can be hashed.

    value: what was read or written; of a read of unknown outcome it means nothing.
    expected: what a compare-and-set found. NOTHING for all others.
    invoked, returned: positions among all lines in order of time. Without an end ``returned`` is
        None.
    began, ended: the times as they stand in the file, for people.
    replica: who answered, as far as it was recorded.
    """

    process: str
    op: Op
    key: str
    value: str
    outcome: Outcome
    invoked: int
    returned: int | None = None
    expected: str = NOTHING
    began: float = 0
    ended: float | None = None
    replica: str | None = None

    @property
    def is_update(self) -> bool:
        """Whether it writes."""
        return self.op is not Op.READ

    def text(self) -> str:
        """Return the operation in one line, for people."""
        what = {
            Op.READ: f"read {self.value}",
            Op.WRITE: f"write {self.value}",
            Op.CAS: f"cas {self.expected} to {self.value}",
        }[self.op]
        end = "outcome unknown" if self.ended is None else f"to {self.ended:g}"
        return f"process {self.process}: {what}, key {self.key}, from {self.began:g} {end}"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    process: str
    type: str
    op: Op
    key: str
    value: object
    time: float
    replica: str | None


_TYPES = ("invoke", "ok", "fail", "info")
_OPS = ("read", "write", "cas")
_FIELDS = ("process", "type", "op", "key", "time")


def parse_history(text: str) -> list[Operation]:
    """Return the operations that may have had an effect, in the order in which they began.

    Raises:
        HistoryUnreadable: says which line is wrong, and why.
    """
    lines = [
        _parse_line(number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    lines.sort(key=lambda line: line.time)
    running: dict[str, Operation] = {}
    operations: list[Operation] = []
    for position, line in enumerate(lines):
        if line.type == "invoke":
            if line.process in running:
                raise _wrong(line.number, f"process {line.process} has not ended the one before")
            running[line.process] = _begun(line, position)
            continue
        begun = running.pop(line.process, None)
        if begun is None:
            raise _wrong(line.number, f"process {line.process} ends what it has not begun")
        ended = _ended(begun, line, position)
        if ended is not None:
            operations.append(ended)
    operations.extend(running.values())
    return sorted(operations, key=lambda operation: operation.invoked)


def _wrong(number: int, what: str) -> HistoryUnreadable:
    return HistoryUnreadable(f"line {number}: {what}")


def canonical(value: object) -> str:
    """Return the text that stands for a JSON value: equal texts for equal values only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse_line(number: int, text: str) -> _Line:
    try:
        parsed = cast("object", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _wrong(number, f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise _wrong(number, "not a JSON object")
    fields = cast("dict[str, object]", parsed)
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise _wrong(number, f"the field {missing[0]!r} is missing")
    kind, op, time = fields["type"], fields["op"], fields["time"]
    if kind not in _TYPES:
        raise _wrong(number, f"unknown type {kind!r}")
    if op not in _OPS:
        raise _wrong(number, f"unknown op {op!r}")
    if isinstance(time, bool) or not isinstance(time, int | float) or time != time:  # noqa: PLR0124 - NaN orders nothing
        raise _wrong(number, "the time is not a number")
    is_told = (kind, op) in {("invoke", "write"), ("invoke", "cas"), ("ok", "read")}
    if is_told and "value" not in fields:
        raise _wrong(number, "the field 'value' is missing")
    replica = fields.get("replica")
    return _Line(
        number,
        canonical(fields["process"]),
        str(kind),
        Op(op),
        canonical(fields["key"]),
        fields.get("value"),
        time,
        None if replica is None else canonical(replica),
    )


def _begun(line: _Line, position: int) -> Operation:
    value, expected = NOTHING, NOTHING
    if line.op is Op.CAS:
        expected, value = _pair(line)
    elif line.op is Op.WRITE:
        value = canonical(line.value)
    return Operation(
        process=line.process,
        op=line.op,
        key=line.key,
        value=value,
        outcome=Outcome.UNKNOWN,
        invoked=position,
        expected=expected,
        began=line.time,
    )


def _pair(line: _Line) -> tuple[str, str]:
    pair = cast("list[object]", line.value) if isinstance(line.value, list) else []
    if len(pair) != 2:  # noqa: PLR2004 - what is expected, and what is written
        raise _wrong(line.number, "the value of a cas is [expected, new]")
    return canonical(pair[0]), canonical(pair[1])


def _ended(begun: Operation, line: _Line, position: int) -> Operation | None:
    """Return the operation with its end; None if it had no effect."""
    if (line.op, line.key) != (begun.op, begun.key):
        raise _wrong(line.number, f"process {line.process} ends another operation than it began")
    if line.type == "fail":
        return None
    if line.type == "info":
        return begun
    if begun.is_update and line.value is not None:
        told = _pair(line) if line.op is Op.CAS else (NOTHING, canonical(line.value))
        if told != (begun.expected, begun.value):
            raise _wrong(line.number, f"process {line.process} ends it with another value")
    return replace(
        begun,
        value=begun.value if begun.is_update else canonical(line.value),
        outcome=Outcome.OK,
        returned=position,
        ended=line.time,
        replica=line.replica,
    )


def by_key(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    """Return the operations of each key, in the order in which they began."""
    keys: dict[str, list[Operation]] = {}
    for operation in operations:
        keys.setdefault(operation.key, []).append(operation)
    return keys


def run_checker(
    name: str, check: Callable[[list[Operation]], tuple[int, str]], arguments: Sequence[str]
) -> int:
    """Judge the file named in ``arguments`` and print the verdict.

    Args:
        name: the module's name, for the usage.
        check: returns the exit code and what to print; may raise ``HistoryUnreadable``.
        arguments: the command's arguments.

    Returns:
        0 if the history is valid, 1 if not, 2 if it cannot be judged.
    """
    if len(arguments) != 1:
        sys.stderr.write(f"usage: python -m onceflow_consensus.testing.{name} FILE\n")
        return EXIT_UNREADABLE
    path = Path(arguments[0])
    try:
        code, verdict = check(parse_history(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, HistoryUnreadable) as error:
        sys.stderr.write(f"unreadable {path}: {error}\n")
        return EXIT_UNREADABLE
    sys.stdout.write(verdict + "\n")
    return code
