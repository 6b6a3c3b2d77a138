"""The configuration of one broker, as the text of its ``server.properties``.

Rules of this file: pure; every setting that differs from Kafka's default has its reason here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """One broker of a cluster, which is a controller at the same time.

    Fields: Kafka's node id (from 1), the clients' port, the controllers' port; of 127.0.0.1.
    """

    node: int
    port: int
    controller_port: int


def server_properties(
    node: Node, nodes: Sequence[Node], data: Path, overrides: Mapping[str, str]
) -> str:
    """Write the configuration of ``node`` in the cluster ``nodes``, with its files in ``data``."""
    settings = {**_identity(node, nodes, data), **_behaviour(len(nodes)), **overrides}
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _identity(node: Node, nodes: Sequence[Node], data: Path) -> dict[str, str]:
    voters = ",".join(f"{each.node}@127.0.0.1:{each.controller_port}" for each in nodes)
    clients = f"PLAINTEXT://127.0.0.1:{node.port}"
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.node),
        "controller.quorum.voters": voters,
        "listeners": f"{clients},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": clients,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
    }


def _behaviour(brokers: int) -> dict[str, str]:
    in_sync_min = str(min(2, brokers))
    replicas = str(brokers)
    return {
        # Replicated as far as the cluster allows; Kafka's defaults want three brokers.
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync_min,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync_min,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync_min,
        # Fifty partitions each by default: seconds of creation, and as many open files.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "4",
        "num.partitions": "4",
        # A topic that appears by being named hides a spelling error and has the wrong partitions.
        "auto.create.topics.enable": "false",
        # Kafka counts retention by the records' own timestamps, so it deletes a replayed history
        # while it is being read. A local broker keeps what it was given.
        "log.retention.ms": "-1",
        # Three seconds of waiting for more members, at every first join of a group.
        "group.initial.rebalance.delay.ms": "0",
        # Clients of the classic protocol may ask for short sessions, for quick fault tests.
        "group.min.session.timeout.ms": "1000",
        # With KIP-848 the broker decides alone: sessions as short as onceflow's classic default.
        "group.consumer.session.timeout.ms": "10000",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.heartbeat.interval.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "500",
        # A broker killed by SIGKILL may come back only when its old registration has expired, nine
        # seconds by default; fault tests kill many.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        # 128 MB of heap by default, which a heap of 512 MB cannot spare.
        "log.cleaner.dedupe.buffer.size": str(32 << 20),
    }
