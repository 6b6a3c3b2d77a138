"""A client of the coordinator's record, for those who may wait for an answer.

Changes of the record may be told again, because each says what is the case and not what to do. So
whatever makes it doubtful whether a command took effect, a lost session included, is answered by
telling it again, until the time that a call may take is over. ``records`` is for those who must
not wait.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from onceflow.coordinator.reaching import told
from onceflow.coordinator.vocabulary import (
    Alarms,
    Answer,
    Declined,
    ListAlarms,
    ListOffsets,
    ListTransactions,
    ListWorkers,
    Observed,
    Offsets,
    Outcomes,
    Query,
    ShowTransaction,
    Told,
    Transactions,
    Workers,
    decode_answer,
    decode_response,
    encode_command,
    encode_query,
)
from onceflow.errors import OnceflowError, Unreachable
from onceflow_consensus.client import GroupClient
from onceflow_consensus.errors import SessionLost
from onceflow_consensus.transport.requests import Consistency

if TYPE_CHECKING:
    from types import TracebackType

    from onceflow.coordinator.vocabulary import (
        Alarm,
        OffsetNote,
        Outcome,
        Standing,
        TransactionRow,
    )
    from onceflow_consensus.client import ClientOptions

AnswerKind = TypeVar("AnswerKind", bound=Answer)


class RecordDeclines(OnceflowError):  # noqa: N818 - named by what happened
    """The record does not take a command or query, or never will. Reaction: do not repeat it."""


class CoordinatorClient:
    """A client in the running loop, to be used as an asynchronous context manager.

    All of its calls raise:
        Unreachable: no majority of the group answered in time; what was told may still take effect.
        ConfigError: the group refuses this client for good, and says why.
        RecordDeclines: what is told or asked is out of bounds; nothing changed.
        OnceflowError: the group does not keep a record, or keeps it in another version.
    """

    def __init__(self, options: ClientOptions) -> None:
        """Make a client; ``options.timeout_s`` bounds each call."""
        self._options = options
        self._stack = AsyncExitStack()
        self._group: GroupClient | None = None

    async def __aenter__(self) -> Self:
        with told():
            self._group = await self._stack.enter_async_context(GroupClient(self._options))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._group = None
        await self._stack.aclose()

    async def tell(self, changes: Told) -> list[Outcome]:
        """Record changes; return what became of each. Recorded by a majority when it returns."""
        command = encode_command(changes)
        with told():
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    response = decode_response(await self._submit(command))
            except TimeoutError:
                raise Unreachable(
                    "The coordinator's group did not answer in time. What was told may still take "
                    "effect. Check that more than half of its members run and reach each other."
                ) from None
            except msgspec.DecodeError as error:
                raise _not_a_record(error) from error
        if not isinstance(response, Outcomes):
            raise _declined(response)
        return response.outcomes

    async def _submit(self, command: bytes) -> bytes:
        while True:
            try:
                return await self._opened.submit(command)
            except SessionLost:
                # Unknown whether it took effect; to tell it twice is the same as once.
                continue

    async def observe(self, scope: str, app: str) -> None:
        """Let the time of the log go on, so that leases of workers that are gone run out."""
        await self.tell(Told(scope, app, 0, [Observed()]))

    async def transactions(
        self,
        of: str,
        standing: Standing,
        consistency: Consistency = Consistency.LINEARIZABLE,
        rows_max: int = 10_000,
    ) -> list[TransactionRow]:
        """Return transactions of one standing, by application, in the order in which they came.

        Args:
            of: scope or name of an application, empty for all.
            standing: which.
            consistency: what the answer may miss.
            rows_max: stop at about so many.
        """
        rows: list[TransactionRow] = []
        after = ("", 0)
        while len(rows) < rows_max:
            question = ListTransactions(of, standing, after, rows_max - len(rows))
            page = await self._ask(question, Transactions, consistency)
            rows += page.rows
            if not page.more:
                break
            after = (rows[-1].scope, rows[-1].transaction.sequence)
        return rows

    async def transaction(
        self,
        of: str,
        incarnation: str,
        commit_epoch: int,
        consistency: Consistency = Consistency.LINEARIZABLE,
    ) -> Transactions:
        """Return what is recorded of one transaction, in each application called ``of``."""
        question = ShowTransaction(of, incarnation, commit_epoch)
        return await self._ask(question, Transactions, consistency)

    async def offsets(
        self, scope: str, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> list[OffsetNote]:
        """Return the last recorded offset of each partition; for people, never to resume from."""
        rows: list[OffsetNote] = []
        after = ("", -1)
        while True:
            page = await self._ask(ListOffsets(scope, after), Offsets, consistency)
            rows += page.rows
            if not page.more:
                return rows
            after = (rows[-1].topic, rows[-1].number)

    async def workers(
        self, of: str, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> Workers:
        """Return the workers whose leases have not run out by the time of the log."""
        return await self._ask(ListWorkers(of), Workers, consistency)

    async def alarms(
        self, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> tuple[list[Alarm], int]:
        """Return the contradicted decisions that are kept, and how many there ever were."""
        rows: list[Alarm] = []
        after = 0
        while True:
            page = await self._ask(ListAlarms(after), Alarms, consistency)
            rows += page.rows
            if not page.more:
                return rows, page.total
            after = rows[-1].sequence

    async def _ask(
        self, question: Query, kind: type[AnswerKind], consistency: Consistency
    ) -> AnswerKind:
        with told():
            answered = await self._opened.query(encode_query(question), consistency)
        try:
            answer = decode_answer(answered)
        except msgspec.DecodeError as error:
            raise _not_a_record(error) from error
        if isinstance(answer, kind):
            return answer
        raise _declined(answer)

    @property
    def _opened(self) -> GroupClient:
        if self._group is None:
            raise OnceflowError("The client is not open. Use it within 'async with'.")
        return self._group


def _not_a_record(error: Exception) -> OnceflowError:
    return OnceflowError(
        f"The group answers what no record of transactions does ({error}). Its members may be of a "
        "version that keeps none: upgrade them first, then the workers."
    )


def _declined(answer: object) -> RecordDeclines:
    reason = answer.reason if isinstance(answer, Declined) else f"it answered {answer}"
    return RecordDeclines(f"The coordinator's record declines: {reason}.")
