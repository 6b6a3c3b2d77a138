"""Runner of quorum cases: committed indices and votes of simple and joint majorities.

``python -m onceflow_consensus.testing.quorum FILE...`` compares exactly, drawing included.

Directives: ``committed cfg=(ids) [cfgj=(ids)|zero] idx=(...)`` and
``vote cfg=(ids) [cfgj=(ids)|zero] votes=(y|n|_ ...)``. Indices and votes are listed for the
distinct voters in the order in which the two configurations name them; ``_`` is none given.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.quorum.majority import (
    EVERY_INDEX,
    PeerId,
    committed_index,
    vote_result,
)
from onceflow_consensus.testing.casefile import CaseUnreadable, Directive, Kind, Runner, main

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_GIVEN = "_"
_VOTES = {"y": True, "n": False}


def run_directive(directive: Directive) -> str:
    """Return the output of one directive.

    Raises:
        CaseUnreadable: an unknown directive, argument or value.
    """
    given = directive.options({"cfg", "cfgj", "idx", "votes"})
    if directive.words:
        raise CaseUnreadable(f"line {directive.line}: cannot use {directive.words[0]!r}")
    incoming = _peer_ids(directive, given.get("cfg", ()))
    second = given.get("cfgj")
    outgoing = [] if second is None or second == ("zero",) else _peer_ids(directive, second)
    ordered = list(dict.fromkeys([*incoming, *outgoing]))
    voters = JointVoters(frozenset(incoming), frozenset(outgoing))
    if directive.command == "committed":
        return _committed(directive, voters, ordered, given.get("idx", ()))
    if directive.command == "vote":
        return _vote(directive, voters, ordered, given.get("votes", ()))
    raise CaseUnreadable(f"line {directive.line}: unknown directive {directive.command!r}")


def _committed(
    directive: Directive, voters: JointVoters, ordered: Sequence[PeerId], values: Sequence[str]
) -> str:
    if len(values) != len(ordered):
        return _mismatch(ordered, values)
    acked = {
        peer: _number(directive, value)
        for peer, value in zip(ordered, values, strict=True)
        if value != _NOT_GIVEN
    }
    if 0 in acked.values():
        raise CaseUnreadable(f"line {directive.line}: 0 is not an index; write {_NOT_GIVEN}")
    index = voters.committed_index(acked)
    lines = [describe(voters.peer_ids, acked), f"{_index_text(index)}\n"]
    mirrored = JointVoters(voters.outgoing, voters.incoming).committed_index(acked)
    if mirrored != index:
        lines.insert(1, f"{_index_text(mirrored)} <-- via symmetry\n")
    if not voters.is_joint and committed_index(voters.incoming, acked) != index:
        lines.insert(1, "<-- the simple majority decides otherwise\n")
    return "".join(lines)


def _vote(
    directive: Directive, voters: JointVoters, ordered: Sequence[PeerId], values: Sequence[str]
) -> str:
    if len(values) != len(ordered):
        return _mismatch(ordered, values)
    votes: dict[PeerId, bool] = {}
    for peer, value in zip(ordered, values, strict=True):
        if value in _VOTES:
            votes[peer] = _VOTES[value]
        elif value != _NOT_GIVEN:
            raise CaseUnreadable(f"line {directive.line}: unknown vote {value!r}")
    result = voters.vote_result(votes)
    lines = [f"{result.value}\n"]
    mirrored = JointVoters(voters.outgoing, voters.incoming).vote_result(votes)
    if mirrored is not result:
        lines.insert(0, f"{mirrored.value} <-- via symmetry\n")
    if not voters.is_joint and vote_result(voters.incoming, votes) is not result:
        lines.insert(0, "<-- the simple majority decides otherwise\n")
    return "".join(lines)


def describe(voters: frozenset[PeerId], acked: dict[PeerId, int]) -> str:
    """Draw who has acknowledged how far: the longer the bar, the more voters are behind."""
    if not voters:
        return "<empty majority quorum>"
    count = len(voters)
    lines = [" " * count + "    idx\n"]
    for voter in sorted(voters):
        index = acked.get(voter, 0)
        behind = sum(1 for other in voters if acked.get(other, 0) < index)
        bar = "x" * behind + ">" + " " * (count - behind) if voter in acked else "?" + " " * count
        lines.append(f"{bar} {index:5d}    (id={voter:x})\n")
    return "".join(lines)


def _index_text(index: int) -> str:
    return "∞" if index == EVERY_INDEX else str(index)


def _mismatch(ordered: Sequence[PeerId], values: Sequence[str]) -> str:
    voters = " ".join(f"{peer}:{{}}" for peer in sorted(ordered))
    shown = " ".join("0" if value == _NOT_GIVEN else value for value in values)
    return f"error: mismatched input (explicit or _) for voters map[{voters}]: [{shown}]"


def _peer_ids(directive: Directive, values: Sequence[str]) -> list[PeerId]:
    return [_number(directive, value) for value in values]


def _number(directive: Directive, value: str) -> int:
    if not value.isdecimal():
        raise CaseUnreadable(f"line {directive.line}: {value!r} is not a number")
    return int(value)


def _exact(output: str) -> str:
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines())


def _new_runner() -> Runner:
    return run_directive


KIND = Kind("quorum", _new_runner, _exact)
"""Quorum cases: no state between directives, compared exactly."""


if __name__ == "__main__":
    sys.exit(main(KIND, sys.argv[1:]))
