"""Performs what ``policy`` decides: starts worker processes, passes signals on, waits.

The loop of ``supervise`` takes one event after the other from a queue, which signal handlers and
waiting tasks fill; nothing else touches the policy. Workers run in sessions of their own, so that
a Ctrl-C in the terminal reaches them once, through the supervisor.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from onceflow.supervisor.child import Fleet, plan_child
from onceflow.supervisor.hosting import for_app, hosted_group
from onceflow.supervisor.lifeline import open_lifeline
from onceflow.supervisor.policy import (
    EXIT_FAILURE,
    BackoffOver,
    DrainBoundOver,
    Effect,
    Event,
    Finish,
    Kill,
    Policy,
    Restart,
    Start,
    StopRequested,
    Terminate,
    WorkerExited,
)

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine


def supervise(fleet: Fleet) -> int:
    """Run ``fleet.settings.processes`` workers until a signal or their end; return the exit code.

    SIGTERM and SIGINT drain all workers within the drain bound; a second one kills them.
    """
    return asyncio.run(_Supervisor(fleet).run())


def supervise_hosted(fleet: Fleet) -> int:
    """As ``supervise``, with a group of one for an application that needs one and names none.

    It outlives the workers' drain, in which they tell it the rest.
    """
    if fleet.settings.coordinator is not None:
        return supervise(fleet)
    with hosted_group(for_app(fleet.app_path)) as address:
        return supervise(replace(fleet, coordinator=address))


class _Supervisor:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._policy = Policy(fleet.settings.processes)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._processes: dict[int, Process] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._lifeline, self._lifeline_writer = open_lifeline()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._events.put_nowait, StopRequested())
        effects = self._policy.start()
        while True:
            for effect in effects:
                if isinstance(effect, Finish):
                    return effect.code
                await self._perform(effect)
            effects = self._policy.handle(await self._events.get())

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Start(part):
                await self._start(part)
            case Restart(part, code, delay_s):
                _tell(f"worker {part} ended with code {code}; it is restarted in {delay_s:g} s")
                self._later(delay_s, BackoffOver(part))
            case Terminate(parts, reason):
                bound_s = self._fleet.drain_bound_s
                _tell(f"{reason}; stopping {len(parts)} workers, which may drain for {bound_s:g} s")
                self._signal(parts, signal.SIGTERM)
                self._later(bound_s, DrainBoundOver())
            case Kill(parts):
                _tell(f"killing {len(parts)} workers; Kafka aborts their open transactions")
                self._signal(parts, signal.SIGKILL)
            case Finish():
                pass

    async def _start(self, part: int) -> None:
        child = plan_child(self._fleet, part, self._lifeline)
        try:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                env=child.environ,
                pass_fds=(self._lifeline,),
                start_new_session=True,
            )
        except OSError as error:
            # No process or memory left is as good a reason for back-off as a crash.
            _tell(f"worker {part} cannot be started: {error}")
            self._events.put_nowait(WorkerExited(part, EXIT_FAILURE, _now_s()))
            return
        self._processes[part] = process
        _tell(f"worker {part} started, process {process.pid}")
        self._spawn(self._wait(part, process))

    async def _wait(self, part: int, process: Process) -> None:
        code = await process.wait()
        del self._processes[part]
        self._events.put_nowait(WorkerExited(part, code, _now_s()))

    def _later(self, delay_s: float, event: Event) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._events.put_nowait, event)

    def _spawn(self, waiting: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(waiting)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    def _signal(self, parts: frozenset[int], number: signal.Signals) -> None:
        for part in parts:
            # One that has ended meanwhile is reaped, and its end is in the queue.
            if part in self._processes:
                self._processes[part].send_signal(number)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _tell(text: str) -> None:
    sys.stderr.write(f"onceflow supervisor {os.getpid()}: {text}\n")
    sys.stderr.flush()
