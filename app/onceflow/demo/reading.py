"""Reads a topic of the main job whole, as it is committed.

Rules of this file: read_committed, to the high watermark as a read_uncommitted client sees it, so
that a transaction left open is noticed and not passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.demo.names import partitions_of
from onceflow.errors import DataAtRisk
from onceflow.kafka.changelog import LOG_START, ChangelogReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.records import Run

_READ_RECORDS = 20_000
_READ_S = 1.0

_SILENT_READS_MAX = 60
"""Reads of a second without a record before an open transaction is blamed: twice the timeout after
which Kafka aborts it."""


def committed_runs(config: ClientConfig, topic: str) -> Iterator[Run]:
    """Yield all records of a topic, partition by partition in their order. Blocks.

    Raises:
        DataAtRisk: a transaction stays open.
        Unreachable: Kafka does not answer.
    """
    reader = ChangelogReader(config, dict.fromkeys(partitions_of(topic), LOG_START))
    silent = 0
    try:
        while reader.remaining():
            runs = reader.poll(_READ_RECORDS, _READ_S)
            yield from runs
            silent = 0 if runs else silent + 1
            if silent > _SILENT_READS_MAX:
                raise DataAtRisk(
                    f"{topic} has {reader.remaining()} offsets that a read_committed reader does "
                    "not get to see: a transaction is open though all workers have ended. The "
                    "results cannot be verified"
                )
    finally:
        reader.close()
