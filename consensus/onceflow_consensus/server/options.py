"""What a member of a group is told when it starts.

Only what differs between installations is an option; bounds are in ``limits``.
Must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.errors import InvalidOptions
from onceflow_consensus.limits import ELECTION_TICKS, HEARTBEAT_TICKS, TICK_MS
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.replica import Engine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.transport.addresses import MemberAddresses
    from onceflow_consensus.transport.tls import TlsFiles


class Start(Enum):
    """What a member with an empty directory does; one that has data goes on with it.

    FOUND: it begins a group together with all other ``members``. JOIN: it waits to be added to
    a group that exists. A member that lost its directory must JOIN with another id: with FOUND it
    would vote as if it had never promised anything.
    """

    FOUND = "found"
    JOIN = "join"


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a group, alike on all members.

    tick_ms: length of a tick. election_ticks: ticks without a leader before a member campaigns;
    up to as many are added at random. heartbeat_ticks: ticks between heartbeats.
    """

    tick_ms: int = TICK_MS
    election_ticks: int = ELECTION_TICKS
    heartbeat_ticks: int = HEARTBEAT_TICKS


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of one member.

    peer_id: who it is; never given to another member, even after its removal.
    cluster_id: name of the group, which keeps members and clients of others out.
    directory: where its data is; it belongs to this member alone.
    listen: where it listens for peers and for clients; port 0 takes a free one.
    members: addresses of the members. With FOUND these are the voters; with JOIN those that may
        send to it, and itself. Members that have data know the present addresses from there.
    start: see ``Start``.
    engine: the protocol of the group, alike on all members.
    timing: see ``Timing``.
    peer_tls, client_tls: files for mutual TLS; None speaks plainly.
    client_token: what a client has to show; empty asks for none.
    snapshot_log_bytes: bytes of entries after which a snapshot is taken; None for the default.
    """

    peer_id: PeerId
    cluster_id: str
    directory: Path
    listen: MemberAddresses
    members: Mapping[PeerId, MemberAddresses]
    start: Start = Start.FOUND
    engine: Engine = Engine.RAFT
    timing: Timing = field(default_factory=Timing)
    peer_tls: TlsFiles | None = None
    client_tls: TlsFiles | None = None
    client_token: str = field(default="", repr=False)
    snapshot_log_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidOptions: says what is wrong.
        """
        if not self.cluster_id:
            raise InvalidOptions("cluster_id is empty; give the group a name")
        if self.start is Start.FOUND and self.peer_id not in self.members:
            raise InvalidOptions(
                f"member {self.peer_id} is not among the members {sorted(self.members)} that found "
                "the group; correct the list, or let it join"
            )
        self.engine_options()

    def engine_options(self) -> RaftOptions:
        """Return the options of the engine.

        Raises:
            InvalidOptions: a time or the id is out of range.
        """
        return RaftOptions(
            peer_id=self.peer_id,
            election_ticks=self.timing.election_ticks,
            heartbeat_ticks=self.timing.heartbeat_ticks,
            storage=StorageMode.MESSAGES,
            forward_proposals=False,
        )
