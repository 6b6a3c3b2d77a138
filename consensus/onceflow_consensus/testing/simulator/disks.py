"""What a simulated replica writes to, and what a crash leaves of it.

``PlainDisk`` is quick: a batch is there or it is not. ``SegmentedDisk`` is the real log code over
a disk of sectors, so that torn tails, lost syncs and damage are met by the code that must bear
them. Both take the requests of ``DurableLog`` and offer what the engine reads.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.raft.messages import EMPTY_HARD_STATE, EntryId, HardState, RaftSnapshot
from onceflow_consensus.raft.stable import HeldEntries
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.records import BATCH_MAGIC, Base
from onceflow_consensus.storage.segments import segment_names
from onceflow_consensus.testing.memory_disk import MemoryDisk, PowerCutError
from onceflow_consensus.testing.simulator.plan import DiskKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import LogIndex

SEGMENT_BYTES = 1536
"""Small, so that a run begins and drops several segments."""

SECTOR_BYTES = 32
"""What such a disk writes at once: smaller than most batches, so that they tear."""

_CUTS = (0, 1, 1, 1, 2, 3, 4, 5, 6, 7)
"""After how many operations of a write the power is cut; most writes are one, and a sync."""


class PlainLog(HeldEntries):
    """A log in memory with hard state and newest snapshot, written by whole requests."""

    def __init__(self) -> None:
        super().__init__(EntryId())
        self.hard_state = EMPTY_HARD_STATE
        self.newest_snapshot = RaftSnapshot()

    def initial_state(self) -> tuple[HardState, Configuration]:
        """See ``StableLog``."""
        return self.hard_state, self.newest_snapshot.configuration

    def latest_snapshot(self) -> RaftSnapshot | None:
        """See ``StableLog``."""
        return self.newest_snapshot if self.newest_snapshot.index else None

    def compaction_to(self, index: LogIndex) -> WriteRequest:
        """See ``DurableLog``."""
        bound = min(self.newest_snapshot.index, self.last_index, index)
        term = self.term_at(bound)
        is_held = term is not None and bound >= self.first_index
        return WriteRequest(compacted=Base(bound, term or 0) if is_held else None)

    def take(self, request: WriteRequest) -> None:
        """Hold what a request writes."""
        received, own = request.raft_snapshot, request.own_snapshot
        if received is not None and received.index > self.newest_snapshot.index:
            self.newest_snapshot = received
            self.begin_at(EntryId(received.term, received.index))
        if own is not None and own.index > self.newest_snapshot.index:
            self.newest_snapshot = own
        self.hard_state = request.hard_state or self.hard_state
        self.put(request.entries)
        if request.compacted is not None:
            self.drop_to(EntryId(request.compacted.term, request.compacted.index))


class PlainDisk:
    """A disk on which a request is written whole or not at all."""

    torn_bytes = 0

    def __init__(self) -> None:
        self.log = PlainLog()

    def persist(self, requests: Sequence[WriteRequest]) -> None:
        """Make requests durable."""
        for request in requests:
            self.log.take(request)

    def crash(self, requests: Sequence[WriteRequest], choice: Random) -> None:
        """Lose the power while requests are written: any number of the first is kept."""
        self.persist(requests[: choice.randint(0, len(requests))])

    def fail(self, requests: Sequence[WriteRequest], choice: Random) -> None:
        """Let a write fail, with what the crash that must follow leaves.

        Raises:
            StorageFailed: always.
        """
        self.crash(requests, choice)
        raise StorageFailed("the disk fails; this disk keeps nothing of the request")

    def recover(self) -> None:
        """Read again what is there."""


class SegmentedDisk:
    """The real log on a disk of sectors."""

    def __init__(self, device: MemoryDisk) -> None:
        self.device = device
        self.log = DurableLog(self.device, SEGMENT_BYTES)

    @property
    def torn_bytes(self) -> int:
        """Return what the last recovery cut off."""
        return self.log.torn_bytes

    def persist(self, requests: Sequence[WriteRequest]) -> None:
        """Make requests durable."""
        self.log.persist(requests)
        for request in requests:
            self.log.taken(request)

    def crash(self, requests: Sequence[WriteRequest], choice: Random) -> None:
        """Lose the power while requests are written, at any operation of the disk.

        Raises:
            StorageCorrupt: of ``recover``.
        """
        if requests:
            self.device.cut_power_after = choice.choice(_CUTS)
            with suppress(PowerCutError):
                self.log.persist(requests)
            self.device.cut_power_after = None
        self.device = self.device.crash(choice)
        self.recover()

    def fail(self, requests: Sequence[WriteRequest], choice: Random) -> None:
        """Let the next sync or write fail.

        Raises:
            StorageFailed: the replica must stop.
        """
        self.device.fail_next = choice.choice(("sync", "sync", "write"))
        try:
            self.log.persist(requests)
        finally:
            self.device.fail_next = None
        for request in requests:
            self.log.taken(request)

    def recover(self) -> None:
        """Read again what is there.

        Raises:
            StorageCorrupt: acknowledged data is damaged.
        """
        self.log = DurableLog(self.device, SEGMENT_BYTES)

    def rot(self, choice: Random) -> str:
        """Damage a byte of what was acknowledged before the last batch; return where.

        Damage to the very last batch cannot be told from a torn one, and is left out; so is the
        space behind it, which holds nothing.
        """
        device = self.device
        last_segment = segment_names(device)[-1]
        ends = {name: device.read(name).rfind(BATCH_MAGIC) for name in segment_names(device)}
        newest = self.log.newest_snapshot
        places = {name: end for name, end in ends.items() if name == last_segment or end > 0}
        if newest.index:
            name = f"snap-{newest.index:020d}-{newest.term:020d}.snap"
            places[name] = len(device.read(name))
        name = choice.choice(sorted(places))
        offset = choice.randrange(places[name])
        device.damage(name, offset)
        return f"{name} at byte {offset}"


SimulatedDisk = PlainDisk | SegmentedDisk
"""What a replica of a simulation writes to."""


def new_disk(kind: DiskKind, begun: RaftSnapshot | None) -> SimulatedDisk:
    """Return a disk that holds nothing, or the snapshot that a group begins with."""
    if kind is DiskKind.SEGMENTED:
        return SegmentedDisk(MemoryDisk(_begun_files(begun), SECTOR_BYTES))
    disk = PlainDisk()
    if begun is not None:
        disk.persist([WriteRequest(raft_snapshot=begun)])
    return disk


@cache
def _begun_files(begun: RaftSnapshot | None) -> dict[str, bytes]:
    """Return the files of a log that holds a snapshot; made once, because many runs begin so."""
    disk = SegmentedDisk(MemoryDisk())
    if begun is not None:
        disk.persist([WriteRequest(raft_snapshot=begun)])
    return {name: disk.device.read(name) for name in disk.device.names()}
