"""Runner of interaction cases: stories of whole groups in the notation of etcd-raft.

``python -m onceflow_consensus.testing.interaction FILE...`` compares by meaning: every message
with all its fields, entries, hard and soft states, snapshots, configurations and progress, after
every directive. Left out on both sides are log lines and ``MustSync``; messages that follow one
another are compared as a multiset, because a network keeps no order.

Rules of this file: ``DIRECTIVES`` lists every directive; one that it does not hold, and any
argument a directive does not know, makes the file unreadable. No file is treated specially.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.confchange import ConfChange, Transition
from onceflow_consensus.raft.configuration import Configuration
from onceflow_consensus.raft.messages import Message, MessageKind, RaftSnapshot
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import RaftOptions, ReadMode, StorageMode
from onceflow_consensus.testing.casefile import CaseUnreadable, Directive, Kind, Runner, main
from onceflow_consensus.testing.confchange import parse_changes
from onceflow_consensus.testing.group import Group, refused_text
from onceflow_consensus.testing.rendering import (
    entries_text,
    members_text,
    message_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId

ELECTION_TICKS = 3
HEARTBEAT_TICKS = 1
_UNBOUNDED = 2**64 - 1
_BOOLEANS = {"true": True, "false": False}
_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")
_READ_MODES = {mode.value: mode for mode in ReadMode}
_TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.IMPLICIT,
    "explicit": Transition.EXPLICIT,
}
_BOOLEAN_OPTIONS = {
    "prevote": "pre_vote",
    "checkquorum": "check_quorum",
    "step-down-on-removal": "step_down_on_removal",
}

CASE_OPTIONS = RaftOptions(
    peer_id=1,
    election_ticks=ELECTION_TICKS,
    heartbeat_ticks=HEARTBEAT_TICKS,
    pre_vote=False,
    check_quorum=False,
    step_down_on_removal=False,
    refusals_tell_commit=False,
    max_message_bytes=_UNBOUNDED,
    max_inflight_messages=_UNBOUNDED,
    max_inflight_bytes=_UNBOUNDED,
    max_uncommitted_bytes=_UNBOUNDED,
    max_applying_bytes=_UNBOUNDED,
)
"""What the cases begin with: no bounds, and none of the optional features."""


class InteractionRunner:
    """The group that the directives of one file act on."""

    def __init__(self) -> None:
        self._group = Group()

    def __call__(self, directive: Directive) -> str:
        """Return the output of one directive, ``ok`` if it tells nothing.

        Raises:
            CaseUnreadable: an unknown directive, argument, value or replica.
        """
        handler = DIRECTIVES.get(directive.command)
        if handler is None:
            raise CaseUnreadable(f"line {directive.line}: unknown directive {directive.command!r}")
        refusal = handler(self._group, directive)
        # Refusals are told even while the rest is quiet.
        if refusal and self._group.transcript.is_quiet:
            return refusal
        self._group.transcript.write(refusal)
        return self._group.transcript.take() or "ok"


def _bad(directive: Directive, what: str) -> CaseUnreadable:
    return CaseUnreadable(f"line {directive.line}: {directive.command}: {what}")


def _number(directive: Directive, text: str) -> int:
    if not text.isdecimal():
        raise _bad(directive, f"{text!r} is not a number")
    return int(text)


def _boolean(directive: Directive, text: str) -> bool:
    if text not in _BOOLEANS:
        raise _bad(directive, f"{text!r} is neither true nor false")
    return _BOOLEANS[text]


def _single(directive: Directive, key: str, values: tuple[str, ...]) -> str:
    if len(values) != 1:
        raise _bad(directive, f"{key} takes one value")
    return values[0]


def _words(directive: Directive, count: int) -> list[str]:
    if len(directive.words) != count:
        raise _bad(directive, f"takes {count} words, not {len(directive.words)}")
    return directive.words


def _member(group: Group, directive: Directive, text: str) -> PeerId:
    peer_id = _number(directive, text)
    if peer_id not in group.members:
        raise _bad(directive, f"there is no replica {peer_id}")
    return peer_id


def _only_member(group: Group, directive: Directive) -> PeerId:
    directive.options(())
    return _member(group, directive, _words(directive, 1)[0])


def _two_members(group: Group, directive: Directive) -> tuple[PeerId, PeerId]:
    directive.options(())
    first, second = (_member(group, directive, word) for word in _words(directive, 2))
    return first, second


def _log_level(group: Group, directive: Directive) -> str:
    directive.options(())
    _set_level(group, directive, _words(directive, 1)[0])
    return ""


def _set_level(group: Group, directive: Directive, level: str) -> None:
    # Log lines are left out in any case; only the level that silences everything matters.
    if level.lower() not in _LEVELS:
        raise _bad(directive, f"unknown level {level!r}")
    group.transcript.is_quiet = level.lower() == _LEVELS[-1]


def _add_nodes(group: Group, directive: Directive) -> str:
    count = _number(directive, _words(directive, 1)[0])
    given = directive.options(
        {
            *_BOOLEAN_OPTIONS,
            "voters",
            "learners",
            "index",
            "content",
            "inflight",
            "read-only",
            "async-storage-writes",
            "max-committed-size-per-ready",
            "disable-conf-change-validation",
        }
    )
    lists = {key: given.pop(key, ()) for key in ("voters", "learners")}
    single = {key: _single(directive, key, values) for key, values in given.items()}
    peers = {
        key: frozenset(_number(directive, value) for value in values)
        for key, values in lists.items()
    }
    begun_with = RaftSnapshot(
        index=_number(directive, single.pop("index", "0")),
        configuration=Configuration(JointVoters(peers["voters"]), peers["learners"]),
        data=single.pop("content", "").encode(),
    )
    if begun_with != RaftSnapshot():
        if begun_with.index <= 1:
            return "index must be specified as > 1 due to bootstrap"
        begun_with = structs.replace(begun_with, term=1)
    options = _options(directive, single)
    for _ in range(count):
        group.add_member(replace(options, peer_id=len(group.members) + 1), begun_with)
    return ""


def _options(directive: Directive, given: dict[str, str]) -> RaftOptions:
    changed: dict[str, object] = {
        field: _boolean(directive, given[key])
        for key, field in _BOOLEAN_OPTIONS.items()
        if key in given
    }
    if "inflight" in given:
        changed["max_inflight_messages"] = _number(directive, given["inflight"])
    if "max-committed-size-per-ready" in given:
        size = _number(directive, given["max-committed-size-per-ready"])
        changed["max_applying_bytes"] = size or _UNBOUNDED
    if "disable-conf-change-validation" in given:
        is_disabled = _boolean(directive, given["disable-conf-change-validation"])
        changed["validate_conf_changes"] = not is_disabled
    if "async-storage-writes" in given:
        is_async = _boolean(directive, given["async-storage-writes"])
        changed["storage"] = StorageMode.MESSAGES if is_async else StorageMode.READY
    if "read-only" in given:
        if given["read-only"] not in _READ_MODES:
            raise _bad(directive, f"unknown way to read {given['read-only']!r}")
        changed["read_mode"] = _READ_MODES[given["read-only"]]
    return replace(CASE_OPTIONS, **changed)


def _campaign(group: Group, directive: Directive) -> str:
    group.members[_only_member(group, directive)].node.campaign()
    return ""


def _propose(group: Group, directive: Directive) -> str:
    directive.options(())
    peer, data = _words(directive, 2)
    node = group.members[_member(group, directive, peer)].node
    return refused_text(lambda: node.propose(data.encode()))


def _propose_conf_change(group: Group, directive: Directive) -> str:
    given = directive.options({"v1", "transition"})
    node = group.members[_member(group, directive, _words(directive, 1)[0])].node
    as_v1 = _boolean(directive, _single(directive, "v1", given.get("v1", ("false",))))
    name = _single(directive, "transition", given.get("transition", ("auto",)))
    if name not in _TRANSITIONS:
        raise _bad(directive, f"unknown transition {name!r}")
    change = ConfChange(parse_changes(directive), _TRANSITIONS[name])
    if as_v1 and (len(change.changes) > 1 or change.transition is not Transition.AUTO):
        return "v1 conf change can only have one operation and no transition"
    return refused_text(lambda: node.propose_conf_change(change, as_v1=as_v1))


def _compact(group: Group, directive: Directive) -> str:
    directive.options(())
    peer, index = _words(directive, 2)
    member = group.members[_member(group, directive, peer)]
    if _number(directive, index) < member.log.first_index:
        return "requested index is unavailable due to compaction"
    member.log.compact(_number(directive, index))
    return _tell_log(group, _member(group, directive, peer))


def _raft_log(group: Group, directive: Directive) -> str:
    return _tell_log(group, _only_member(group, directive))


def _tell_log(group: Group, peer_id: PeerId) -> str:
    log = group.members[peer_id].log
    first, last = log.first_index, log.last_index
    if last < first:
        group.transcript.write(f"log is empty: first index={first}, last index={last}")
    else:
        group.transcript.write(entries_text(log.entries(first, last + 1, _UNBOUNDED)))
    return ""


def _raft_state(group: Group, directive: Directive) -> str:
    directive.options(())
    _words(directive, 0)
    for peer_id, member in group.members.items():
        status = member.node.status
        is_voter = peer_id in status.configuration.voters.peer_ids
        standing = "(Voter)" if is_voter else "(Non-Voter)"
        group.transcript.write(
            f"{peer_id}: {status.role.value} {standing} "
            f"Term:{status.term} Lead:{status.raft_leader}"
        )
    return ""


def _status(group: Group, directive: Directive) -> str:
    status = group.members[_only_member(group, directive)].node.status
    group.transcript.write(members_text(status.progress, status.configuration.learners))
    return ""


def _tick_election(group: Group, directive: Directive) -> str:
    return _tick(group, directive, ELECTION_TICKS)


def _tick_heartbeat(group: Group, directive: Directive) -> str:
    return _tick(group, directive, HEARTBEAT_TICKS)


def _tick(group: Group, directive: Directive, ticks: int) -> str:
    node = group.members[_only_member(group, directive)].node
    for _ in range(ticks):
        # The longest timeout: a case that depends on it sets it.
        node.tick(2 * ELECTION_TICKS - 1)
    return ""


def _set_election_timeout(group: Group, directive: Directive) -> str:
    given = directive.options({"timeout"})
    node = group.members[_member(group, directive, _words(directive, 1)[0])].node
    timeout = _number(directive, _single(directive, "timeout", given.get("timeout", ())))
    node.set_election_timeout(timeout)
    return ""


def _transfer_leadership(group: Group, directive: Directive) -> str:
    given = directive.options({"from", "to"})
    _words(directive, 0)
    source, target = (
        _member(group, directive, _single(directive, key, given.get(key, ())))
        for key in ("from", "to")
    )
    group.members[source].node.transfer_leadership(target)
    return ""


def _forget_leader(group: Group, directive: Directive) -> str:
    group.members[_only_member(group, directive)].node.forget_leader()
    return ""


def _report_unreachable(group: Group, directive: Directive) -> str:
    reporter, peer_id = _two_members(group, directive)
    group.members[reporter].node.report(peer_id, Report.UNREACHABLE)
    return ""


def _send_snapshot(group: Group, directive: Directive) -> str:
    sender, receiver = _two_members(group, directive)
    member = group.members[sender]
    message = Message(
        MessageKind.SNAP,
        receiver,
        sender,
        member.node.status.term,
        raft_snapshot=member.history[-1],
    )
    group.messages.append(message)
    group.transcript.write(message_text(message))
    return ""


def _deliver(group: Group, directive: Directive) -> str:
    given = directive.options({"type", "drop"})
    kind = None
    if "type" in given:
        name = _single(directive, "type", given["type"])
        kinds = {item.value: item for item in MessageKind}
        if name not in kinds:
            raise _bad(directive, f"unknown kind of message {name!r}")
        kind = kinds[name]
    receivers = [_member(group, directive, word) for word in directive.words]
    dropped = [_number(directive, value) for value in given.get("drop", ())]
    if set(receivers) & set(dropped):
        raise _bad(directive, "cannot deliver and drop the same messages")
    handled = sum(group.deliver(peer_id, kind) for peer_id in receivers)
    handled += sum(group.drop(peer_id, kind) for peer_id in dropped)
    if not handled:
        group.transcript.write("no messages")
    return ""


def _each(group: Group, directive: Directive, what: str, work: Callable[[PeerId], None]) -> str:
    directive.options(())
    peer_ids = [_member(group, directive, word) for word in directive.words]
    if not peer_ids:
        raise _bad(directive, "names no replica")
    for peer_id in peer_ids:
        with group.transcript.step(f"> {peer_id} {what}", is_named=len(peer_ids) > 1):
            work(peer_id)
    return ""


def _process_ready(group: Group, directive: Directive) -> str:
    return _each(group, directive, "handling Ready", group.process_ready)


def _process_append_thread(group: Group, directive: Directive) -> str:
    return _each(group, directive, "processing append thread", group.process_append_thread)


def _process_apply_thread(group: Group, directive: Directive) -> str:
    return _each(group, directive, "processing apply thread", group.process_apply_thread)


def _stabilize(group: Group, directive: Directive) -> str:
    given = directive.options({"log-level"})
    peer_ids = [_member(group, directive, word) for word in directive.words]
    was_quiet = group.transcript.is_quiet
    if "log-level" in given:
        _set_level(group, directive, _single(directive, "log-level", given["log-level"]))
    group.stabilize(peer_ids or list(group.members))
    group.transcript.is_quiet = was_quiet
    return ""


DIRECTIVES: dict[str, Callable[[Group, Directive], str]] = {
    "add-nodes": _add_nodes,
    "campaign": _campaign,
    "compact": _compact,
    "deliver-msgs": _deliver,
    "forget-leader": _forget_leader,
    "log-level": _log_level,
    "process-append-thread": _process_append_thread,
    "process-apply-thread": _process_apply_thread,
    "process-ready": _process_ready,
    "propose": _propose,
    "propose-conf-change": _propose_conf_change,
    "raft-log": _raft_log,
    "raft-state": _raft_state,
    "report-unreachable": _report_unreachable,
    "send-snapshot": _send_snapshot,
    "set-randomized-election-timeout": _set_election_timeout,
    "stabilize": _stabilize,
    "status": _status,
    "tick-election": _tick_election,
    "tick-heartbeat": _tick_heartbeat,
    "transfer-leadership": _transfer_leadership,
}
"""Every directive; each performs its step and returns the wording of a refusal, if any."""

_LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")
_MUST_SYNC = re.compile(r"^(\s*Ready) MustSync=(?:true|false):$")
_MESSAGE_LINE = re.compile(r"(?P<indent> *)(dropped: )?\w+->\w+ Msg\w+ ")


def project(output: str) -> str:
    """Return what is compared of an output: see the module's description."""
    if output.strip() == "ok":
        return ""
    lines = [
        _MUST_SYNC.sub(r"\1:", line.rstrip())
        for line in output.splitlines()
        if line.strip() and not _LOG_LINE.match(line)
    ]
    projected: list[str] = []
    messages: list[str] = []
    position = 0
    while position < len(lines):
        end = _message_end(lines, position)
        if end == position:
            projected.extend(sorted(messages))
            messages = []
            projected.append(lines[position])
            position += 1
        else:
            messages.append("\n".join(lines[position:end]))
            position = end
    return "\n".join([*projected, *sorted(messages)])


def _message_end(lines: list[str], start: int) -> int:
    """Return the end of the message that begins at ``start``; ``start`` if none does."""
    match = _MESSAGE_LINE.match(lines[start])
    if match is None:
        return start
    indent = match["indent"]
    end = start + 1
    while end < len(lines) and lines[end].startswith((indent + " ", indent + "]")):
        end += 1
    return end


def _new_runner() -> Runner:
    return InteractionRunner()


KIND = Kind("interaction", _new_runner, project)
"""Interaction cases: one group per file, compared by meaning."""


if __name__ == "__main__":
    sys.exit(main(KIND, sys.argv[1:]))
