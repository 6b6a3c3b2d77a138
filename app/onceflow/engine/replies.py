"""Reply topics of ``ask``: read by this process alone, past the consumer group and the epochs.

A reply belongs to the process that asked. It is read committed, from the start of the process's
own reply topic, and offers no offsets to commit: after a crash nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from onceflow.engine.gate import Cursor, Gate
from onceflow.engine.records import Batch
from onceflow.ids import Partition, Stamp
from onceflow.kafka.changelog import ChangelogReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.engine.runtime import Runtime
    from onceflow.engine.topic import Topic

_POLL_RECORDS = 1000
_POLL_S = 0.05
_STAMP = Stamp(-1, -1)
"""Replies are part of no attempt; their gate is always open."""


class Replies:
    """Reads reply topics into the streams that wait for them."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.gate = Gate(_STAMP)
        self.gate.closed = False
        self.topics: dict[str, list[Topic]] = {}
        self._reader: asyncio.Task[None] | None = None

    def follow(self, topic: Topic) -> None:
        """Read ``topic`` from here on; an iterated one receives the replies."""
        for name in topic.topics:
            readers = self.topics.setdefault(name, [])
            if topic.is_iterator and topic not in readers:
                topic.read_through(Cursor(self.gate, self._finished))
                readers.append(topic)
        if self._reader is None and self._iterated():
            self._reader = asyncio.ensure_future(self._read())

    def _finished(self, batch: Batch) -> None:
        """Have nothing to account: replies are few and not part of the back-pressure bound."""

    def _iterated(self) -> list[str]:
        return [name for name, readers in self.topics.items() if readers]

    async def _read(self) -> None:
        names: list[str] = []
        reader: ChangelogReader | None = None
        while True:
            wanted = self._iterated()
            if wanted != names or reader is None:
                if reader is not None:
                    await asyncio.to_thread(reader.close)
                names = wanted
                positions = {Partition(name, 0): -1 for name in names}
                reader = await asyncio.to_thread(
                    ChangelogReader, self.runtime.clients.config, positions
                )
            for run in await asyncio.to_thread(reader.poll, _POLL_RECORDS, _POLL_S):
                readers = self.topics[run.topic]
                batch = Batch(run, _STAMP, len(readers))
                for topic in readers:
                    topic.cursor.push(batch)

    async def stop(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    def names(self) -> Iterable[str]:
        """Return the reply topics, which are not part of the group's subscription."""
        return self.topics.keys()
