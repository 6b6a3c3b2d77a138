"""Streams of one partition without a broker: batches arrive, the gate closes, readers read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from harness.table_driver import SOURCE, make_app
from onceflow.engine.records import Batch
from onceflow.engine.runtime import runtime_of
from onceflow.ids import Partition
from onceflow.kafka.records import Run

PARTITION = Partition(SOURCE, 0)


class Reading:
    """Streams of one partition, without a broker.

    Attributes:
        posted: what the epochs were told.
        got: what the readers were handed.
    """

    def __init__(self, readers=1):
        self.app = make_app()
        self.runtime = runtime_of(self.app)
        self.posted = []
        self.stopped = asyncio.Event()
        self.runtime._epochs = SimpleNamespace(
            is_open=False, post=self.posted.append, stopped=self.stopped, machine=self
        )
        self.commit_epoch = 1
        self.gate = self.runtime.gate
        self.streams = [
            self.app.stream(self.app.topic(SOURCE, value_type=int)) for _ in range(readers)
        ]
        self.cursors = [stream.channel.cursor for stream in self.streams]
        for cursor in self.cursors:
            cursor.done[PARTITION] = 0
        self.got = []
        self.tasks = []

    def take(self, stream, most, within=1000):
        async def read():
            async for values in stream.take(most, within=within):
                self.got.append(list(values))

        self.tasks.append(asyncio.ensure_future(read()))

    def read(self, stream, stop_at=None):
        async def read():
            async for value in stream:
                self.got.append(value)
                if value == stop_at:
                    self.gate.close([PARTITION])

        self.tasks.append(asyncio.ensure_future(read()))

    async def arrive(self, *offsets):
        values = [str(offset).encode() for offset in offsets]
        nothing = [None] * len(values)
        run = Run(PARTITION, list(offsets), nothing, values, [0] * len(values), None, 1, 0)
        batch = Batch(run, self.gate.stamp, len(self.cursors))
        for cursor in self.cursors:
            cursor.push(batch)
        await asyncio.sleep(0.02)

    async def drained(self):
        """Close the gate if it is open; return what may be committed."""
        if not self.gate.closed:
            self.gate.close([PARTITION])
        await asyncio.wait_for(self.gate.wait_drained(), 2)
        return self.gate.committable()[PARTITION]

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
