"""A thread for calls that block, so that the event loop never does.

librdkafka's transaction calls block, and ``send_offsets_to_transaction`` ignores its timeout
(librdkafka #5456); two-phase sinks block as well, each on a thread of its own. A call that does
not come back cannot be ended from outside: the thread is then stuck, everything after it is
refused, and the worker must fail.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from onceflow.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def _name_of(call: Callable[..., object]) -> str:
    is_named = isinstance(call, (FunctionType, BuiltinFunctionType, MethodType))
    return call.__qualname__ if is_named else repr(call)


class _Job:
    __slots__ = ("answer", "call")

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.answer: concurrent.futures.Future[object] = concurrent.futures.Future()


class CallThread:
    """One daemon thread that runs calls one after another."""

    def __init__(self, name: str = "onceflow-transactions") -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stuck_in: str | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def stuck_in(self) -> str | None:
        """Name of the call that did not come back in its time, or None."""
        return self._stuck_in

    async def run(self, call: Callable[..., T], *args: object, timeout_s: float) -> T:
        """Run ``call(*args)`` on the thread and return what it returns, or raise what it raises.

        Who is cancelled takes the call back, unless it has begun: that one runs to its end.

        Raises:
            OutcomeUnknown: the call did not come back within ``timeout_s``, or an earlier one did
                not: whether it took effect is not known, and this thread is lost. Fail the worker;
                the next incarnation fences this one and reads the marker.
        """
        if self._stuck_in is not None:
            raise self._stuck(self._stuck_in)
        job = _Job(lambda: call(*args))
        self._jobs.put(job)
        answer = asyncio.wrap_future(job.answer)
        try:
            done, _ = await asyncio.wait({answer}, timeout=timeout_s)
        except asyncio.CancelledError:
            # A call that has not begun is taken back: nobody wants it, and the calls after it would
            # wait in their own time for it.
            answer.cancel()
            raise
        if not done:
            self._stuck_in = f"{_name_of(call)} (allowed: {timeout_s} s)"
            raise self._stuck(self._stuck_in)
        return cast("T", answer.result())

    def stop(self) -> None:
        """Let the thread end after what it was given; does not wait for it."""
        self._jobs.put(None)

    @staticmethod
    def _stuck(where: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"a call of the Kafka client, or of a sink, did not come back in its time: {where}."
            " Whether it took effect is not known. This worker must end; the next incarnation"
            " fences it and reads the marker, so that nothing is lost or doubled. Check that the"
            " brokers, or the sink, answer"
        )

    def _main(self) -> None:
        """Loop root of the thread: what a call raises goes to whoever asked."""
        while (job := self._jobs.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                job.answer.set_result(job.call())
            except BaseException as error:  # noqa: BLE001 - handed over to the waiter
                job.answer.set_exception(error)


def deliver(
    call: Callable[[T], object], argument: T, on_failure: Callable[[BaseException], object]
) -> None:
    """Give the event loop what a thread told it, as the callback of ``call_soon_threadsafe``.

    asyncio only logs what a callback raises. A worker that missed an assignment that way would hang
    without a sign, so whatever is raised goes to ``on_failure``.
    """
    try:
        call(argument)
    except Exception as error:  # noqa: BLE001 - root of the callbacks
        on_failure(error)
