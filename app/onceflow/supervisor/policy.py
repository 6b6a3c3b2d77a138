"""What a supervisor does when a worker ends or somebody asks it to stop.

Sans-IO: ``Policy.handle`` takes an event and returns effects; the time comes with the events. The
phases and what each event does in them stand in one table, ``TRANSITIONS``. Must never import
anything that acts: no asyncio, os, signal, subprocess or time.

    RUNNING ──stop asked, worker exit 2 or 4, too many restarts──▶ STOPPING
    STOPPING ──drain bound over, stop asked again──▶ KILLING
    STOPPING, KILLING ──last worker ended──▶ STOPPED
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from enum import Enum, auto

from onceflow.errors import invariant
from onceflow.limits import (
    RESTART_BACKOFF_S,
    RESTART_BACKOFF_S_MAX,
    RESTART_WINDOW_S,
    RESTARTS_MAX,
)

EXIT_FAILURE = 1
EXIT_DATA_AT_RISK = 4
ENDED_BY_SIGTERM = -15
"""A worker that was asked to stop before it could take signals; it had not begun to work."""


class Phase(Enum):
    """Phases of a supervisor's life."""

    RUNNING = auto()
    """Workers are kept alive."""
    STOPPING = auto()
    """Workers were asked to drain; none is started any more."""
    KILLING = auto()
    """Workers that did not drain in time were killed."""
    STOPPED = auto()
    """No worker is left."""


class ExitReaction(Enum):
    """What the end of a worker means for all of them."""

    RESTART = auto()
    """Start it again with back-off, up to a bound."""
    RESTART_UNBOUNDED = auto()
    """Start it again with back-off, for as long as it takes."""
    STOP_ALL = auto()
    """Stop every worker, with the same exit code."""


REACTIONS: dict[int, ExitReaction] = {
    2: ExitReaction.STOP_ALL,  # a wrong configuration stays wrong
    3: ExitReaction.RESTART_UNBOUNDED,  # Kafka may come back
    EXIT_DATA_AT_RISK: ExitReaction.STOP_ALL,  # a blind restart could make it worse
}
"""By exit code; any other code, and death by a signal, is a ``RESTART``."""


class Step(Enum):
    """What an event makes the policy do."""

    RESTART_OR_STOP = auto()
    COUNT_DOWN = auto()
    START = auto()
    DRAIN = auto()
    KILL = auto()
    IGNORE = auto()


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """Worker ``part`` ended with ``code`` (negative: by that signal) at ``at_s``."""

    part: int
    code: int
    at_s: float


@dataclass(frozen=True, slots=True)
class BackoffOver:
    """The wait of a ``Restart`` for worker ``part`` is over."""

    part: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody asked for the end, by SIGTERM or SIGINT; twice means at once."""


@dataclass(frozen=True, slots=True)
class DrainBoundOver:
    """Workers have had the time that draining may take."""


Event = WorkerExited | BackoffOver | StopRequested | DrainBoundOver


@dataclass(frozen=True, slots=True)
class Start:
    """Start worker ``part``."""

    part: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Tell that worker ``part`` ended with ``code``; wait, then deliver ``BackoffOver``."""

    part: int
    code: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the workers ``parts`` to drain; deliver ``DrainBoundOver`` after the drain bound."""

    parts: frozenset[int]
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the workers ``parts``."""

    parts: frozenset[int]


@dataclass(frozen=True, slots=True)
class Finish:
    """No worker is left: end with ``code``."""

    code: int


Effect = Start | Restart | Terminate | Kill | Finish


TRANSITIONS: dict[tuple[Phase, type[Event]], Step] = {
    (Phase.RUNNING, WorkerExited): Step.RESTART_OR_STOP,
    (Phase.RUNNING, BackoffOver): Step.START,
    (Phase.RUNNING, StopRequested): Step.DRAIN,
    (Phase.RUNNING, DrainBoundOver): Step.IGNORE,
    (Phase.STOPPING, WorkerExited): Step.COUNT_DOWN,
    (Phase.STOPPING, BackoffOver): Step.IGNORE,
    (Phase.STOPPING, StopRequested): Step.KILL,
    (Phase.STOPPING, DrainBoundOver): Step.KILL,
    (Phase.KILLING, WorkerExited): Step.COUNT_DOWN,
    (Phase.KILLING, BackoffOver): Step.IGNORE,
    (Phase.KILLING, StopRequested): Step.IGNORE,
    (Phase.KILLING, DrainBoundOver): Step.IGNORE,
    (Phase.STOPPED, WorkerExited): Step.COUNT_DOWN,  # refused there: nobody is alive
    (Phase.STOPPED, BackoffOver): Step.IGNORE,
    (Phase.STOPPED, StopRequested): Step.IGNORE,
    (Phase.STOPPED, DrainBoundOver): Step.IGNORE,
}


class Policy:
    """The decisions of one supervisor over ``processes`` workers, numbered from 0."""

    phase: Phase
    """Where in the diagram above; only ``handle`` moves it on, never backwards."""

    alive: set[int]
    """Workers that run. Invariant: an end is reported once per start."""

    exit_code: int
    """What the supervisor will end with; once it is 4 it stays 4."""

    def __init__(self, processes: int) -> None:
        self.phase = Phase.RUNNING
        self.alive = set(range(processes))
        self.exit_code = 0
        self._restarts: defaultdict[int, deque[float]] = defaultdict(deque)

    def start(self) -> list[Effect]:
        """Return what starts all workers; called once, first."""
        return [Start(part) for part in sorted(self.alive)]

    def handle(self, event: Event) -> list[Effect]:
        """Take one event and return its effects, to be performed in order."""
        match TRANSITIONS[self.phase, type(event)], event:
            case Step.RESTART_OR_STOP, WorkerExited():
                return self._restart_or_stop(event)
            case Step.COUNT_DOWN, WorkerExited():
                return self._count_down(event)
            case Step.START, BackoffOver():
                return self._start_again(event.part)
            case Step.DRAIN, _:
                return self._stop(0, "asked to stop")
            case Step.KILL, _:
                self.phase = Phase.KILLING
                return [Kill(frozenset(self.alive))]
            case _:
                return []

    def _restart_or_stop(self, exited: WorkerExited) -> list[Effect]:
        self._note_exit(exited)
        reaction = REACTIONS.get(exited.code, ExitReaction.RESTART)
        if reaction is ExitReaction.STOP_ALL:
            return self._stop(exited.code, f"worker {exited.part} ended with code {exited.code}")
        recent = self._restarts[exited.part]
        while recent and recent[0] <= exited.at_s - RESTART_WINDOW_S:
            recent.popleft()
        if reaction is ExitReaction.RESTART and len(recent) >= RESTARTS_MAX:
            return self._stop(
                exited.code if exited.code > 0 else EXIT_FAILURE,
                f"worker {exited.part} was restarted {len(recent)} times in "
                f"{RESTART_WINDOW_S:.0f} s and ended again with code {exited.code}",
            )
        delay_s = min(RESTART_BACKOFF_S * 2 ** len(recent), RESTART_BACKOFF_S_MAX)
        recent.append(exited.at_s)
        return [Restart(exited.part, exited.code, delay_s)]

    def _count_down(self, exited: WorkerExited) -> list[Effect]:
        """Finish with the last worker; what it says of data at risk outweighs everything."""
        self._note_exit(exited)
        if exited.code == EXIT_DATA_AT_RISK:
            self.exit_code = EXIT_DATA_AT_RISK
        elif exited.code not in {0, ENDED_BY_SIGTERM} and not self.exit_code:
            self.exit_code = EXIT_FAILURE
        return self._finish_if_alone()

    def _start_again(self, part: int) -> list[Effect]:
        invariant(
            part not in self.alive,
            "INV-SUPERVISOR-1: of a worker's starts at most one is alive",
            part=part,
        )
        self.alive.add(part)
        return [Start(part)]

    def _note_exit(self, exited: WorkerExited) -> None:
        invariant(
            exited.part in self.alive,
            "INV-SUPERVISOR-1: an end is reported once per start",
            part=exited.part,
        )
        self.alive.discard(exited.part)

    def _stop(self, code: int, reason: str) -> list[Effect]:
        self.phase = Phase.STOPPING
        self.exit_code = code
        if self.alive:
            return [Terminate(frozenset(self.alive), reason)]
        return self._finish_if_alone()

    def _finish_if_alone(self) -> list[Effect]:
        if self.alive:
            return []
        self.phase = Phase.STOPPED
        return [Finish(self.exit_code)]
