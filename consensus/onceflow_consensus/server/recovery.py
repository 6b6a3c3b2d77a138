"""From a directory to a member that can go on: its log, its state, the addresses it knows.

A directory holds ``log/`` (see ``storage``) and ``state/`` (see ``state_files``). An empty one is
given the beginning of the group: a snapshot at index 1 that names the founders. All founders make
the same one, so that it is as if it had been replicated.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onceflow_consensus.errors import FrameRefused, StorageCorrupt
from onceflow_consensus.raft.confchange import ChangeOp
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import HardState, RaftSnapshot
from onceflow_consensus.server.options import Start
from onceflow_consensus.server.state_files import (
    MemberRecord,
    StateFiles,
    decode_reference,
    encode_reference,
    new_header,
    open_state,
)
from onceflow_consensus.storage import DurableLog, OsDisk, WriteRequest
from onceflow_consensus.storage.segments import REJOIN
from onceflow_consensus.transport.addresses import MemberAddresses, decode_book, encode_book

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.confchange import ConfChange
    from onceflow_consensus.server.options import ServerOptions
    from onceflow_consensus.sessions import ReplicatedState

FIRST_INDEX, FIRST_TERM = 1, 1
"""Where the log of a group begins: at the snapshot that its founders made."""


@dataclass(slots=True)
class MemberData:
    """What a member has on its disk and in memory.

    applied_index: the last log index that ``state`` reflects, membership changes included.
    book: addresses of the members as of there. removed: ids of members that were removed, which
        are never given out again.
    """

    disk: OsDisk
    log: DurableLog
    files: StateFiles
    state: ReplicatedState
    applied_index: int = 0
    book: dict[PeerId, MemberAddresses] = field(default_factory=dict[int, MemberAddresses])
    removed: set[PeerId] = field(default_factory=set[int])

    def load(self, received: RaftSnapshot) -> None:
        """Replace the state by that of a snapshot whose file is here.

        Raises:
            StorageCorrupt: the file is missing or damaged.
            SnapshotUnreadable: the state machine cannot read it.
        """
        path = self.files.path_of(received.index, received.term)
        try:
            expected = decode_reference(received.data)
        except FrameRefused as refusal:
            raise StorageCorrupt(f"{path.name}: {refusal}. {REJOIN}") from refusal
        if not path.exists() or path.stat().st_size != expected.size_bytes:
            raise StorageCorrupt(f"{path.name} is missing or of another size. {REJOIN}")
        header, pieces = open_state(path)
        self.state.restore(pieces)
        self.applied_index = received.index
        self.book = decode_book(header.members.book)
        self.removed = set(header.members.removed)

    def encode_members(self) -> MemberRecord:
        """Return what a state file says about the members."""
        return MemberRecord(encode_book(self.book), sorted(self.removed))

    def apply_change(self, change: ConfChange) -> None:
        """Keep addresses and removed ids with a membership change that took effect."""
        self.book.update(decode_book(change.context))
        for each in change.changes:
            if each.op is ChangeOp.REMOVE:
                self.removed.add(each.peer_id)
                self.book.pop(each.peer_id, None)


def open_member(options: ServerOptions, state: ReplicatedState) -> MemberData:
    """Open a member's directory, or begin one.

    Args:
        options: see ``ServerOptions``.
        state: that of an empty log.

    Raises:
        StorageError: it cannot be used; see the kinds of it.
        SnapshotUnreadable: the state machine cannot read its state; do not start.
    """
    with ExitStack() as undone:
        disk = OsDisk(options.directory / "log")
        undone.callback(disk.close)
        log = DurableLog(disk)
        data = MemberData(disk, log, StateFiles(options.directory / "state"), state)
        if log.newest_snapshot.index == 0 and options.start is Start.FOUND:
            found_group(data, options)
        if log.newest_snapshot.index > 0:
            data.load(log.newest_snapshot)
        undone.pop_all()
        return data


def found_group(data: MemberData, options: ServerOptions, index: int = FIRST_INDEX) -> None:
    """Make the snapshot that a group begins with, of the state as it is.

    Args:
        data: a member's, with an empty log.
        options: name the founders.
        index: the log index that the state stands at; alike on all founders.

    Raises:
        StorageFailed: the disk failed.
    """
    members = MemberRecord(encode_book(options.members), [])
    header = new_header(options.cluster_id, index, FIRST_TERM, members)
    reference = data.files.write(header, data.state.take_snapshot())
    founding = RaftSnapshot(
        index,
        FIRST_TERM,
        configuration_of(frozenset(options.members)),
        encode_reference(reference),
    )
    hard_state = HardState(FIRST_TERM, 0, index)
    request = WriteRequest(hard_state=hard_state, raft_snapshot=founding)
    data.log.persist([request])
    data.log.taken(request)
