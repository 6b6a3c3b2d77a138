"""Brings a cluster back to health before a test, whatever the one before it left behind."""

from __future__ import annotations

import time

from confluent_kafka.admin import AdminClient


def heal(server, timeout_s=90.0):
    """Start brokers that are down, thaw those that are frozen, wait for all replicas; the server.

    A broker that is ended while another one's replicas lag would leave partitions without a leader.
    """
    if not server.owned:
        return server
    for broker in server.brokers:
        if server.pid(broker) is not None:
            server.resume(broker)
        server.start_broker(broker)
    server.wait_ready(timeout_s)
    client = AdminClient({"bootstrap.servers": server.bootstrap})
    deadline = time.monotonic() + timeout_s
    while lagging := lagging_partitions(client):
        assert time.monotonic() < deadline, f"replicas lag after {timeout_s} s: {lagging[:10]}"
        time.sleep(0.2)
    return server


def lagging_partitions(client):
    """Partitions without a leader, or some of whose replicas are not in sync."""
    return [
        f"{topic.topic}[{partition.id}]"
        for topic in client.list_topics(timeout=20).topics.values()
        for partition in topic.partitions.values()
        if partition.leader < 0 or len(partition.isrs) < len(partition.replicas)
    ]
