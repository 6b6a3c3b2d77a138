"""What every process of a simulated group shares: time, chance, the network, and who watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from random import Random

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.replica import PeerMessage, Replica, ReplicaReady
    from onceflow_consensus.testing.simulator.engines import EngineRules
    from onceflow_consensus.testing.simulator.ledger import Ledger
    from onceflow_consensus.testing.simulator.network import Network
    from onceflow_consensus.testing.simulator.plan import Setup

TICK_MS = 10
"""Milliseconds between ticks of a clock that runs right."""


class Observer:
    """Is told what replicas do; a trace overrides what it wants to see. By itself it does nothing.

    Each method is called after what it names has happened, with the replica as it is then.
    """

    def started(self, node: Replica) -> None:
        """A replica started, or started again."""

    def ticked(self, node: Replica) -> None:
        """A replica let a tick pass."""

    def stepped(self, node: Replica, message: PeerMessage) -> None:
        """A replica took a message, or a response of its own threads."""

    def readied(self, node: Replica, ready: ReplicaReady) -> None:
        """A replica handed out what is to be done."""

    def sent(self, node: Replica, message: PeerMessage) -> None:
        """A message left a replica."""

    def advanced(self, node: Replica) -> None:
        """A replica was told that its last ``Ready`` is done."""

    def reconfigured(self, node: Replica) -> None:
        """A replica applied a membership change."""

    def crashed(self, peer_id: PeerId) -> None:
        """A replica crashed."""


@dataclass(slots=True)
class Surroundings:
    """The world as a process sees it.

    schedule: call something with an argument after some milliseconds; it returns the replica that
        then has work, or None.
    """

    setup: Setup
    choice: Random
    counts: Counter[str]
    ledger: Ledger
    rules: EngineRules
    network: Network
    schedule: Callable[[int, Callable[..., object], object], None]
    observer: Observer | None = None
