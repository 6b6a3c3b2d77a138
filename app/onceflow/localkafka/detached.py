"""Clusters that run on after the command that started them: start, stop and status by directory.

A file per client port below the cache names the directory of the cluster that was last started on
that port, so that ``--port`` alone finds it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.errors import ConfigError
from onceflow.localkafka.broker import Broker
from onceflow.localkafka.cache import cache_directory
from onceflow.localkafka.cluster import (
    LocalKafka,
    external_addresses,
    external_bootstrap,
    require_external,
    stop_brokers,
)
from onceflow.localkafka.guard import Tie
from onceflow.localkafka.plan import Plan, load_plan
from onceflow.localkafka.ports import is_free
from onceflow.localkafka.readiness import answers
from onceflow.localkafka.wire import Address

if TYPE_CHECKING:
    from collections.abc import Callable

PORT_PREFERRED = 9092
"""Kafka's customary port, taken when it is free and no other was asked for."""


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """One broker: its number, port, process id (None: does not run), and whether it answers."""

    broker: int
    port: int
    pid: int | None
    answers: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster: whether any broker answers, where, and each broker. No directory: not ours."""

    running: bool
    bootstrap: str
    directory: str | None
    brokers: tuple[BrokerStatus, ...]


def directory_for(directory: Path | None, port: int) -> Path:
    """Where the cluster of these command line options lives; an explicit directory wins."""
    if directory is not None:
        return directory.absolute()
    root = cache_directory() / "kafka"
    if not port:
        return root / "local"
    try:
        place = Path(_pointer(port).read_text())
    except FileNotFoundError:
        return root / f"local-{port}"
    plan = load_plan(place)
    # A cluster that has since taken another port is not the one that is meant.
    still = plan is not None and any(node.port == port for node in plan.nodes)
    return place if still else root / f"local-{port}"


def start_detached(
    directory: Path | None = None,
    *,
    brokers: int = 1,
    port: int = 0,
    heap_mb: int = 512,
    progress: Callable[[str], None] | None = None,
) -> ClusterStatus:
    """Start a cluster that runs on; returns once it answers. One that runs already is left alone.

    Args:
        directory: the cluster's; None for a place in the cache, one per explicit port.
        brokers: 1 or 3; a directory keeps the number it was made with.
        port: the first broker's; 0 for those of the directory's last start, else 9092 or a free
            one.
        heap_mb: the bound of each broker's Java heap.
        progress: is told, in words, before each step that takes long.

    Raises:
        ConfigError: as ``LocalKafka.start``; also when it runs already, but on another port.
        Unreachable: as ``LocalKafka.start``.
    """
    external = external_bootstrap()
    if external is not None:
        require_external(external)
        return status()
    place = directory_for(directory, port)
    found = status(place)
    if found.running:
        if port and found.brokers[0].port != port:
            raise ConfigError(
                f"the Kafka in {place} runs already, on port {found.brokers[0].port}, not on "
                f"{port}. Stop it first, or choose another directory"
            )
        if len(found.brokers) != brokers:
            raise ConfigError(
                f"the Kafka in {place} runs already, with {len(found.brokers)} broker(s), not "
                f"{brokers}. Stop it first, or choose another directory"
            )
        if all(each.answers for each in found.brokers):
            return found
        # A broker that died or hangs keeps its data, so the whole starts again from there.
    stop_detached(place)
    cluster = LocalKafka(
        place,
        brokers=brokers,
        port=port or preferred_port(place, brokers),
        heap_mb=heap_mb,
        progress=progress,
        tie=Tie.DETACHED,
    )
    cluster.start()
    cluster.release()
    started = status(place)
    remember_ports(place)
    return started


def stop_detached(directory: Path | None = None, *, port: int = 0) -> bool:
    """Stop the cluster of a directory, whoever started it; its data stays.

    Returns:
        Whether any broker ran.

    Raises:
        ConfigError: ``ONCEFLOW_BROKER`` is set; that Kafka is not ours to stop.
    """
    external = external_bootstrap()
    if external is not None:
        raise ConfigError(
            f"ONCEFLOW_BROKER is set to {external}: that Kafka was not started here and is left "
            "alone. Unset the variable to stop a local one"
        )
    place = directory_for(directory, port)
    running = [each for each in _brokers(place, load_plan(place)) if each.pid() is not None]
    stop_brokers(running)
    return bool(running)


def status(directory: Path | None = None, *, port: int = 0) -> ClusterStatus:
    """Look at the cluster of a directory, or at the Kafka of ``ONCEFLOW_BROKER``."""
    external = external_bootstrap()
    if external is not None:
        up = any(answers(address) for address in external_addresses(external))
        return ClusterStatus(up, external, None, ())
    place = directory_for(directory, port)
    plan = load_plan(place)
    brokers = tuple(_broker_status(each) for each in _brokers(place, plan))
    if plan is None and port:
        # Nothing of ours, but another Kafka may well be there.
        up = answers(Address("127.0.0.1", port))
        return ClusterStatus(up, f"127.0.0.1:{port}", None, ())
    bootstrap = "" if plan is None else plan.bootstrap
    return ClusterStatus(any(each.answers for each in brokers), bootstrap, str(place), brokers)


def preferred_port(place: Path, brokers: int) -> int:
    """The port of a cluster whose user named none; 0 leaves the choice to the cluster's start."""
    if load_plan(place) is not None:
        return 0
    wanted = range(PORT_PREFERRED, PORT_PREFERRED + brokers)
    return PORT_PREFERRED if all(is_free(port) for port in wanted) else 0


def remember_ports(place: Path) -> None:
    """Let ``--port`` alone find the started cluster of ``place``."""
    for broker in _brokers(place, load_plan(place)):
        pointer = _pointer(broker.node.port)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(str(place))


def _broker_status(broker: Broker) -> BrokerStatus:
    pid = broker.pid()
    up = pid is not None and answers(broker.address)
    return BrokerStatus(broker.node.node, broker.node.port, pid, up)


def _brokers(place: Path, plan: Plan | None) -> list[Broker]:
    return [] if plan is None else [Broker(node, place) for node in plan.nodes]


def _pointer(port: int) -> Path:
    return cache_directory() / "kafka" / "ports" / str(port)
