"""Tells the dead letters of messages that a target refused.

The target's table ``onceflow_refused`` is the record of them, exactly once. The copy in the dead
letters goes there with the next epoch and is noted afterwards, so that a crash in between may tell
it twice; its headers say which message it is. Key and value are those of the message, so that
sending them to the topic and partition in the headers applies it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from onceflow.errors import OutsideRecord
from onceflow.limits import DEAD_LETTER_HEADER_BYTES_MAX, OUTBOX_UNTOLD_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.sinks.outbox_format import readable

if TYPE_CHECKING:
    from onceflow.engine.applier import Applier
    from onceflow.engine.runtime import Runtime
    from onceflow.sinks.outbox import RefusedMessage

log = get_logger(__name__)


class RefusedTeller:
    """Tells the refused messages of one sink.

    What was sent is remembered until its commit is known, so that it is not sent again while
    commits stand still. Nothing is waited for: who applies has other work.
    """

    def __init__(self, runtime: Runtime, applier: Applier) -> None:
        self.runtime = runtime
        self.applier = applier
        self._may_be_there = False
        self._sent: dict[tuple[str, int, int], tuple[RefusedMessage, asyncio.Future[Any]]] = {}
        """What is on its way, by topic, partition and offset; at most ``OUTBOX_UNTOLD_MAX``."""

    def look(self) -> None:
        """Look for messages at the next occasion."""
        self._may_be_there = True

    async def tell(self) -> None:
        """Note what is committed meanwhile, and send what was not sent.

        Raises:
            ParticipantUnavailable: the target did not answer; it is tried again.
        """
        await self._note()
        room = OUTBOX_UNTOLD_MAX - len(self._sent)
        if not self._may_be_there or self.runtime.is_stopping or room <= 0:
            return
        applier = self.applier
        # Only of our partitions: those of others would stand before them.
        found = await applier.call(applier.sink.untold, applier.numbers)
        waiting = [each for each in found if each.place not in self._sent]
        try:
            for message in waiting[:room]:
                self._sent[message.place] = message, asyncio.ensure_future(self._send(message))
        except OutsideRecord:
            # Too many sends wait for a commit; these can wait longer.
            return
        if len(found) < OUTBOX_UNTOLD_MAX and len(waiting) <= room:
            self._may_be_there = False

    async def _note(self) -> None:
        """Note in the target what is in the dead letters."""
        done = {place: each for place, each in self._sent.items() if each[1].done()}
        told: list[RefusedMessage] = []
        for message, future in done.values():
            error = None if future.cancelled() else future.exception()
            if error is None and not future.cancelled():
                told.append(message)
                continue
            log.warning(
                LogEvent.OUTBOX_REFUSED,
                sink=self.applier.sink.name,
                topic=self.applier.topic,
                partition=message.number,
                offset=message.offset,
                error=repr(error),
                meaning="the row is kept in onceflow_refused of the target; its copy may not have "
                "reached the dead letters, and is sent again when this sink is looked at next",
            )
        if told:
            await self.applier.call(self.applier.sink.told, told)
        for place in done:
            del self._sent[place]

    def _send(self, message: RefusedMessage) -> Any:
        applier = self.applier
        headers: list[tuple[str, bytes | None]] = [
            ("onceflow-topic", applier.topic.encode()),
            ("onceflow-partition", str(message.number).encode()),
            ("onceflow-offset", str(message.offset).encode()),
            ("onceflow-sink", applier.sink.name.encode()),
            ("onceflow-error", message.error.encode()[:1000]),
            ("onceflow-rows", readable(message.message)[:DEAD_LETTER_HEADER_BYTES_MAX]),
        ]
        topic = self.runtime.dead_letter_topic
        return self.runtime.sender.send(topic, applier.identity, message.message, headers=headers)
