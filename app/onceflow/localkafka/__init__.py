"""A real Apache Kafka in KRaft mode as child processes, for tests, demo, ``dev`` and the CLI.

What it decides: where Java and Kafka's jars come from, which ports and directories a cluster
uses, how its brokers live and die, and when the cluster counts as ready. It speaks to the brokers
in a few raw requests of Kafka's protocol, because it must not import a client library.

Must never import: ``onceflow.engine``, ``confluent_kafka``.
"""

from __future__ import annotations

from onceflow.localkafka.cluster import LocalKafka
from onceflow.localkafka.detached import (
    BrokerStatus,
    ClusterStatus,
    start_detached,
    status,
    stop_detached,
)

__all__ = [
    "BrokerStatus",
    "ClusterStatus",
    "LocalKafka",
    "start_detached",
    "status",
    "stop_detached",
]
