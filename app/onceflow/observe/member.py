"""What a member of the replicated group shows: its counts for Prometheus, and its health.

The member's loop publishes a table of numbers several times a second; the HTTP thread renders the
last one. So nothing of the member is read from another thread, and a table that is not renewed
tells that the loop stands still. Names and meanings of the numbers are the member's own, with the
prefix ``onceflow_meta_``; those that end in ``_total`` are counters, the others gauges.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from onceflow.observe.health import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

PREFIX = "onceflow_meta_"

STALLED_S = 10.0
"""Age of the last table from which on the loop counts as stuck: far above any pause of a member
that still does its work, such as loading a large state."""


class MemberReason(StrEnum):
    """Why a verdict on a member is negative; the values are an interface for scripts."""

    LOOP_STALLED = "event_loop_stalled"
    STARTING = "starting"
    NO_LEADER = "no_leader_known"
    NOT_CAUGHT_UP = "not_caught_up"


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What the member's loop tells at once.

    numbers: counts and states by name, without the prefix.
    raft_leader: who leads, None while nobody is known to.
    lag_entries: committed entries that are not applied here.
    """

    numbers: Mapping[str, float]
    raft_leader: int | None
    lag_entries: int


class MemberView:
    """The last facts of a member. ``publish`` is called by its loop, the rest by any thread."""

    def __init__(
        self, *, max_lag_entries: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without facts.

        Args:
            max_lag_entries: committed entries that a ready member may have left to apply.
            clock: monotonic seconds.
        """
        self._clock = clock
        self._max_lag_entries = max_lag_entries
        self._facts: MemberFacts | None = None
        self._published_s = clock()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Numbers(self))

    def publish(self, facts: MemberFacts) -> None:
        """Show ``facts`` from now on."""
        self._facts = facts
        self._published_s = self._clock()

    @property
    def numbers(self) -> Mapping[str, float]:
        """The last numbers, by name without the prefix."""
        return {} if self._facts is None else self._facts.numbers

    def exposition(self) -> bytes:
        """Render everything in Prometheus' text format, of ``EXPOSITION_CONTENT_TYPE``."""
        return generate_latest(self._registry)

    def live(self) -> Verdict:
        """Tell whether the member's loop runs; otherwise the process should be restarted."""
        return self._verdict([MemberReason.LOOP_STALLED] if self._is_stalled else [])

    def ready(self) -> Verdict:
        """Tell whether the member can serve: somebody leads, and it is not behind."""
        facts = self._facts
        reasons: list[MemberReason] = [MemberReason.LOOP_STALLED] if self._is_stalled else []
        if facts is None:
            reasons.append(MemberReason.STARTING)
        else:
            if facts.raft_leader is None:
                reasons.append(MemberReason.NO_LEADER)
            if facts.lag_entries > self._max_lag_entries:
                reasons.append(MemberReason.NOT_CAUGHT_UP)
        return self._verdict(reasons)

    @property
    def _is_stalled(self) -> bool:
        return self._clock() - self._published_s > STALLED_S

    def _verdict(self, reasons: list[MemberReason]) -> Verdict:
        facts = self._facts
        return Verdict(
            ok=not reasons,
            document={
                "ok": not reasons,
                "reasons": [reason.value for reason in reasons],
                "leader": None if facts is None else facts.raft_leader,
                "lag_entries": None if facts is None else facts.lag_entries,
            },
        )


class _Numbers(Collector):
    def __init__(self, view: MemberView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        for name, value in self._view.numbers.items():
            meaning = "see the page on operating a group"
            if name.endswith("_total"):
                yield CounterMetricFamily(PREFIX + name, meaning, value=value)
            else:
                yield GaugeMetricFamily(PREFIX + name, meaning, value=value)
