"""What the poll thread hands over: runs of consecutive records of one partition, as columns.

Decides the shape only. A run is built once (see ``columns.py``), is never changed afterwards and
is read by the event loop. This module must not import confluent_kafka, so that pure code and tests
can build runs by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from onceflow.ids import Partition

Headers: TypeAlias = "list[tuple[str, bytes | None]]"


class Run:
    """Consecutive records of one partition; the columns have equal length and are never empty.

    Offsets grow strictly but need not be contiguous: control records of transactions and compacted
    records take offsets too (confluent-kafka-python #1706).

    Attributes:
        topic: name of the topic.
        number: number of the partition.
        partition: both of them together.
        offsets: Kafka offsets.
        keys: raw keys; None where the record has none.
        values: raw values; None is a tombstone.
        timestamps: milliseconds since 1970 UTC, create or append time as the topic has it.
        headers: per record its headers or None; the column is None when no record has any.
        size_bytes: bytes of keys and values; counts for back-pressure.
        fetch: the fetch generation of the partition in which the run was read. A run with another
            generation than the present one was read before a seek and must be dropped.
    """

    __slots__ = (
        "fetch",
        "headers",
        "keys",
        "number",
        "offsets",
        "partition",
        "size_bytes",
        "timestamps",
        "topic",
        "values",
    )

    def __init__(
        self,
        partition: Partition,
        offsets: list[int],
        keys: list[bytes | None],
        values: list[bytes | None],
        timestamps: list[int],
        headers: list[Headers | None] | None,
        size_bytes: int,
        fetch: int,
    ) -> None:
        self.topic: str = partition.topic
        self.number: int = partition.number
        self.partition: Partition = partition
        self.offsets: list[int] = offsets
        self.keys: list[bytes | None] = keys
        self.values: list[bytes | None] = values
        self.timestamps: list[int] = timestamps
        self.headers: list[Headers | None] | None = headers
        self.size_bytes: int = size_bytes
        self.fetch: int = fetch

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        span = f"{self.offsets[0]}..{self.offsets[-1]}" if self.offsets else "empty"
        return f"<Run {self.topic}[{self.number}] {span} n={len(self)} fetch={self.fetch}>"
