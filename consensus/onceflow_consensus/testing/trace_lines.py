"""Lines of a trace (see ``tracing``) as values, read without believing anything.

A field that is missing or of another type makes the file unreadable, with the line that is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn, cast

from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.tracing.lines import MORE_TAG, TAG


class TraceUnreadable(Exception):  # noqa: N818 - named by what is wrong with the trace
    """A line is not one of a trace. Reaction: correct the file, or what wrote it."""


class TraceRejected(Exception):  # noqa: N818 - named by what happened to the trace
    """A line cannot be what a correct replica went through. Says which line, and what is wrong."""


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A message as a line tells it. ``entries`` is the snapshot's index if it carries one."""

    kind: str
    term: int
    sender: int
    to: int
    entries: int
    log_term: int
    index: int
    commit_index: int
    rejected: bool
    entry_terms: tuple[int, ...]
    context: str
    snapshot_term: int
    snapshot_members: frozenset[int]


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """A line: what happened, and the replica's state.

    where: names the line. voters, members: of the configuration in force.
    new_voters: what ``ApplyConfChange`` brings. index: what ``Replicate`` and ``ChangeConf`` put.
    term_starts: what ``InitState`` says of the log.
    """

    where: str
    ts: float
    name: str
    peer_id: int
    term: int
    vote: int
    commit_index: int
    role: str
    last_index: int
    last_term: int
    voters: JointVoters
    members: frozenset[int]
    message: TracedMessage | None
    new_voters: frozenset[int]
    index: int
    term_starts: tuple[tuple[int, int], ...]

    def reject(self, what: str) -> NoReturn:
        """Find the line wrong.

        Raises:
            TraceRejected: always.
        """
        raise TraceRejected(f"{self.where}: {self.name} of replica {self.peer_id}: {what}")


class _Fields:
    """A JSON object whose fields are read with their types."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise TraceUnreadable(f"{where}: not a JSON object")
        self._fields = cast("dict[str, object]", value)
        self._where = where

    def has(self, name: str) -> bool:
        return name in self._fields

    def number(self, name: str) -> int:
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._wrong(name)
        return value

    def seconds(self, name: str) -> float:
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name)
        return value

    def text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str):
            self._wrong(name)
        return value

    def truth(self, name: str) -> bool:
        value = self._value(name)
        if not isinstance(value, bool):
            self._wrong(name)
        return value

    def peer(self, name: str) -> int:
        return self._peer(name, self._value(name))

    def peers(self, name: str) -> frozenset[int]:
        return frozenset(self._peer(name, each) for each in self._list(name))

    def halves(self, name: str) -> JointVoters:
        halves = [
            frozenset(self._peer(name, each) for each in cast("list[object]", half))
            for half in self._list(name)
            if isinstance(half, list)
        ]
        if len(halves) != 2:  # noqa: PLR2004 - incoming and outgoing
            self._wrong(name)
        return JointVoters(halves[0], halves[1])

    def numbers(self, name: str) -> tuple[int, ...]:
        values = self._list(name)
        if not all(isinstance(value, int) for value in values):
            self._wrong(name)
        return tuple(cast("list[int]", values))

    def pairs(self, name: str) -> tuple[tuple[int, int], ...]:
        pairs: list[tuple[int, int]] = []
        for each in self._list(name):
            pair = cast("list[object]", each) if isinstance(each, list) else []
            numbers = [value for value in pair if isinstance(value, int)]
            if len(pair) != 2 or len(numbers) != 2:  # noqa: PLR2004 - an index and a term
                self._wrong(name)
            pairs.append((numbers[0], numbers[1]))
        if not pairs:
            self._wrong(name)
        return tuple(pairs)

    def below(self, name: str) -> _Fields:
        return _Fields(self._value(name), f"{self._where}: {name}")

    def _list(self, name: str) -> list[object]:
        value = self._value(name)
        if not isinstance(value, list):
            self._wrong(name)
        return cast("list[object]", value)

    def _peer(self, name: str, value: object) -> int:
        if not isinstance(value, str) or not value.isdecimal():
            self._wrong(name)
        return int(value)

    def _value(self, name: str) -> object:
        if name not in self._fields:
            raise TraceUnreadable(f"{self._where}: the field {name!r} is missing")
        return self._fields[name]

    def _wrong(self, name: str) -> NoReturn:
        raise TraceUnreadable(f"{self._where}: the field {name!r} is not what it should be")


def parse_trace(text: str, name: str = "line") -> list[TracedEvent]:
    """Return the events of a trace, in the order of the lines.

    Args:
        text: the lines; empty ones and those with foreign tags are passed over.
        name: what the lines are called in complaints.

    Raises:
        TraceUnreadable: says which line is wrong, and why.
    """
    events = (
        _parse_line(line, f"{name} {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    )
    return [event for event in events if event is not None]


def _parse_line(text: str, where: str) -> TracedEvent | None:
    try:
        line = _Fields(cast("object", json.loads(text)), where)
    except (ValueError, RecursionError) as error:
        raise TraceUnreadable(f"{where}: not JSON: {error}") from error
    if line.text("tag") not in {TAG, MORE_TAG}:
        return None
    event = line.below("event")
    state = event.below("state")
    name = event.text("name")
    voters = event.halves("conf")
    return TracedEvent(
        where=where,
        ts=line.seconds("ts"),
        name=name,
        peer_id=event.peer("nid"),
        term=state.number("term"),
        vote=state.peer("vote"),
        commit_index=state.number("commit"),
        role=event.text("role"),
        last_index=event.number("log"),
        last_term=event.number("logTerm"),
        voters=voters,
        members=voters.peer_ids | event.peers("learners"),
        message=_message(event.below("msg")) if event.has("msg") else None,
        new_voters=event.below("prop").below("cc").peers("newconf")
        if name == "ApplyConfChange"
        else frozenset(),
        index=event.below("prop").number("index") if name in {"Replicate", "ChangeConf"} else 0,
        term_starts=event.below("prop").pairs("terms") if name == "InitState" else (),
    )


def _message(fields: _Fields) -> TracedMessage:
    is_snapshot = fields.has("snapshotTerm")
    return TracedMessage(
        kind=fields.text("type"),
        term=fields.number("term"),
        sender=fields.peer("from"),
        to=fields.peer("to"),
        entries=fields.number("entries"),
        log_term=fields.number("logTerm"),
        index=fields.number("index"),
        commit_index=fields.number("commit"),
        rejected=fields.truth("reject"),
        entry_terms=fields.numbers("entryTerms"),
        context=fields.text("context"),
        snapshot_term=fields.number("snapshotTerm") if is_snapshot else 0,
        snapshot_members=fields.peers("snapshotMembers") if is_snapshot else frozenset(),
    )
