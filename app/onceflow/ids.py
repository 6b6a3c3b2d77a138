"""Value types that every room shares.

They are plain tuples or strings at run time, so that a hot loop pays nothing for them; the
type checker keeps them apart.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

Incarnation = NewType("Incarnation", str)
"""One start of one worker process: random, never used twice."""

CommitEpoch = NewType("CommitEpoch", int)
"""Number of a commit attempt of one incarnation; grows by one per attempt, never used twice."""

Offset = NewType("Offset", int)
"""A Kafka offset: always the *next* record to read, as in a committed offset."""


class BranchId(NamedTuple):
    """What one commit epoch does in two-phase sinks; one branch in each. Ordered."""

    incarnation: Incarnation
    commit_epoch: CommitEpoch


class Partition(NamedTuple):
    """A topic partition, equal and ordered by (topic, number)."""

    topic: str
    number: int


class TaskId(NamedTuple):
    """A co-partitioned set of topics and tables, and one partition number of it.

    All source topics with ``partition_count`` partitions form one set, because only those can be
    assigned together; their tables have the same count.
    """

    partition_count: int
    number: int


class Stamp(NamedTuple):
    """Which assignment and which attempt within it a batch, actor, write or send belongs to.

    A stamp other than the present one marks a ghost: work of an aborted attempt or of a lost
    partition, which is refused.
    """

    assignment: int
    attempt: int
