"""The two-phase sinks of a worker: a thread for each, opening, and calls that are tried again.

A participant blocks and is called from one thread only. One that does not answer is asked again,
with a growing wait and an alarm, for as long as it takes: what is prepared there must be finished.
What is to be called, and when, is decided elsewhere: `two_phase` performs the effects of the
worker's own epochs, `takeover` and `scanning` those that concern branches of others.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from onceflow.decisions.branch_steps import Participants as Configured
from onceflow.decisions.crash_points import CrashPoint
from onceflow.engine.configured import sinks_by_name
from onceflow.engine.rows import EpochRows
from onceflow.errors import ConfigError, OutcomeUnknown, ParticipantUnavailable
from onceflow.kafka.threads import CallThread
from onceflow.limits import (
    FINISH_S_MAX,
    PARTICIPANT_RETRY_S,
    PARTICIPANT_RETRY_S_MAX,
    PARTICIPANT_STOP_S,
    PARTICIPANTS_MAX,
)
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.sinks.gid import Scope
from onceflow.sinks.participant import FinishOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onceflow.engine.agent import Agent
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import BranchId, Incarnation
    from onceflow.sinks.participant import MarkerRow, Participant

T = TypeVar("T")

log = get_logger(__name__)

_STUCK_FACTOR = 3
"""A call that takes so many times its bound breaks the protocol of participants, and its thread is
given up together with the worker."""


def _participants_of(agent: Agent) -> Iterable[Participant]:
    return agent.participants


class Seat:
    """One participant and the thread that calls it.

    Fields:
        participant: never called from any other thread, but for ``encode``.
    """

    def __init__(self, participant: Participant, unavailable: Callable[[str], None]) -> None:
        self.participant = participant
        self._unavailable = unavailable
        self._thread = CallThread(f"onceflow-{participant.name}")
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """Return the participant's name."""
        return self.participant.name

    async def call(self, operation: Callable[..., T], *arguments: object, bound_s: float) -> T:
        """Call the participant once; what it raises is raised.

        Raises:
            OutcomeUnknown: it did not come back at all; the worker must end.
        """
        async with self._turn:
            return await self._thread.run(operation, *arguments, timeout_s=bound_s * _STUCK_FACTOR)

    async def insist(self, operation: Callable[..., T], *arguments: object) -> T:
        """Call the participant until it answers."""
        wait_s, since_s = PARTICIPANT_RETRY_S, time.monotonic()
        while True:
            try:
                return await self.call(operation, *arguments, bound_s=FINISH_S_MAX)
            except ParticipantUnavailable as error:
                reason = str(error)
            self._unavailable(self.name)
            log.error(
                LogEvent.PARTICIPANT_UNAVAILABLE,
                participant=self.name,
                operation=operation.__name__,
                since_s=round(time.monotonic() - since_s, 1),
                error=reason,
                meaning="it is asked again until it answers; nothing is lost, and what needs it "
                "waits",
            )
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, PARTICIPANT_RETRY_S_MAX)

    async def stop(self) -> None:
        """Let go of the connections, within a bound: a dead server holds nobody up."""
        closing = self._thread.run(self.participant.close, timeout_s=PARTICIPANT_STOP_S)
        with suppress(OutcomeUnknown):
            await closing
        self._thread.stop()


class Participants:
    """All two-phase sinks of this worker.

    Fields:
        rows: of the open epoch.
        seats: by name; empty in an app without two-phase sinks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.rows = EpochRows(runtime.gate)
        self.seats: dict[str, Seat] = {}

    @property
    def configured(self) -> Configured:
        """Whether the app has two-phase sinks."""
        return Configured.CONFIGURED if self.seats else Configured.NONE

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all participants, in order."""
        return tuple(sorted(self.seats))

    # -- start and stop --

    async def start(self) -> None:
        """Open the sinks of all agents.

        Raises:
            ConfigError: what `Participant.open` found wrong, two sinks of one name, or no
                coordinator; exit 2.
            Unreachable: one does not answer; exit 3.
        """
        found = self._configured()
        if not found:
            return
        cluster_id = await self.runtime.clients.admin.cluster_id()
        scope = Scope.of(cluster_id, self.runtime.app.conf.id)
        self.runtime.check_recorded(self.runtime)
        self.seats = {
            name: Seat(each, self.runtime.metrics.participant_failed)
            for name, each in found.items()
        }
        opened = [seat.call(seat.participant.open, scope, bound_s=FINISH_S_MAX) for seat in self]
        for error in await asyncio.gather(*opened, return_exceptions=True):
            if error is not None:
                raise error
        self.rows.opened.update(found)
        self.runtime.telling.scope = scope
        log.info(LogEvent.PARTICIPANTS_OPENED, participants=sorted(found), scope=scope.scope)

    def _configured(self) -> dict[str, Participant]:
        """Return the sinks of all agents by name."""
        found, _ = sinks_by_name(self.runtime.app, _participants_of)
        if len(found) > PARTICIPANTS_MAX:
            raise ConfigError(
                f"The app has {len(found)} two-phase sinks; {PARTICIPANTS_MAX} are possible, "
                "because each commit names them. Nothing was consumed. Split the app."
            )
        return found

    def __iter__(self) -> Iterator[Seat]:
        return iter(self.seats.values())

    async def stop(self) -> None:
        """Close all; what is prepared stays, and is finished by the next owner."""
        await asyncio.gather(*(seat.stop() for seat in self))

    # -- what takeovers, scans and ends of epochs ask --

    async def branches(
        self, incarnations: frozenset[Incarnation] | None
    ) -> frozenset[tuple[str, BranchId]]:
        """List prepared branches: of these incarnations, or of any with None."""

        async def listed(seat: Seat) -> list[tuple[str, BranchId]]:
            found = await seat.insist(seat.participant.branches)
            return [(seat.name, branch) for branch in found]

        lists = await asyncio.gather(*(listed(seat) for seat in self.seats.values()))
        return frozenset(
            (name, branch)
            for found in lists
            for name, branch in found
            if incarnations is None or branch.incarnation in incarnations
        )

    async def commit_branches(
        self, branches: Iterable[tuple[str, BranchId]]
    ) -> set[tuple[str, BranchId]]:
        """Commit branches; returns those that are missing."""

        async def committed(name: str, branch: BranchId) -> FinishOutcome:
            seat, started_s = self.seats[name], time.monotonic()

            def commit_branch() -> FinishOutcome:
                outcome = seat.participant.commit(branch)
                self.runtime.crash(CrashPoint.DURING_FINISH)
                return outcome

            outcome = await seat.insist(commit_branch)
            self.runtime.metrics.branch_committed(name, time.monotonic() - started_s)
            return outcome

        wanted = sorted(branches)
        outcomes = await asyncio.gather(*(committed(*each) for each in wanted))
        return {
            each
            for each, outcome in zip(wanted, outcomes, strict=True)
            if outcome is FinishOutcome.MISSING
        }

    async def roll_back_branches(self, branches: Iterable[tuple[str, BranchId]]) -> None:
        """Roll branches back."""
        await asyncio.gather(
            *(
                self.seats[name].insist(self.seats[name].participant.roll_back, branch)
                for name, branch in sorted(branches)
            )
        )

    async def raise_markers(self, incarnations: Iterable[Incarnation]) -> None:
        """Let no later branch of these incarnations be prepared anywhere; tried once.

        Raises:
            ParticipantUnavailable: it is not raised everywhere; look for what is prepared first.
        """
        raised = [
            seat.call(seat.participant.raise_marker, incarnation, bound_s=FINISH_S_MAX)
            for seat in self.seats.values()
            for incarnation in sorted(incarnations)
        ]
        for error in await asyncio.gather(*raised, return_exceptions=True):
            if error is not None:
                raise error

    async def marker_rows(
        self, incarnations: Iterable[Incarnation]
    ) -> dict[tuple[str, Incarnation], MarkerRow | None]:
        """Read the marker rows of these incarnations in every participant."""

        async def read(seat: Seat, incarnation: Incarnation) -> MarkerRow | None:
            return await seat.insist(seat.participant.marker_row, incarnation)

        wanted = [(seat, each) for seat in self.seats.values() for each in sorted(incarnations)]
        found = await asyncio.gather(*(read(*each) for each in wanted))
        return {
            (seat.name, incarnation): row
            for (seat, incarnation), row in zip(wanted, found, strict=True)
        }
