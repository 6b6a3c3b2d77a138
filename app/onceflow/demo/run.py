"""The main job from beginning to verdict.

Theory of operation: a local Kafka is started and the weather is published. One worker keeps it in a
GlobalTable, commits and stops; so the workers that start after it have all of it before the first
flight, as a join with a table needs. Then the flights are published while two workers process them;
each time another share of them is committed, a worker is killed by SIGKILL and started again: the
first one between the prepare of its rows in files and Kafka's decision, and with it a member of the
group of three that keeps a record of what is in doubt. When all is committed the workers stop, and
what Kafka, the SQLite file and the report files hold is compared with the truth.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onceflow.decisions.crash_points import CrashPoint
from onceflow.demo.data import (
    data_directory,
    in_publication_order,
    read_airlines,
    read_flights,
    read_planes,
    read_weather,
)
from onceflow.demo.display import Display
from onceflow.demo.names import APP_ID, FLIGHTS, PARTITIONS, REPORTS, WEATHER
from onceflow.demo.publish import publish_flights, publish_weather
from onceflow.demo.sabotage import VARIABLE, Breakage, write_stale_rows
from onceflow.demo.truth import compute_truth
from onceflow.demo.verify import verify
from onceflow.demo.watch import Watch
from onceflow.demo.workers import DemoProcess, group_of_three, worker_process
from onceflow.errors import ConfigError, Unreachable
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig
from onceflow.localkafka import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.demo.data import FlightRow, WeatherRow
    from onceflow.demo.truth import Truth
    from onceflow.demo.verify import Findings

T = TypeVar("T")

_LOOK_S = 0.25
"""Between two looks at the committed offsets; it is the resolution of recovery times."""

_STANDSTILL_S_MAX = 120.0
"""Seconds without any commit after which a run is given up: ten session timeouts."""

_PREPARES = 5
"""Which prepare of the first worker is its last: both are at work by then."""

_SESSION_TIMEOUT_MS = 6_000
"""As short as Kafka allows by default: it is most of what a takeover after a kill waits for."""

_FOREVER_MS = str(400 * 24 * 3_600_000)
"""Longer than the flights' year. Kafka rolls segments by the records' own timestamps, so it would
begin one every simulated week."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Fields: the first so many flights of the file, None for all; kills of workers on the way;
    worker processes; how to break the run, if at all; the seed of the disorder.
    """

    flights: int | None = None
    kills: int = 4
    workers: int = 2
    breakage: Breakage | None = None
    seed: int = 2013


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Fields: what is not as it must be, flights processed, kills survived of those made, commits,
    seconds from the first flight to the last commit, seconds of each recovery.
    """

    findings: Findings
    flights: int
    kills: int
    survived: int
    commits: int
    processing_s: float
    recoveries_s: tuple[float, ...]

    @property
    def verified(self) -> bool:
        """Whether every result is right and every kill was survived."""
        return self.findings.is_clean and self.survived == self.kills

    def verdict(self) -> str:
        """The last line of a run."""
        found = self.findings
        return (
            f"{'VERIFIED' if self.verified else 'FAILED'} lost={found.lost} "
            f"doubled={found.doubled} wrong={found.wrong} flights={self.flights} "
            f"results={found.rows} kills={self.kills}"
        )


def run_demo(plan: Plan) -> Outcome:
    """Run the main job; shows its progress on standard error.

    Raises:
        ConfigError: Java, Maven or the data is missing; the message names the command.
        Unreachable: Kafka or the workers stand still.
        WorkerEnded: a worker ended though nobody killed it.
    """
    directory = data_directory()
    flights = read_flights(directory, plan.flights)
    with Display(len(flights)) as display, ExitStack() as undo:
        display.tell(f"computing the truth of {len(flights):,} flights with DuckDB")
        truth = compute_truth(directory, len(flights))
        kafka = undo.enter_context(LocalKafka(progress=display.tell))
        work = Path(tempfile.mkdtemp(prefix="onceflow-demo-"))
        kept = undo.enter_context(ExitStack())
        kept.callback(display.tell, f"the workers' logs and state are kept in {work}")
        sinks = work / "sinks"
        sinks.mkdir()
        members, coordinator = group_of_three(work)
        environ = {
            "ONCEFLOW_DEMO_BROKER": f"onceflow://{kafka.bootstrap}",
            "ONCEFLOW_DEMO_SINKS": str(sinks),
            "ONCEFLOW_COORDINATOR": coordinator,
            "ONCEFLOW_SESSION_TIMEOUT_MS": str(_SESSION_TIMEOUT_MS),
        }
        app_path = "onceflow.demo.app:app"
        if plan.breakage is not None and plan.breakage is not Breakage.STALE:
            app_path = "onceflow.demo.sabotage:app"
            environ[VARIABLE] = plan.breakage.value
        workers = [
            worker_process(number, app_path, work, environ) for number in range(1, plan.workers + 1)
        ]
        for process in (*members, *workers):
            undo.callback(process.kill)
        display.tell("a group of three keeps a record of what is in doubt")
        for member in members:
            member.start()
        processes = _Processes(workers, members, sinks)
        job = _Job(plan, ClientConfig(kafka.bootstrap), display, processes)
        ordered = in_publication_order(flights, plan.seed)
        outcome = asyncio.run(job.run(directory, ordered, truth))
        if outcome.verified:
            kept.pop_all()
            undo.callback(shutil.rmtree, work, ignore_errors=True)
        return outcome


@dataclass(frozen=True, slots=True)
class _Processes:
    """Who takes part: workers, members of the group, and where the workers' sinks write."""

    workers: list[DemoProcess]
    members: list[DemoProcess]
    sinks: Path


class _Job:
    """One run: its workers, and what is watched of it."""

    def __init__(
        self, plan: Plan, config: ClientConfig, display: Display, processes: _Processes
    ) -> None:
        self._plan = plan
        self._config = config
        self._display = display
        self._workers = processes.workers
        self._members = processes.members
        self._sinks = processes.sinks
        self._doomed: DemoProcess | None = None
        """A worker that will kill itself at its crash point."""
        self._admin = Admin(config)
        self._watch = Watch(config, self._admin)
        self._next_victim = 1
        self._last_look = (-1, 0.0)

    async def run(self, directory: Path, flights: list[FlightRow], truth: Truth) -> Outcome:
        """Everything between a running Kafka and the outcome."""
        try:
            last_hour = max(flight.hour for flight in flights)
            weather = [seen for seen in read_weather(directory) if seen.hour <= last_hour]
            await self._prepare(weather)
            seconds = await self._process(flights)
            await asyncio.gather(*(self._off_loop(worker.stop) for worker in self._workers))
            await asyncio.gather(*(self._off_loop(member.stop) for member in self._members))
            if self._plan.breakage is Breakage.STALE:
                await write_stale_rows(self._config)
            self._display.tell("comparing every report, window and total with the truth")
            findings = await self._off_loop(lambda: verify(self._config, truth, self._sinks))
        finally:
            self._admin.close()
            await self._off_loop(self._watch.close)
        watch = self._watch
        outcome = Outcome(
            findings=findings,
            flights=len(flights),
            kills=len(watch.kills),
            survived=watch.survived,
            commits=watch.commits,
            processing_s=seconds,
            recoveries_s=tuple(kill.recovery_s or 0.0 for kill in watch.kills),
        )
        self._tell_outcome(outcome, truth, directory)
        return outcome

    async def _prepare(self, weather: list[WeatherRow]) -> None:
        """Make the topics, and have the weather in the GlobalTable before the first flight.

        Raises:
            ConfigError: the topics exist, on a Kafka that is not ours.
        """
        present = await self._admin.topics([WEATHER, FLIGHTS, REPORTS])
        if present:
            raise ConfigError(
                f"topics {', '.join(present)} exist at {self._config.bootstrap_servers} already; "
                "nothing was changed. The main job counts what is in them, so it wants a Kafka of "
                "its own: unset ONCEFLOW_BROKER, or delete them and the topics of the application "
                f"{APP_ID} if they are of no use"
            )
        for topic in (WEATHER, FLIGHTS, REPORTS):
            settings = {"retention.ms": "-1", "segment.ms": _FOREVER_MS}
            await self._admin.create_topic(topic, PARTITIONS, config=settings)
        self._display.tell(f"{len(weather):,} hours of weather go into a GlobalTable")
        await publish_weather(self._config, weather)
        first = self._workers[0]
        first.start()
        await self._until(lambda: self._watch.is_done(WEATHER))
        first.stop()

    async def _process(self, flights: list[FlightRow]) -> float:
        """Publish and process all flights, with kills on the way; returns the seconds it took."""
        self._display.tell(
            f"{len(self._workers)} workers; {self._plan.kills} times one is killed by SIGKILL"
        )
        began_s = time.monotonic()
        publishing = asyncio.ensure_future(publish_flights(self._config, flights))
        total = len(flights)
        try:
            await self._start_workers(total)
            for kill in range(2, self._plan.kills + 1):
                share = total * kill // (self._plan.kills + 1)
                await self._until(lambda share=share: self._watch.flights_done >= share)
                await self._kill_one()
            await self._until(lambda: self._watch.flights_done >= total)
            await publishing
        finally:
            publishing.cancel()
        while await self._off_loop(self._watch.has_repartitioned_rest):
            await self._look()
        seconds = time.monotonic() - began_s
        await self._until(lambda: not self._watch.is_recovering())
        return seconds

    def _next(self) -> DemoProcess:
        victim = self._workers[self._next_victim % len(self._workers)]
        self._next_victim += 1
        return victim

    async def _kill_one(self) -> None:
        """Kill a worker, start it again, and wait until all partitions go on."""
        victim = self._next()
        at_s = time.monotonic()
        victim.kill()
        await self._recover(victim, at_s, "killed by SIGKILL")

    async def _start_workers(self, total: int) -> None:
        """Start all workers; the first one to die between prepare and decision.

        A member of the group is killed with it.
        """
        first, *others = self._workers
        for worker in others:
            worker.start()
        if not self._plan.kills:
            first.start()
            return
        self._doomed = first
        first.start(ONCEFLOW_CRASH_POINT=f"{CrashPoint.AFTER_PREPARE.value}:{_PREPARES}")
        await self._until(lambda: first.has_ended or self._watch.flights_done >= total)
        how = "between prepare and decision" if first.has_ended else "with nothing left to do"
        at_s = time.monotonic()
        self._doomed = None
        first.kill()
        member = self._members[0]
        member.kill()
        self._display.tell(f"{member.name} of the group killed by SIGKILL")
        await self._recover(first, at_s, f"killed by SIGKILL {how}")
        member.start()

    async def _recover(self, victim: DemoProcess, at_s: float, how: str) -> None:
        # Looked at only now: what it committed in its last moment is no recovery.
        await self._watch.look()
        self._watch.note_kill(at_s)
        self._display.tell(f"{victim.name} {how}")
        victim.start()
        await self._until(lambda: not self._watch.is_recovering())
        recovery_s = self._watch.kills[-1].recovery_s or 0.0
        self._display.tell(f"all partitions go on after {recovery_s:.1f} s")

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Look again and again until ``reached``.

        Raises:
            Unreachable: nothing was committed for too long.
            WorkerEnded: a worker ended though nobody killed it.
        """
        await self._look()
        while not reached():
            await asyncio.sleep(_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        watch = self._watch
        await watch.look()
        for process in (*self._workers, *self._members):
            if process is not self._doomed:
                process.require_alive()
        kills = f"{watch.commits:,} commits, {len(watch.kills)} kills"
        self._display.show(watch.flights_done, kills)
        now_s = time.monotonic()
        if watch.commits != self._last_look[0]:
            self._last_look = (watch.commits, now_s)
        elif now_s - self._last_look[1] > _STANDSTILL_S_MAX:
            tails = "\n".join(worker.log_tail() for worker in self._workers)
            raise Unreachable(
                f"group {APP_ID} committed nothing for {_STANDSTILL_S_MAX:.0f} s; the run is given "
                f"up. The ends of the workers' logs:\n{tails}"
            )

    def _tell_outcome(self, outcome: Outcome, truth: Truth, directory: Path) -> None:
        for example in outcome.findings.examples:
            self._display.tell(f"[red]{example}[/red]")
        recoveries = ", ".join(f"{each:.1f} s" for each in outcome.recoveries_s)
        self._display.figures(
            {
                "flights": f"{outcome.flights:,} in {outcome.processing_s:.1f} s, "
                f"{outcome.flights / outcome.processing_s:,.0f} per second",
                "commits": f"{outcome.commits:,} transactions",
                "kills survived": f"{outcome.survived} of {outcome.kills}",
                "recoveries": recoveries or "none",
                "compared": f"{outcome.findings.rows:,} windows and totals, "
                f"{outcome.flights:,} reports",
                **(highlights(truth, directory) if outcome.verified else {}),
            }
        )

    @staticmethod
    async def _off_loop(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work)


def highlights(truth: Truth, directory: Path) -> dict[str, str]:
    """What the year was like, once the results are verified: the sort of answer the job is for."""
    minutes: dict[str, list[int]] = {}
    for weather, delay in truth.reports.values():
        if delay is not None:
            minutes.setdefault(weather, []).append(delay)
    sky = max(minutes, key=lambda weather: sum(minutes[weather]) / len(minutes[weather]))
    carriers: dict[str, list[int]] = {}
    for (route, _), (departures, delay, _longest) in truth.hourly.items():
        total = carriers.setdefault(route.partition("-")[2], [0, 0])
        total[0] += departures
        total[1] += delay
    late = max(carriers, key=lambda carrier: carriers[carrier][1] / carriers[carrier][0])
    tail = max(truth.aircraft, key=lambda each: truth.aircraft[each][1])
    plane = read_planes(directory).get(tail)
    model = f" ({plane.manufacturer} {plane.model})" if plane else ""
    airline = read_airlines(directory)[late]
    return {
        "worst weather": f"{sky}, {sum(minutes[sky]) / len(minutes[sky]):.1f} min mean delay",
        "latest airline": f"{airline}, {carriers[late][1] / carriers[late][0]:.1f} min mean delay",
        "furthest flown": f"{tail}{model}, {truth.aircraft[tail][1]:,} miles",
    }
