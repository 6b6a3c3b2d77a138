"""The writing half of the durable log: batches into segments, one sync each.

Used by one thread at a time. After a failure the object refuses everything: what is on the disk
is not known any more, and only reading it again tells. Whatever a batch must not lose when older
segments are removed (hard state, the position below the first entry) is repeated at the head of
each new segment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onceflow_consensus.errors import StorageCorrupt, StorageFailed
from onceflow_consensus.limits import SEGMENT_BYTES
from onceflow_consensus.raft.messages import EMPTY_HARD_STATE, Entry, EntryId, HardState
from onceflow_consensus.raft.stable import HeldEntries
from onceflow_consensus.storage.records import (
    BATCH_HEADER_BYTES,
    Base,
    BaseKind,
    Closed,
    Record,
    encode_batch,
    encode_record,
)
from onceflow_consensus.storage.segments import (
    REJOIN,
    SALT_BYTES,
    SEGMENT_HEADER_BYTES,
    ReadSegment,
    SegmentHeader,
    encode_header,
    read_segments,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onceflow_consensus.storage.disk import Disk


class LogContent:
    """What the records of a log amount to, in the order in which they were written."""

    def __init__(self) -> None:
        self.held = HeldEntries(EntryId())
        self.hard_state = EMPTY_HARD_STATE

    def replay(self, record: Record) -> None:
        """Take a record into account.

        Raises:
            StorageCorrupt: an entry does not follow those before it: records are missing.
        """
        if isinstance(record, Entry):
            if record.index > self.held.last_index + 1:
                raise StorageCorrupt(
                    f"entry {record.index} follows {self.held.last_index}: entries are missing. "
                    + REJOIN
                )
            self.held.put((record,))
        elif isinstance(record, HardState):
            self.hard_state = record
        elif isinstance(record, Base):
            self._replay_base(record)

    def _replay_base(self, base: Base) -> None:
        position = EntryId(base.term, base.index)
        if base.kind is BaseKind.RESET:
            self.held.begin_at(position)
        elif base.kind is BaseKind.DROPPED:
            # May tell another term than the floor before it: the entry at the floor was replaced
            # in this segment, and the segments that held what it replaced are gone.
            self.held.drop_to(position)
        elif self.held.last_index == self.held.base.index < position.index:
            self.held.drop_to(position)


class LogFiles:
    """The segments of one log, open for writing at their end."""

    def __init__(self, disk: Disk, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Read what is there, cut a torn tail off, and go on at the end.

        Raises:
            StorageCorrupt, StorageUnknown, StorageFailed: do not start this replica; see there.
        """
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._failure: StorageFailed | None = None
        self._content = LogContent()
        self.torn_bytes = 0
        # Last index of the entries in each segment: it can go once they are all dropped.
        self._last_indices: dict[str, int] = {}
        segments = read_segments(disk)
        for segment in segments:
            self._last_indices[segment.name] = 0
            for record in segment.records:
                self._content.replay(record)
                if isinstance(record, Entry):
                    last = max(self._last_indices[segment.name], record.index)
                    self._last_indices[segment.name] = last
        self._hard_state = self._content.hard_state
        held = self._content.held
        self._base = Base(held.base.index, held.base.term)
        # Where the log stands: what a segment that is begun here follows.
        self._floor = Base(held.last_index, held.term_at(held.last_index) or 0)
        if segments:
            self._continue(segments[-1])
        else:
            header = SegmentHeader(1, 1, os.urandom(SALT_BYTES))
            self._begin_segment(header)

    def take_content(self) -> LogContent:
        """Return what the log held when it was opened; once, so that it is not kept twice."""
        content, self._content = self._content, LogContent()
        return content

    def write(self, records: Sequence[Record]) -> None:
        """Write records and make them durable, all or none as far as a reader can tell.

        Raises:
            StorageFailed: the disk failed, at present or before. Stop the replica.
        """
        self._guarded(lambda: self._write(records))

    def drop_segments(self, base: Base) -> None:
        """Remove the segments whose entries are all dropped, after ``base`` was written.

        Raises:
            StorageFailed: see ``write``.
        """
        self._guarded(lambda: self._drop_segments(base))

    def close(self) -> None:
        """Mark the end, so that damage to anything before it is known to be damage.

        Raises:
            StorageFailed: see ``write``.
        """
        self.write((Closed(),))

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            action()
        except StorageFailed as failure:
            self._failure = failure
            raise

    def _write(self, records: Sequence[Record]) -> None:
        payload = b"".join(map(encode_record, records))
        needed = BATCH_HEADER_BYTES + len(payload)
        if self._offset + needed > self._segment_bytes and self._offset > self._head_end:
            next_number = self._header.number + 1
            self._begin_segment(SegmentHeader(next_number, self._sequence, self._header.salt))
        self._write_batch(payload)
        self._note(records)

    def _write_batch(self, payload: bytes) -> None:
        batch = encode_batch(self._header.salt, self._sequence, payload)
        self._disk.write(self._name, self._offset, batch)
        self._disk.sync(self._name)
        self._offset += len(batch)
        self._sequence += 1

    def _note(self, records: Sequence[Record]) -> None:
        highest_index = self._last_indices[self._name]
        floor: Entry | Base | None = None
        for record in records:
            if isinstance(record, Entry):
                highest_index = max(highest_index, record.index)
                floor = record
            elif isinstance(record, HardState):
                self._hard_state = record
            elif isinstance(record, Base):
                self._base = record
                if record.kind is BaseKind.RESET:
                    floor = record
        self._last_indices[self._name] = highest_index
        if floor is not None:
            self._floor = Base(floor.index, floor.term)

    def _continue(self, segment: ReadSegment) -> None:
        self._header = segment.header
        self._name = segment.name
        self._offset = segment.end_offset
        self._head_end = SEGMENT_HEADER_BYTES
        self._sequence = segment.next_sequence
        self.torn_bytes = segment.torn_bytes
        if segment.torn_bytes:
            # Zeros, so that nothing of the torn batch can be taken for one after the next crash.
            self._disk.write(self._name, self._offset, bytes(segment.torn_bytes))
            self._disk.sync(self._name)
        if segment.end_offset == SEGMENT_HEADER_BYTES:
            self._write_head()

    def _begin_segment(self, header: SegmentHeader) -> None:
        self._header = header
        self._name = segment_name(header.number)
        self._last_indices[self._name] = 0
        self._sequence = header.first_sequence
        self._disk.create(self._name, self._segment_bytes)
        self._disk.write(self._name, 0, encode_header(header))
        self._disk.sync(self._name)
        self._disk.sync_directory()
        self._offset = SEGMENT_HEADER_BYTES
        self._write_head()

    def _write_head(self) -> None:
        """Repeat what may be lost with the segments before."""
        head = (
            Base(self._base.index, self._base.term),
            Base(self._floor.index, self._floor.term, BaseKind.FLOOR),
            self._hard_state,
        )
        self._write_batch(b"".join(map(encode_record, head)))
        self._head_end = self._offset

    def _drop_segments(self, base: Base) -> None:
        names = sorted(self._last_indices)
        removable = [name for name in names[:-1] if self._last_indices[name] <= base.index]
        # From the front and one after the other: the segments that stay must follow one another,
        # and a crash may keep any of the removals that are not synced.
        count = next((i for i, name in enumerate(names) if name not in removable), 0)
        for name in names[:count]:
            self._disk.remove(name)
            self._disk.sync_directory()
            del self._last_indices[name]
