"""What becomes of records whose reader leaves its stream while it holds them.

A reader that leaves on purpose (``break``, ``return``) has finished its record. One that failed or
was cancelled has not: acknowledging the record would lose it, and what it did of it is in the open
epoch, so the epoch is aborted and the record comes again. Python shows both as the same closing of
the generator; what became of the reader's task tells them apart.
"""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from typing import TYPE_CHECKING, cast

from onceflow.engine.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.engine.records import RecordEvent
    from onceflow.engine.stream import Stream
    from onceflow.engine.topic import Topic

Reader = asyncio.Task[object]
"""The task that iterates a stream."""


class Acks(Enum):
    """Who finishes records: the stream when its reader asks for more, or the reader itself."""

    OF_STREAM = "stream"
    OF_READER = "reader"


def settle(stream: Stream, held: Iterable[RecordEvent], acks: Acks) -> None:
    """Finish or give up the records that a reader holds; called while its iteration ends.

    An agent that raised is none of this function's business: it reports the failure itself.

    Args:
        stream: what was iterated.
        held: records handed out last.
        acks: who finishes them.
    """
    error = sys.exc_info()[1]
    cursor = cast("Topic", stream.channel).cursor
    if isinstance(error, GeneratorExit) and _left_on_purpose(stream):
        if acks is Acks.OF_STREAM:
            for event in held:
                cursor.acknowledge(event)
            return
        if stream.restarted_by_agent:
            return  # The agent may acknowledge them yet.
    elif error is None or (stream.restarted_by_agent and not _is_cancelled(stream.reading)):
        return
    if cursor.in_progress:
        runtime_of(stream.app).failures.abandoned(stream)


def await_acknowledgement(event: RecordEvent) -> None:
    """Remember a record that its reader went on from unfinished: it may acknowledge it later."""
    if event.live:
        event.channel.cursor.unacknowledged[event.batch.partition, event.offset] = event


def _left_on_purpose(stream: Stream) -> bool:
    """Return whether the reader's task goes on, or ended, without an error."""
    task = stream.reading
    if task is None or _is_cancelled(task) or stream.app.crashed:
        return False
    return not task.done() or task.exception() is None


def _is_cancelled(task: Reader | None) -> bool:
    return task is not None and (task.cancelled() or task.cancelling() > 0)
