"""Runner of configuration-change cases.

``python -m onceflow_consensus.testing.confchange FILE...`` compares exactly.

Directives: ``simple``, ``enter-joint [autoleave=true|false]`` and ``leave-joint``, with changes
such as ``v1 l2 r3 u4`` as input. The log's last index grows by one per directive, so that the
cases show where the progress of a newcomer starts.
"""

from __future__ import annotations

import sys

from onceflow_consensus.errors import ConfChangeRefusal, ConfChangeRefused
from onceflow_consensus.raft.confchange import (
    ChangeOp,
    ConfOutcome,
    SingleChange,
    enter_joint,
    leave_joint,
    simple,
)
from onceflow_consensus.raft.tracker import Tracker
from onceflow_consensus.testing.casefile import CaseUnreadable, Directive, Kind, Runner, main
from onceflow_consensus.testing.rendering import configuration_text, members_text

REFUSALS = {
    ConfChangeRefusal.ALREADY_JOINT: "config is already joint",
    ConfChangeRefusal.ZERO_VOTERS: "can't make a zero-voter config joint",
    ConfChangeRefusal.NOT_JOINT: "can't leave a non-joint config",
    ConfChangeRefusal.SIMPLE_WHILE_JOINT: "can't apply simple config change in joint config",
    ConfChangeRefusal.NO_VOTERS_LEFT: "removed all voters",
    ConfChangeRefusal.TOO_MANY_VOTERS: (
        "more than one voter changed without entering joint config"
    ),
}
"""The wording of the cases for each refusal."""

_BOOLEANS = {"true": True, "false": False}
_MAX_INFLIGHT = 10
_UNBOUNDED_BYTES = 2**64


class ConfChangeRunner:
    """The configuration that the directives of one file change."""

    def __init__(self) -> None:
        self._tracker = Tracker(_MAX_INFLIGHT, _UNBOUNDED_BYTES)
        self._last_index = 0

    def __call__(self, directive: Directive) -> str:
        """Return the output of one directive.

        Raises:
            CaseUnreadable: an unknown directive, argument or change.
        """
        try:
            outcome = self._outcome(directive)
        except ConfChangeRefused as error:
            return REFUSALS[error.refusal] + "\n"
        else:
            self._tracker.install(outcome, self._last_index)
            configuration = self._tracker.configuration
            members = members_text(self._tracker.progress, configuration.learners)
            return f"{configuration_text(configuration)}\n{members}"
        finally:
            self._last_index += 1

    def _outcome(self, directive: Directive) -> ConfOutcome:
        before = self._tracker.configuration
        changes = parse_changes(directive)
        given = directive.options({"autoleave"} if directive.command == "enter-joint" else ())
        if directive.words:
            raise CaseUnreadable(f"line {directive.line}: cannot use {directive.words[0]!r}")
        if directive.command == "simple":
            return simple(before, changes)
        if directive.command == "enter-joint":
            value = given.get("autoleave", ("false",))
            if len(value) != 1 or value[0] not in _BOOLEANS:
                raise CaseUnreadable(f"line {directive.line}: autoleave is true or false")
            return enter_joint(before, changes, auto_leave=_BOOLEANS[value[0]])
        if directive.command == "leave-joint" and not changes:
            return leave_joint(before)
        raise CaseUnreadable(f"line {directive.line}: unknown directive {directive.command!r}")


def parse_changes(directive: Directive) -> tuple[SingleChange, ...]:
    """Return the changes that stand in a directive's input, such as ``v1 l2 r3 u4``.

    Raises:
        CaseUnreadable: a word is not a change.
    """
    ops = {op.value: op for op in ChangeOp}
    changes: list[SingleChange] = []
    for word in directive.input_text.split():
        if word[0] not in ops or not word[1:].isdecimal():
            raise CaseUnreadable(f"line {directive.line}: unknown change {word!r}")
        changes.append(SingleChange(ops[word[0]], int(word[1:])))
    return tuple(changes)


def _new_runner() -> Runner:
    return ConfChangeRunner()


def _exact(output: str) -> str:
    return output.strip("\n")


KIND = Kind("confchange", _new_runner, _exact)
"""Configuration-change cases: one configuration per file, compared exactly."""


if __name__ == "__main__":
    sys.exit(main(KIND, sys.argv[1:]))
