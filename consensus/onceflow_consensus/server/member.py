"""One member of a group: its parts, how they start and how they stop.

``Member`` owns what the parts share and does nothing by itself once it runs; ``driver`` does.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from onceflow_consensus.raft.messages import NO_PEER
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.replica import start_replica
from onceflow_consensus.server.administration import Administration
from onceflow_consensus.server.client_gate import ClientGate
from onceflow_consensus.server.conversations import Outbox
from onceflow_consensus.server.counters import Counters
from onceflow_consensus.server.driver import Driver
from onceflow_consensus.server.peer_gate import PeerGate
from onceflow_consensus.server.proposals import Proposals
from onceflow_consensus.server.reads import Reads
from onceflow_consensus.server.recovery import open_member
from onceflow_consensus.server.snapshots import Snapshots
from onceflow_consensus.server.writes import WriteQueue
from onceflow_consensus.sessions import ReplicatedState
from onceflow_consensus.transport.codec import CODECS
from onceflow_consensus.transport.peers import Identity, PeerLinks
from onceflow_consensus.transport.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import RaftSnapshot
    from onceflow_consensus.replica import Replica
    from onceflow_consensus.server.options import ServerOptions
    from onceflow_consensus.state_machine import StateMachine
    from onceflow_consensus.transport.addresses import Address, MemberAddresses


_HAND_OVER_CHECK_S = 0.005


class Member:
    """A running member. Made by ``start_member``, in the loop that it runs in.

    data: what it has on its disk and in memory. failed: done when the member has stopped because
    of an error, which it holds.
    """

    def __init__(
        self, options: ServerOptions, machine: StateMachine, start: Callable[..., Replica]
    ) -> None:
        """Recover the member from its directory; ``start`` is ``start_replica`` or alike.

        Raises:
            StorageError, SnapshotUnreadable: do not start; see there.
        """
        self.options = options
        self.counters = Counters()
        self.outbox = Outbox(self.counters)
        self.data = open_member(options, ReplicatedState(machine))
        loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = loop.create_future()
        self.identity = Identity(options.cluster_id, options.engine.value, options.peer_id)
        self.codec = CODECS[options.engine]
        tls = None if options.peer_tls is None else client_context(options.peer_tls)
        self.links = PeerLinks(self.identity, self.codec, tls, self._lost)
        self.proposals = Proposals(self.counters)
        self.reads = Reads(self.counters, loop.time, self.data.state.query)
        self.reads.applied(self.data.applied_index)
        replica = start(
            options.engine,
            options.engine_options(),
            self.data.log,
            applied_index=self.data.applied_index,
        )
        self.driver = Driver(self, replica)
        self.writes = WriteQueue(
            self.data.log, self.driver.take_durable, self.driver.take_written, self.fail
        )
        self.snapshots = Snapshots(self)
        self.administration = Administration(self)
        self.peer_gate = PeerGate(self)
        self.client_gate = ClientGate(self)

    async def start(self) -> None:
        """Listen, connect to the peers, and take part.

        Raises:
            OSError: an address cannot be listened on.
            InvalidOptions: the TLS files cannot be used.
        """
        await self.peer_gate.listen()
        await self.client_gate.listen()
        self.take_configuration(self.driver.replica.status.configuration)
        self.driver.start()

    def take_configuration(self, configuration: Configuration) -> None:
        """Keep connections to the members of a configuration, and to those that were named."""
        known = self.known_addresses
        wanted = configuration.peer_ids or frozenset(known)
        addresses: dict[PeerId, Address] = {
            peer_id: known[peer_id].peer
            for peer_id in wanted
            if peer_id in known and peer_id != self.options.peer_id
        }
        self.links.set_addresses(addresses)

    def tell_leader(self, raft_leader: PeerId) -> None:
        """Let refusals name the leader."""
        known = self.known_addresses.get(raft_leader)
        self.outbox.leader_address = "" if known is None else str(known.client)

    @property
    def known_addresses(self) -> dict[PeerId, MemberAddresses]:
        """Return the addresses that the group knows, and those that this member was told."""
        return {**self.options.members, **self.data.book}

    def metrics(self) -> dict[str, float]:
        """Return counts and states by name; whoever exports metrics reads them when asked."""
        status = self.driver.replica.status
        return {
            **self.counters.as_table(),
            "is_leader": float(self.driver.role is Role.LEADER),
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": self.data.applied_index,
            "log_entries": self.data.log.last_index - self.data.log.first_index + 1,
            "sessions": self.data.state.session_count,
            "clients": self.client_gate.client_count,
            "connected_peers": len(self.links.connected),
            "waiting_command_bytes": self.proposals.waiting_bytes,
            "disk_wait_seconds": self.writes.oldest_wait_s,
            "disk_writes_total": self.writes.writes_count,
            "disk_syncs_total": self.writes.syncs_count,
            "peer_messages_dropped_total": self.links.dropped_count,
        }

    def install(self, received: RaftSnapshot) -> None:
        """Take over the state of a snapshot that is durable here."""
        self.data.load(received)
        self.counters.snapshots_received_total += 1
        self.take_configuration(received.configuration)
        self.tell_leader(self.driver.raft_leader)
        self.snapshots.restart()
        self.reads.applied(self.data.applied_index)

    def fail(self, error: Exception) -> None:
        """Stop taking part because of an error; ``failed`` tells it."""
        self.driver.stop()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _lost(self, peer_id: PeerId) -> None:
        if peer_id != NO_PEER:
            self.driver.report(peer_id, Report.UNREACHABLE)

    async def _hand_over(self) -> None:
        """Let another voter lead before this one is gone, so that nobody waits for a time-out."""
        replica, own_id = self.driver.replica, self.options.peer_id
        status = replica.status
        matched = {
            peer_id: progress.match_index
            for peer_id, progress in status.progress.items()
            if peer_id != own_id
            and peer_id in status.configuration.voters.peer_ids
            and peer_id in self.links.connected
        }
        if self.driver.role is not Role.LEADER or not matched:
            return
        replica.transfer_leadership(max(matched, key=lambda peer_id: matched[peer_id]))
        self.driver.wake()
        timing = self.options.timing
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timing.tick_ms * timing.election_ticks / 1000
        while self.driver.role is Role.LEADER and loop.time() < deadline_s:  # noqa: ASYNC110 - rare
            await asyncio.sleep(_HAND_OVER_CHECK_S)

    async def stop(self) -> None:
        """Stop in order: refuse clients, hand leadership over if possible, close the log.

        Raises:
            StorageFailed: the disk failed at the end; the next start recovers as after a crash.
        """
        await self.client_gate.close()
        self.administration.close()
        if not self.failed.done():
            await self._hand_over()
        self.driver.stop()
        await self.peer_gate.close()
        await self.snapshots.close()
        await self.links.close()
        await self.writes.close()
        self.data.disk.close()


async def start_member(
    options: ServerOptions,
    machine: StateMachine,
    start: Callable[..., Replica] = start_replica,
) -> Member:
    """Start a member.

    Args:
        options: see ``ServerOptions``.
        machine: the state machine as it is for an empty log.
        start: makes the engine's replica, with the arguments of ``start_replica``.

    Raises:
        StorageError, SnapshotUnreadable: the directory cannot be used; see the kinds.
        InvalidOptions: options, addresses or TLS files are wrong.
        OSError: an address cannot be listened on.
    """
    async with AsyncExitStack() as undone:
        member = Member(options, machine, start)
        undone.push_async_callback(member.stop)
        await member.start()
        undone.pop_all()
        return member
