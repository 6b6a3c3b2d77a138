"""Text cases: directives with their expected output, and the command that runs them.

The format is the one of etcd-raft's data-driven tests::

    # a comment
    command word key=value key=(v1,v2)
    optional input lines
    ----
    expected output, up to an empty line

Expected output that holds empty lines stands between doubled ``----`` lines. This module reads
files, compares and reports; what a directive does is decided by the runner that is handed in.
An unknown directive or argument is never ignored: it makes the file unreadable.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onceflow_consensus.errors import ConsensusError, InvariantViolation

EXIT_PASS = 0
EXIT_DIFFERENCE = 1
EXIT_UNREADABLE = 2

_SEPARATOR = "----"
_ARGUMENT = re.compile(
    r"(?P<key>[^\s=()]+)(?:=(?:\((?P<list>[^()]*)\)|(?P<value>[^\s()]*)))?(?=\s|$)"
)


class CaseUnreadable(Exception):  # noqa: N818 - named by what is wrong with the case
    """A file cannot be read or asks for something unknown. Reaction: correct the file."""


@dataclass(frozen=True, slots=True)
class Argument:
    """``key``, ``key=value`` or ``key=(v1,v2)``; a bare key has no values."""

    key: str
    values: tuple[str, ...] = ()
    is_bare: bool = True


@dataclass(frozen=True, slots=True)
class Directive:
    """One step of a case. ``line`` is where it stands, counted from one."""

    line: int
    command: str
    arguments: tuple[Argument, ...]
    input_text: str
    expected: str

    @property
    def words(self) -> list[str]:
        """Return the arguments that are bare keys, in order."""
        return [argument.key for argument in self.arguments if argument.is_bare]

    def options(self, allowed: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return the ``key=`` arguments.

        Raises:
            CaseUnreadable: a key outside ``allowed``; it would otherwise be ignored in silence.
        """
        found = {item.key: item.values for item in self.arguments if not item.is_bare}
        unknown = sorted(set(found) - set(allowed))
        if unknown:
            raise CaseUnreadable(f"line {self.line}: {self.command} has no argument {unknown[0]!r}")
        return found


Runner = Callable[[Directive], str]
"""Performs a directive and returns its output."""


def parse(text: str) -> list[Directive]:
    """Return the directives of a case file.

    Raises:
        CaseUnreadable: the text is not in the format.
    """
    lines = text.splitlines()
    directives: list[Directive] = []
    position = 0
    while position < len(lines):
        line = lines[position].strip()
        if not line or line.startswith("#"):
            position += 1
            continue
        directive, position = _parse_directive(lines, position)
        directives.append(directive)
    return directives


def _parse_directive(lines: Sequence[str], start: int) -> tuple[Directive, int]:
    position = start
    header = lines[position].strip()
    while header.endswith("\\") and position + 1 < len(lines):
        position += 1
        header = header[:-1].rstrip() + " " + lines[position].strip()
    command, _, rest = header.partition(" ")
    position += 1
    body: list[str] = []
    while position < len(lines) and lines[position].rstrip() != _SEPARATOR:
        body.append(lines[position])
        position += 1
    if position == len(lines):
        raise CaseUnreadable(f"line {start + 1}: {command} has no line {_SEPARATOR!r}")
    expected, position = _parse_expected(lines, position + 1)
    arguments = _parse_arguments(rest, start + 1)
    return Directive(start + 1, command, arguments, "\n".join(body).strip(), expected), position


def _parse_expected(lines: Sequence[str], start: int) -> tuple[str, int]:
    if start < len(lines) and lines[start].rstrip() == _SEPARATOR:
        for end in range(start + 1, len(lines) - 1):
            if lines[end].rstrip() == _SEPARATOR == lines[end + 1].rstrip():
                return "\n".join(lines[start + 1 : end]), end + 2
        raise CaseUnreadable(f"line {start + 1}: a doubled {_SEPARATOR!r} is not closed")
    end = start
    while end < len(lines) and lines[end].strip():
        end += 1
    return "\n".join(lines[start:end]), end


def _parse_arguments(text: str, line: int) -> tuple[Argument, ...]:
    arguments: list[Argument] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _ARGUMENT.match(text, position)
        if match is None:
            raise CaseUnreadable(f"line {line}: cannot read the arguments at {text[position:]!r}")
        arguments.append(_argument_of(match))
        position = match.end()
        while position < len(text) and text[position].isspace():
            position += 1
    return tuple(arguments)


def _argument_of(match: re.Match[str]) -> Argument:
    listed, single = match["list"], match["value"]
    if listed is not None:
        return Argument(match["key"], tuple(re.findall(r"[^\s,]+", listed)), is_bare=False)
    if single is not None:
        return Argument(match["key"], (single,), is_bare=False)
    return Argument(match["key"])


@dataclass(frozen=True, slots=True)
class Kind:
    """A family of case files.

    ``new_runner`` gives a fresh runner per file; ``project`` turns an output into what is
    compared, so that parts outside the comparison are left out on both sides alike.
    """

    name: str
    new_runner: Callable[[], Runner]
    project: Callable[[str], str]


def run_text(kind: Kind, text: str) -> list[tuple[Directive, str]]:
    """Run the directives of one file in order; return those that differ, with the difference.

    Raises:
        CaseUnreadable: the text is not in the format or holds something unknown.
    """
    runner = kind.new_runner()
    differences: list[tuple[Directive, str]] = []
    for directive in parse(text):
        try:
            got = runner(directive)
        except (InvariantViolation, ConsensusError) as stopped:
            differences.append((directive, f"the engine stopped: {stopped}"))
            break
        difference = _difference(kind.project(directive.expected), kind.project(got))
        if difference:
            differences.append((directive, difference))
    return differences


def _difference(expected: str, got: str) -> str:
    if expected == got:
        return ""
    lines = difflib.unified_diff(
        expected.splitlines(), got.splitlines(), "expected", "got", lineterm="", n=2
    )
    return "\n".join(lines)


def main(kind: Kind, arguments: Sequence[str]) -> int:
    """Run the files named in ``arguments`` and print a line per directive.

    Returns:
        0 if all pass, 1 if a directive differs, 2 if a file is unreadable or asks for something
        unknown (whatever the other files gave).
    """
    if not arguments:
        sys.stderr.write(f"usage: python -m onceflow_consensus.testing.{kind.name} FILE...\n")
        return EXIT_UNREADABLE
    return max(_run_file(kind, Path(name)) for name in arguments)


def _run_file(kind: Kind, path: Path) -> int:
    try:
        text = path.read_text(encoding="utf-8")
        directives = parse(text)
        differences = run_text(kind, text)
    except (OSError, UnicodeDecodeError, CaseUnreadable) as error:
        sys.stderr.write(f"unreadable {path}: {error}\n")
        return EXIT_UNREADABLE
    if not directives:
        sys.stderr.write(f"unreadable {path}: it holds no directive\n")
        return EXIT_UNREADABLE
    by_line = {directive.line: difference for directive, difference in differences}
    for directive in directives:
        verdict = "difference" if directive.line in by_line else "pass"
        sys.stdout.write(f"{verdict} {path}:{directive.line} {directive.command}\n")
        if directive.line in by_line:
            sys.stdout.write(by_line[directive.line] + "\n")
            if by_line[directive.line].startswith("the engine stopped"):
                break
    return EXIT_DIFFERENCE if differences else EXIT_PASS
