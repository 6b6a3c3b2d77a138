"""Hands each run to every subscription of its topic, as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from faust.agents.models import ReqRepResponse
from faust.transport.conductor import Conductor as FaustConductor

from onceflow.engine.records import Batch
from onceflow.engine.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.types import TopicT

    from onceflow.engine.gate import Cursor
    from onceflow.engine.topic import Topic
    from onceflow.ids import Partition, Stamp
    from onceflow.kafka.records import Run


class Conductor(FaustConductor):
    """Faust's registry of subscriptions, with batches instead of messages."""

    # A topic added while the worker runs is subscribed soon; each change is a rebalance, so
    # additions that come together are collected for a moment.
    _resubscribe_sleep_lock_seconds = 0.5

    def add(self, topic: TopicT) -> None:
        """Register a subscription. Reply topics are read past the group: replies are ours alone."""
        if cast("Any", topic).value_type is ReqRepResponse:
            runtime_of(self.app).replies.follow(cast("Topic", topic))
            return
        is_late = topic not in self._topics
        super().add(topic)
        if is_late and topic.active_partitions is None:
            self._join(cast("Topic", topic))

    def _join(self, topic: Topic) -> None:
        """Let a late reader of partitions that are assigned already read what comes from here on.

        Its cursor has no position until its first run, so no epoch waits for it before.
        """
        for tp in cast("Any", self.app)._assignment or ():  # noqa: SLF001 - Faust's record of it
            if tp.topic in topic.topics:
                self._tp_index[tp].add(topic)

    def leave(self, topic: Topic) -> None:
        """Forget a subscription that nobody reads any more, so that no epoch waits for it."""
        self._topics.discard(topic)
        for channels in self._tp_index.values():
            channels.discard(topic)
        runtime_of(self.app).gate.discard(topic.cursor)
        topic.cursor.reset()
        topic.forget_cursor()

    def dispatch(self, run: Run, stamp: Stamp, skipping: Iterable[Cursor] = ()) -> Batch:
        """Give ``run`` to every subscription of its partition except ``skipping``."""
        cursors = [c for c in self.cursors(run.partition) if c not in skipping]
        batch = Batch(run, stamp, len(cursors))
        for cursor in cursors:
            cursor.push(batch)
        for cursor in skipping:
            cursor.done[run.partition] = batch.next_offset
        return batch

    def cursors(self, partition: Partition) -> list[Cursor]:
        """Return the reading places of all subscriptions of ``partition``."""
        channels = self._tp_index.get(cast("Any", partition), ())
        return [c.cursor for c in cast("list[Topic]", list(channels)) if c.is_iterator]
