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
from onceflow.limits import DEAD_LETTER_HEADER_BYTES_MAX, PARTICIPANT_STOP_S
from onceflow.sinks.outbox_format import readable

if TYPE_CHECKING:
    from onceflow.engine.applier import Applier
    from onceflow.engine.runtime import Runtime
    from onceflow.sinks.outbox import RefusedMessage


class RefusedTeller:
    """Tells the refused messages of one sink."""

    def __init__(self, runtime: Runtime, applier: Applier) -> None:
        self.runtime = runtime
        self.applier = applier
        self._may_be_there = False

    def look(self) -> None:
        """Look for messages at the next occasion."""
        self._may_be_there = True

    async def tell(self) -> None:
        """Send what was not told, and note it once it is committed.

        Raises:
            ParticipantUnavailable: the target did not answer; it is tried again.
        """
        if not self._may_be_there or self.runtime.is_stopping:
            return
        applier = self.applier
        found = await applier.call(applier.sink.untold)
        untold = [each for each in found if each.number in applier.numbers]
        if not untold:
            self._may_be_there = False
            return
        try:
            sent = [asyncio.ensure_future(self._send(each)) for each in untold]
        except OutsideRecord:
            # Too many sends wait for a commit; these can wait longer.
            return
        await asyncio.wait(sent, timeout=PARTICIPANT_STOP_S)
        told = [
            message
            for message, future in zip(untold, sent, strict=True)
            if future.done() and not future.cancelled() and future.exception() is None
        ]
        if told:
            await applier.call(applier.sink.told, told)

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
