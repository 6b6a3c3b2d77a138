"""Every bound, with its unit and its reason. A bound that users may change is a setting."""

from __future__ import annotations

MARKER_BYTES_MAX = 256
"""Offset metadata of a marker. Kafka refuses more than 4,096 bytes; 256 keeps commits small."""

METRIC_SERIES_MAX = 5_000
"""Series of one metric. 5,000 are 1,000 partitions of five topics; a scrape stays under a second.

Measurements beyond it fold into one series whose labels say ``other``, and are counted.
"""

GATE_WINDOW_S = 10.0
"""Time over which the share of a closed gate is taken: a hundred epochs at the default interval."""

HTTP_CONNECTIONS_MAX = 32
"""Connections of the status server. Probes and scrapers need a handful; each costs memory."""

HTTP_IDLE_S_MAX = 30.0
"""A connection that asks nothing for so long is closed, so that idle ones cannot use up all."""

HTTP_LINE_BYTES_MAX = 4_096
"""Request line and each header: our paths are short, and nobody sends long cookies to probes."""

HTTP_BODY_BYTES_MAX = 16_384
"""Body of a request: all that the status server answers are reads."""

HTTP_PORTS_TRIED_MAX = 64
"""Ports tried from the default one on: more workers than that on one host have ports of their own."""

HTTP_START_S_MAX = 10.0
"""Bound on starting and stopping the status server; both take milliseconds."""

JAVA_VERSION_MIN = 17
"""Kafka 4 brokers need Java 17. Source: https://kafka.apache.org/43/getting-started/compatibility/"""

MAVEN_S = 900
"""Seconds that Maven may take to fetch a local Kafka's 44 MB; a slow network needs minutes."""

KAFKA_READY_S = 90.0
"""Seconds until a local Kafka must be ready: 3 are usual, a loaded machine takes ten times that."""

KAFKA_STOP_S = 15.0
"""Seconds that the brokers of a local Kafka get to stop in order; after that they are killed, which
loses nothing, because they recover their logs at the next start."""
