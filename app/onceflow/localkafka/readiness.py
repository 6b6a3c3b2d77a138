"""Decides when a cluster is ready: when a transactional producer and a consumer could start.

A listening port says little about Kafka in KRaft mode: the broker may still be fenced, and the
topics behind groups and transactions are created at their first use. So readiness is: every broker
lists all brokers, a group and a transaction coordinator are found, and a producer id is given.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from onceflow.localkafka.wire import (
    Address,
    CoordinatorKind,
    ProtocolError,
    find_coordinator,
    init_producer_id,
    metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PROBE_ID = "onceflow-localkafka-probe"
"""Group and transactional id of the probes; no transaction is ever begun with it."""

_PAUSE_S = 0.1
"""Between two attempts; a broker takes two seconds to start, so this costs little."""

_ANSWER_S = 2.0
"""Bound of one request. A healthy broker answers these within milliseconds."""


def wait_ready(addresses: Sequence[Address], timeout_s: float, check: Callable[[], None]) -> str:
    """Wait until the brokers at ``addresses`` form a cluster that serves transactions.

    Args:
        addresses: one per broker; all of them must be listed by all.
        timeout_s: bound of the whole wait.
        check: called between attempts; raises to end the wait, as when a broker has died.

    Returns:
        The cluster's id.

    Raises:
        TimeoutError: not ready in time; its text is the last obstacle.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return probe(addresses)
        except (OSError, ProtocolError) as error:
            obstacle = str(error)
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(obstacle)
        time.sleep(_PAUSE_S)


def probe(addresses: Sequence[Address]) -> str:
    """Ask once whether the cluster is ready; returns its id.

    Raises:
        OSError: a broker does not answer.
        ProtocolError: the cluster is not ready yet.
    """
    cluster_id = ""
    for address in addresses:
        cluster = metadata(address, _ANSWER_S)
        missing = set(addresses) - set(cluster.brokers.values())
        if missing:
            raise ProtocolError(f"{address.port} does not list {sorted(missing)} as living")
        cluster_id = cluster.cluster_id
    find_coordinator(addresses[0], CoordinatorKind.GROUP, _PROBE_ID, _ANSWER_S)
    coordinator = find_coordinator(addresses[0], CoordinatorKind.TRANSACTION, _PROBE_ID, _ANSWER_S)
    init_producer_id(coordinator, _PROBE_ID, _ANSWER_S)
    return cluster_id


def answers(address: Address) -> bool:
    """Whether a Kafka broker answers at ``address`` at this moment."""
    try:
        metadata(address, _ANSWER_S)
    except (OSError, ProtocolError):
        return False
    return True


def lists_itself(address: Address) -> bool:
    """Whether the broker at ``address`` answers and counts itself among the living."""
    try:
        return address in metadata(address, _ANSWER_S).brokers.values()
    except (OSError, ProtocolError):
        return False
