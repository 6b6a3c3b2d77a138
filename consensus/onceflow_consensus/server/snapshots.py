"""When snapshots are taken, how the log is compacted after them, and how they are sent.

Theory of operation: a snapshot is due when the log has grown by a bound, or by the size of the
last one if that is larger. It is written by a thread from a state that does not change under it,
made known to the log when its file is durable, and then the log below it is dropped but for a
tail, from which peers that are a little behind are served. A peer that is further behind gets the
newest file over a connection of its own, a chunk at a time.

The engine waits for news of every snapshot that it had sent: each way out of ``_send`` reports.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from onceflow_consensus.errors import FrameRefused, RequestRefused, StorageFailed
from onceflow_consensus.limits import (
    KEPT_LOG_BYTES,
    KEPT_LOG_ENTRIES,
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_LOG_BYTES,
)
from onceflow_consensus.raft.messages import RaftSnapshot, payload_bytes
from onceflow_consensus.raft.node import Report
from onceflow_consensus.server.state_files import encode_reference, new_header
from onceflow_consensus.storage import WriteRequest
from onceflow_consensus.transport.peers import open_link
from onceflow_consensus.transport.requests import Purpose

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry
    from onceflow_consensus.replica import PeerMessage
    from onceflow_consensus.server.member import Member
    from onceflow_consensus.transport.connection import FrameLink

_MARKS_PER_TAIL = 16
"""How finely it is known where in the log how many bytes lie."""

_ANSWER_S = 60.0
"""Longest wait for a receiver to make a snapshot durable."""


class Snapshots:
    """Snapshots of one member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._log_bytes = 0
        self._due_bytes = member.options.snapshot_log_bytes or SNAPSHOT_LOG_BYTES
        self._min_due_bytes = self._due_bytes
        self._kept_bytes = min(KEPT_LOG_BYTES, self._due_bytes // 4)
        self._marks: deque[tuple[int, int]] = deque([(0, member.data.applied_index)])
        self._total_bytes = 0
        self._taking: asyncio.Task[None] | None = None
        self._sending: dict[PeerId, asyncio.Task[None]] = {}

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Count entries that were applied, and take a snapshot if one is due."""
        applied_bytes = payload_bytes(entries)
        self._log_bytes += applied_bytes
        self._total_bytes += applied_bytes
        if self._total_bytes - self._marks[-1][0] >= self._kept_bytes // _MARKS_PER_TAIL:
            self._marks.append((self._total_bytes, entries[-1].index))
        if self._log_bytes >= self._due_bytes:
            self.take()

    def restart(self) -> None:
        """Count anew after a snapshot that was received has replaced the log."""
        self._log_bytes = 0
        self._marks = deque([(self._total_bytes, self._member.data.applied_index)])

    def take(self) -> None:
        """Take a snapshot of the present state, unless one is being taken."""
        if self._taking is not None:
            return
        data = self._member.data
        index = data.applied_index
        term = data.log.term_at(index)
        if term is None or index <= data.log.newest_snapshot.index:
            return
        self._log_bytes = 0
        configuration = self._member.driver.replica.status.configuration
        header = new_header(self._member.options.cluster_id, index, term, data.encode_members())
        pieces = data.state.take_snapshot()

        async def write() -> None:
            try:
                reference = await asyncio.to_thread(data.files.write, header, pieces)
                own = RaftSnapshot(index, term, configuration, encode_reference(reference))
                self._due_bytes = max(self._min_due_bytes, reference.size_bytes)
                self._member.writes.submit(WriteRequest(own_snapshot=own), (), self._taken)
            except StorageFailed as failure:
                self._member.fail(failure)
            finally:
                self._taking = None

        self._taking = asyncio.create_task(write(), name="take-snapshot")

    def _taken(self) -> None:
        """Drop what the snapshot stands for, but for the tail."""
        member = self._member
        member.counters.snapshots_taken_total += 1
        log = member.data.log
        index = min(log.newest_snapshot.index, member.data.applied_index)
        while len(self._marks) > 1 and self._marks[1][0] <= self._total_bytes - self._kept_bytes:
            self._marks.popleft()
        # Whichever keeps less: a tail is bounded in entries and in bytes.
        index = min(index, max(self._marks[0][1], index - KEPT_LOG_ENTRIES))
        request = log.compaction_to(index)
        if request.compacted is not None:
            member.writes.submit(request, ())
        member.data.files.drop_old(log.newest_snapshot.index)

    def send(self, message: PeerMessage) -> None:
        """Send a snapshot that the engine wants sent; it is told how that went."""
        peer_id = message.to
        if peer_id in self._sending:
            # The one under way is as good; its end is reported.
            return
        received = message.raft_snapshot
        if received is None or peer_id not in received.configuration.peer_ids:
            # A snapshot from before the peer was added would make it a stranger. The engine asks
            # again, and gets the one that is taken now.
            self.take()
            self._member.driver.report(peer_id, Report.SNAPSHOT_FAILED)
            return
        self._sending[peer_id] = asyncio.create_task(
            self._send_reporting(message, received), name=f"snapshot-to-{peer_id}"
        )

    async def _send_reporting(self, message: PeerMessage, sent: RaftSnapshot) -> None:
        report = Report.SNAPSHOT_FAILED
        try:
            await self._send(message, sent)
            report = Report.SNAPSHOT_DELIVERED
        except (OSError, FrameRefused, RequestRefused):
            self._member.counters.snapshot_failures_total += 1
        finally:
            del self._sending[message.to]
            self._member.driver.report(message.to, report)
        self._member.counters.snapshots_sent_total += 1

    async def _send(self, message: PeerMessage, sent: RaftSnapshot) -> None:
        """Stream the file, and wait until the receiver has taken it.

        Raises:
            OSError, FrameRefused, RequestRefused: it did not arrive.
        """
        member = self._member
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()

        def closed(_link: FrameLink, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error or ConnectionResetError("closed before it answered"))

        def take(_link: FrameLink, _bodies: list[bytes]) -> None:
            if not answer.done():
                answer.set_result(None)

        address = member.links.address_of(message.to)
        hello = member.identity.hello(Purpose.SNAPSHOT, message.to)
        link = await open_link(address, hello, member.links.tls, closed)
        link.on_bodies = take
        try:
            link.send(member.codec.encode([message]))
            with member.data.files.path_of(sent.index, sent.term).open("rb") as file:
                while data := await asyncio.to_thread(file.read, SNAPSHOT_CHUNK_BYTES):
                    link.send(data)
                    link.flush()
                    await link.drained()
                    if answer.done():
                        break
            async with asyncio.timeout(_ANSWER_S):
                await answer
        finally:
            link.abort()
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [*self._sending.values()]
        if self._taking is not None:
            tasks.append(self._taking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
