"""Commands of clients on their way through the log: gathered, packed into entries, answered.

Theory of operation: commands that arrive in one turn of the loop become one entry. A few entries
are under way at a time; while they are, further commands gather and make the next entry larger.
So the cost of an entry (messages, sync, bookkeeping) is shared by more commands the more there are,
and a single command waits for nobody. An entry is known again by index and term when it is applied:
the two name one entry for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import DropReason, ProposalDropped
from onceflow_consensus.limits import (
    MAX_BATCH_ENTRY_BYTES,
    MAX_COMMAND_BYTES,
    MAX_OUTSTANDING_COMMANDS,
    MAX_PIPELINED_ENTRIES,
    MAX_WAITING_BYTES,
)
from onceflow_consensus.state_machine import CommandKind, encode_batch
from onceflow_consensus.transport.requests import Refusal, Submitted

if TYPE_CHECKING:
    from onceflow_consensus.replica import Replica
    from onceflow_consensus.server.conversations import Conversation
    from onceflow_consensus.server.counters import Counters
    from onceflow_consensus.state_machine import SessionCommand
    from onceflow_consensus.transport.requests import Submit, TendSession

_COMMAND = int(CommandKind.COMMAND)
_OVERHEAD_BYTES = 32
"""What a command costs in an entry beside its payload, about."""

_OVERLOAD = frozenset({DropReason.UNCOMMITTED_BOUND, DropReason.TRANSFERRING})


@dataclass(slots=True)
class _Submission:
    conversation: Conversation
    request_id: int
    commands: list[SessionCommand]
    size_bytes: int


@dataclass(slots=True)
class _UnderWay:
    term: int
    submissions: list[_Submission]


class Proposals:
    """Commands that were taken and not answered."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._waiting: deque[_Submission] = deque()
        self._waiting_bytes = 0
        self._under_way: dict[int, _UnderWay] = {}

    @property
    def waiting_bytes(self) -> int:
        """Bytes of commands that wait to be proposed."""
        return self._waiting_bytes

    def take(self, conversation: Conversation, submit: Submit) -> None:
        """Take commands of a session, or refuse them all."""
        commands = submit.commands
        size_bytes = sum(map(len, commands)) + _OVERHEAD_BYTES * len(commands)
        session, first_unanswered = submit.session, submit.first_unanswered
        if not commands or max(map(len, commands)) > MAX_COMMAND_BYTES:
            detail = f"a command must have at most {MAX_COMMAND_BYTES} bytes"
            conversation.refuse(submit.request_id, Refusal.BAD_REQUEST, 0, detail)
            return
        packed: list[SessionCommand] = [
            (_COMMAND, session, sequence, first_unanswered, command)
            for sequence, command in enumerate(commands, submit.first_sequence)
        ]
        self._add(_Submission(conversation, submit.request_id, packed, size_bytes))

    def take_tending(self, conversation: Conversation, tend: TendSession) -> None:
        """Take a request to open, keep or close a session, or refuse it."""
        if tend.kind == _COMMAND or len(tend.payload) > MAX_COMMAND_BYTES:
            conversation.refuse(tend.request_id, Refusal.BAD_REQUEST)
            return
        command = (tend.kind, tend.session, 0, tend.first_unanswered, tend.payload)
        size_bytes = len(tend.payload) + _OVERHEAD_BYTES
        self._add(_Submission(conversation, tend.request_id, [command], size_bytes))

    def _add(self, submission: _Submission) -> None:
        count = len(submission.commands)
        conversation = submission.conversation
        is_over = (
            conversation.outstanding + count > MAX_OUTSTANDING_COMMANDS
            or self._waiting_bytes + submission.size_bytes > MAX_WAITING_BYTES
        )
        if is_over:
            conversation.refuse(submission.request_id, Refusal.OVERLOADED)
            return
        conversation.outstanding += count
        self._waiting.append(submission)
        self._waiting_bytes += submission.size_bytes

    def propose(self, replica: Replica, log_time_ms: int) -> None:
        """Propose what waits, as far as the pipeline has room."""
        while self._waiting and len(self._under_way) < MAX_PIPELINED_ENTRIES:
            submissions = self._next_submissions()
            commands = (
                submissions[0].commands
                if len(submissions) == 1
                else [command for each in submissions for command in each.commands]
            )
            try:
                replica.propose(encode_batch(log_time_ms, commands))
            except ProposalDropped as dropped:
                self._counters.proposals_dropped_total += 1
                is_overload = dropped.reason in _OVERLOAD
                refusal = Refusal.OVERLOADED if is_overload else Refusal.NOT_LEADER
                _refuse(submissions, refusal)
                continue
            status = replica.status
            self._under_way[status.last_index] = _UnderWay(status.term, submissions)

    def _next_submissions(self) -> list[_Submission]:
        taken: list[_Submission] = []
        size_bytes = 0
        while self._waiting:
            size_bytes += self._waiting[0].size_bytes
            if taken and size_bytes > MAX_BATCH_ENTRY_BYTES:
                break
            taken.append(self._waiting.popleft())
        self._waiting_bytes -= sum(each.size_bytes for each in taken)
        return taken

    def applied(self, index: int, term: int, outcomes: list[bytes]) -> None:
        """Answer the commands of an entry that was applied, if they were proposed here."""
        under_way = self._under_way.pop(index, None)
        if under_way is None:
            return
        if under_way.term != term:
            # Another leader's entry took the place: ours is not in the log.
            _refuse(under_way.submissions, Refusal.NOT_LEADER)
            return
        start = 0
        for each in under_way.submissions:
            count = len(each.commands)
            answer = Submitted(each.request_id, index, outcomes[start : start + count])
            each.conversation.answer(answer, count)
            start += count
        self._counters.commands_total += start

    def refuse_all(self, refusal: Refusal) -> None:
        """Refuse everything: this member cannot tell any more what becomes of it."""
        _refuse([*self._waiting], refusal)
        for under_way in self._under_way.values():
            _refuse(under_way.submissions, refusal)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._under_way.clear()


def _refuse(submissions: list[_Submission], refusal: Refusal) -> None:
    for each in submissions:
        each.conversation.refuse(each.request_id, refusal, len(each.commands))
