"""What the progress of an outbox sink means, and how refused rows are told apart from the others.

The *progress row* in the target says which offset of the outbox topic comes next. It is the only
truth about what was applied: the log may have been made again, cut off, or the target restored, and
each of these shows when the row is compared with the log. Pure: no I/O, no clock.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple


class Progress(NamedTuple):
    """What a target remembers of one partition of an outbox topic.

    Attributes:
        topic_id: of the topic that the rows came from; another one after it was made again.
        offset: the next to be applied; everything below it is in the target.
    """

    topic_id: str
    offset: int


class OutboxLog(NamedTuple):
    """One partition of an outbox topic, as the brokers have it.

    Attributes:
        topic_id: of the topic.
        low: log start offset.
        high: high watermark.
    """

    topic_id: str
    low: int
    high: int


def mismatch(progress: Progress | None, log: OutboxLog) -> str | None:
    """Say why nothing may be applied from ``log`` after ``progress``; None if all is well.

    Args:
        progress: of the target; None if it has applied nothing of this partition.
        log: the partition.
    """
    if progress is None:
        if log.low == 0:
            return None
        return (
            f"the topic begins at offset {log.low}, but the target knows of no row before it: what "
            "was deleted from the topic was applied to another target, or to this one before it "
            "was restored or lost its progress table"
        )
    if progress.topic_id != log.topic_id:
        return (
            f"the target was filled from the topic with the id {progress.topic_id}, and this one "
            f"is {log.topic_id}: it was deleted and made again"
        )
    if progress.offset < log.low:
        return (
            f"the target has what lies below offset {progress.offset}, but the topic begins at "
            f"{log.low}: the rows between were applied once, and the target was restored to a time "
            "before"
        )
    if progress.offset > log.high:
        return (
            f"the target has what lies below offset {progress.offset}, but the topic ends at "
            f"{log.high}: Kafka lost records that were committed"
        )
    return None


def parts_of(count: int, culprit: int | None) -> list[range]:
    """Cut a run of which a row was refused into runs that are to be tried in this order.

    Args:
        count: how many messages it has, at least two.
        culprit: which of them is to blame; None if that is not known, and it is halved.
    """
    cuts = [0, count // 2, count] if culprit is None else sorted({0, culprit, culprit + 1, count})
    return [range(start, stop) for start, stop in pairwise(cuts)]
