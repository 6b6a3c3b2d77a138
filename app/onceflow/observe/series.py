"""Families of series with cached label look-ups and a bound on their number.

``prometheus_client`` resolves labels under a lock and keeps every combination for ever. Here each
combination is resolved once and kept in a dictionary, and past the bound measurements fold into
one series named ``other``, so that a topic made per customer cannot use up the memory of a worker
or of the server that scrapes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onceflow.limits import METRIC_SERIES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.observe.catalogue import MetricSpec

OVERFLOW_LABEL = "other"
"""Value of every label of the series that takes what the bound refuses."""

Child = TypeVar("Child", Counter, Gauge, Histogram)


class Family(Generic[Child]):
    """All series of one metric.

    Threads: a look-up that misses may run twice at the same time; both get the same series.
    """

    def __init__(
        self, parent: Child, labels: tuple[str, ...], overflowed: Callable[[], None]
    ) -> None:
        """Wrap ``parent``; ``overflowed`` is called for each measurement that was folded."""
        self._parent = parent
        self._labels = labels
        self._overflowed = overflowed
        self._children: dict[tuple[str, ...], Child] = {}

    def child(self, *values: str) -> Child:
        """Return the series with these label values, in the catalogue's order."""
        found = self._children.get(values)
        if found is not None:
            return found
        if not self._labels:
            return self._parent
        if len(self._children) >= METRIC_SERIES_MAX:
            self._overflowed()
            return self._parent.labels(*(OVERFLOW_LABEL for _ in self._labels))
        made = self._parent.labels(*values)
        self._children[values] = made
        return made

    def remove(self, *values: str) -> None:
        """Forget the series with these label values; nothing happens if there is none."""
        if self._children.pop(values, None) is not None:
            self._parent.remove(*values)

    def remove_where(self, position: int, value: str) -> None:
        """Forget every series whose label at ``position`` has ``value``."""
        for values in [key for key in self._children if key[position] == value]:
            self.remove(*values)


class Families:
    """Makes families from the catalogue's entries, all in one registry."""

    def __init__(self, refused: MetricSpec) -> None:
        """Start an empty registry whose folded measurements are counted in ``refused``."""
        self.registry = CollectorRegistry()
        self._refused = Counter(
            refused.name, refused.meaning, refused.labels, registry=self.registry
        )

    def counters(self, spec: MetricSpec) -> Family[Counter]:
        """Make the family of a counter."""
        made = Counter(spec.name, spec.meaning, spec.labels, registry=self.registry)
        return Family(made, spec.labels, self._overflow(spec))

    def gauges(self, spec: MetricSpec) -> Family[Gauge]:
        """Make the family of a gauge."""
        made = Gauge(spec.name, spec.meaning, spec.labels, registry=self.registry)
        return Family(made, spec.labels, self._overflow(spec))

    def histograms(self, spec: MetricSpec) -> Family[Histogram]:
        """Make the family of a histogram with the spec's buckets."""
        made = Histogram(
            spec.name, spec.meaning, spec.labels, registry=self.registry, buckets=spec.buckets
        )
        return Family(made, spec.labels, self._overflow(spec))

    def _overflow(self, spec: MetricSpec) -> Callable[[], None]:
        return self._refused.labels(spec.name).inc
