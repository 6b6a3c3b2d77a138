"""Co-partitioning: which tasks an assignment makes, and whether it can make any.

Decides what belongs together: all source topics of one partition count form one
set, because only those can be joined and share tables, and partition ``n`` of each of them belongs
to task ``(count, n)``. Kafka's range assignor gives one worker the same numbers of all of them,
*if* every worker subscribes to the same topics; it says nothing when they do not, so that is
checked here. Must never import anything that acts.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from onceflow.errors import TopologyError
from onceflow.ids import Partition, TaskId

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


def tasks(
    assignment: AbstractSet[Partition], partition_counts: Mapping[str, int]
) -> dict[TaskId, set[Partition]]:
    """Tasks that can open: all partitions of their number are in ``assignment``.

    Args:
        assignment: source partitions that this worker has.
        partition_counts: partition count of each subscribed source topic.
    """
    found = _by_task(assignment, partition_counts)
    absent = missing(assignment, partition_counts)
    return {task: partitions for task, partitions in sorted(found.items()) if task not in absent}


def missing(
    assignment: AbstractSet[Partition], partition_counts: Mapping[str, int]
) -> dict[TaskId, set[Partition]]:
    """What tasks still lack of which some partition is here.

    With ``group.protocol=consumer`` an assignment arrives in pieces, so that something may be
    missing for a while; with the classic protocol nothing may.
    """
    absent: dict[TaskId, set[Partition]] = {}
    for task, here in _by_task(assignment, partition_counts).items():
        wanted = {
            Partition(topic, task.number)
            for topic, count in partition_counts.items()
            if count == task.partition_count
        }
        if wanted - here:
            absent[task] = wanted - here
    return absent


def check_assignment(
    assignment: AbstractSet[Partition], partition_counts: Mapping[str, int]
) -> None:
    """Refuse an assignment that tears co-partitioned topics apart.

    Raises:
        TopologyError: the members of the group do not subscribe to the same topics, or do not use
            the range assignor. Reaction: make them equal; nothing was consumed.
    """
    absent = missing(assignment, partition_counts)
    if not absent:
        return
    task, lacking = min(absent.items())
    topics = sorted(
        topic for topic, count in partition_counts.items() if count == task.partition_count
    )
    names = ", ".join(f"{partition.topic}[{partition.number}]" for partition in sorted(lacking))
    raise TopologyError(
        f"partition {task.number} of the co-partitioned topics {', '.join(topics)} "
        f"({task.partition_count} partitions each) is split between workers: {names} went to "
        f"another one. Joins and tables would miss records, so nothing was consumed. All workers "
        f"of a group must subscribe to the same topics and use the range assignor: stop workers "
        f"that run another version of the application, then start again."
    )


def check_tables(
    table_partition_counts: Mapping[str, int], partition_counts: Mapping[str, int]
) -> None:
    """Refuse tables whose changelog has a partition count that no source topic has.

    Args:
        table_partition_counts: partition count of each table's changelog (GlobalTables left out).
        partition_counts: partition count of each subscribed source topic.

    Raises:
        TopologyError: reaction: give the table the partition count of the topics it is fed from.
    """
    counts = set(partition_counts.values())
    for table, count in sorted(table_partition_counts.items()):
        if count not in counts:
            raise TopologyError(
                f"table {table} has {count} partitions, but the source topics have "
                f"{_listed(partition_counts)}. No worker could own its partitions together with "
                f"the records that change them. Give the table as many partitions as the topics "
                f"that it is fed from (Table(..., partitions=n)); a changelog that exists already "
                f"must be copied into one of that size."
            )


def _by_task(
    assignment: AbstractSet[Partition], partition_counts: Mapping[str, int]
) -> dict[TaskId, set[Partition]]:
    found: dict[TaskId, set[Partition]] = defaultdict(set)
    for partition in assignment:
        count = partition_counts.get(partition.topic)
        if count is None:
            raise TopologyError(
                f"{partition.topic}[{partition.number}] was assigned, but this worker does not "
                f"read {partition.topic}. All workers of a group must run the same application: "
                f"use another id for another application."
            )
        found[TaskId(count, partition.number)].add(partition)
    return found


def _listed(partition_counts: Mapping[str, int]) -> str:
    return ", ".join(f"{topic}: {count}" for topic, count in sorted(partition_counts.items()))
