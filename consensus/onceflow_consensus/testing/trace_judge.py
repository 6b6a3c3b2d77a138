"""Judge of traces, and the command ``... .trace_judge FILE...`` around it.

Replays what replicas say that they went through (see ``tracing``) and rejects the first line that
cannot be: each replica by itself (``trace_model``), and all together by the properties of the Raft
paper's figure 3:

- at most one leader a term, and nobody gives two votes in a term;
- a new leader holds every committed entry, and what is committed is never anything else;
- nothing is received that was not sent, and nobody starts again in an earlier term than it had
  promised anything in;
- a follower commits nothing that no leader has committed.

The last two need the other side's lines: they are asked of replicas whose senders, or all whose
leaders, are in the trace. Several files are put together by their ``ts``. Exit 0: all lines can
be, 1: one cannot, 2: a file is unreadable.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow_consensus.testing.casefile import EXIT_DIFFERENCE, EXIT_PASS, EXIT_UNREADABLE
from onceflow_consensus.testing.trace_lines import TraceRejected, TraceUnreadable, parse_trace
from onceflow_consensus.testing.trace_model import LEADS, ReplicaModel, TracedLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow_consensus.testing.trace_lines import TracedEvent, TracedMessage

_PROMISES = frozenset({"MsgVoteResp", "MsgAppResp"})
_UNKNOWN_LOG = ((0, 0),)


class _Group:
    """All replicas of a trace, and what holds for them together."""

    def __init__(self, peer_ids: frozenset[int]) -> None:
        self._peer_ids = peer_ids
        self._replicas: dict[int, ReplicaModel] = {}
        self._sent: set[TracedMessage] = set()
        self._leader_of: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._promised: dict[int, int] = {}
        self._committed = TracedLog(_UNKNOWN_LOG, 0)
        self._committed_by: dict[int, int] = {}

    def take(self, event: TracedEvent) -> None:
        """Take a line.

        Raises:
            TraceRejected: it cannot be.
        """
        if event.name == "InitState":
            self._start(event)
            return
        model = self._replicas.get(event.peer_id)
        if model is None:
            event.reject("its InitState is missing")
        committed_before = model.commit_index
        model.take(event)
        if event.name == "BecomeLeader":
            self._elect(event, model)
        elif event.name == "Commit":
            self._take_commit(event, model, committed_before)
        elif event.message is not None and event.name.startswith("Send"):
            self._sent.add(event.message)
        elif event.message is not None:
            self._receive(event, event.message)

    def _start(self, event: TracedEvent) -> None:
        promised = self._promised.get(event.peer_id, 0)
        if event.term < promised:
            event.reject(f"starts in term {event.term}, but had promised in {promised}")
        model = ReplicaModel(event)
        self._replicas[event.peer_id] = model
        # What is committed before the trace begins is taken from whoever says so.
        self._compare_committed(event, model, 0)
        self._extend_committed(model)

    def _elect(self, event: TracedEvent, model: ReplicaModel) -> None:
        other = self._leader_of.setdefault(event.term, event.peer_id)
        if other != event.peer_id:
            event.reject(f"replica {other} leads term {event.term} already")
        # An election of an earlier term may be decided late: it need not know of later ones.
        known = max((i for term, i in self._committed_by.items() if term < event.term), default=0)
        for index in [*self._committed.starts[1:], known]:
            if index <= known and self._differs(model, index):
                event.reject(f"lacks entry {index}, which is committed")

    def _take_commit(self, event: TracedEvent, model: ReplicaModel, before: int) -> None:
        self._compare_committed(event, model, before)
        if model.role == LEADS or not self._is_whole(model):
            self._extend_committed(model)
        elif model.commit_index > self._committed.last_index:
            event.reject(f"commits {event.commit_index}, which no leader has committed")

    def _compare_committed(self, event: TracedEvent, model: ReplicaModel, before: int) -> None:
        for index in range(before + 1, min(model.commit_index, self._committed.last_index) + 1):
            if self._differs(model, index):
                event.reject(f"another entry {index} is committed already")

    def _differs(self, model: ReplicaModel, index: int) -> bool:
        committed = self._committed.term_at(index)
        if index < model.log.starts[0] or not committed:
            return False
        return model.log.term_at(index) != committed

    def _extend_committed(self, model: ReplicaModel) -> None:
        for index in range(self._committed.last_index + 1, model.commit_index + 1):
            self._committed.put(index, model.log.term_at(index) or 0)
            self._committed_by[model.term] = index

    def _is_whole(self, model: ReplicaModel) -> bool:
        return model.voters.peer_ids <= self._peer_ids

    def _receive(self, event: TracedEvent, message: TracedMessage) -> None:
        if message not in self._sent and message.sender in self._peer_ids:
            event.reject(f"receives what nobody sent: {message}")
        if message.kind not in _PROMISES or message.rejected:
            return
        promised = self._promised.get(message.sender, 0)
        self._promised[message.sender] = max(promised, message.term)
        if message.kind == "MsgVoteResp":
            vote = (message.sender, message.term)
            other = self._votes.setdefault(vote, message.to)
            if other != message.to:
                event.reject(f"replica {message.sender} has voted for {other} in that term")


def judge_trace(events: Sequence[TracedEvent]) -> None:
    """Replay a trace.

    Raises:
        TraceRejected: says which line cannot be, and why.
    """
    group = _Group(frozenset(event.peer_id for event in events if event.name == "InitState"))
    for event in events:
        group.take(event)


def main(arguments: Sequence[str]) -> int:
    """Judge the files named in ``arguments`` together and print the verdict.

    Returns:
        0 if all lines can be, 1 if one cannot, 2 if a file is unreadable or holds no trace.
    """
    if not arguments:
        sys.stderr.write("usage: python -m onceflow_consensus.testing.trace_judge FILE...\n")
        return EXIT_UNREADABLE
    events: list[TracedEvent] = []
    try:
        for name in arguments:
            events += parse_trace(Path(name).read_text(encoding="utf-8"), f"{name}, line")
    except (OSError, UnicodeDecodeError, TraceUnreadable) as error:
        sys.stderr.write(f"unreadable: {error}\n")
        return EXIT_UNREADABLE
    if not events:
        sys.stderr.write("unreadable: no line is one of a trace\n")
        return EXIT_UNREADABLE
    if len(arguments) > 1:
        events.sort(key=lambda event: event.ts)
    try:
        judge_trace(events)
    except TraceRejected as error:
        sys.stdout.write(f"invalid: {error}\n")
        return EXIT_DIFFERENCE
    replicas = len({event.peer_id for event in events})
    sys.stdout.write(f"valid: {len(events)} lines of {replicas} replicas\n")
    return EXIT_PASS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
