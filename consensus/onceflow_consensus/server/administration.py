"""What operators ask of a member: its status, changes of the membership, transfer, backup.

A change of the membership is answered when it took effect here, a transfer when another member
leads; both are refused when they were given up. One of each is under way at a time.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import InvalidOptions, ProposalDropped
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange
from onceflow_consensus.raft.messages import EntryKind
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.server.state_files import encode_state, new_header
from onceflow_consensus.transport.addresses import MemberAddresses, encode_book, parse_address
from onceflow_consensus.transport.requests import (
    ChangeMember,
    Done,
    GetStatus,
    Refusal,
    TakeBackup,
    Transfer,
    encode,
)

if TYPE_CHECKING:
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.messages import Entry
    from onceflow_consensus.server.conversations import Conversation
    from onceflow_consensus.server.member import Member

_OPS = {op.value: op for op in (ChangeOp.ADD_VOTER, ChangeOp.ADD_LEARNER, ChangeOp.REMOVE)}

_TRANSFER_TIMEOUTS = 4
"""Election timeouts after which a transfer counts as failed; the engine gives up after one."""


@dataclass(frozen=True, slots=True)
class _Change:
    conversation: Conversation
    request_id: int
    index: int
    term: int


@dataclass(frozen=True, slots=True)
class _Handover:
    conversation: Conversation
    request_id: int
    to: PeerId
    deadline_s: float


class Administration:
    """Administrative requests of one member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._change: _Change | None = None
        self._handover: _Handover | None = None
        self._backups: set[asyncio.Task[None]] = set()

    def take(
        self, conversation: Conversation, request: GetStatus | Transfer | ChangeMember | TakeBackup
    ) -> None:
        """Carry a request out, or begin to."""
        if isinstance(request, GetStatus):
            body = json.dumps(self.status()).encode()
            conversation.answer(Done(request.request_id, body))
        elif isinstance(request, TakeBackup):
            backup = asyncio.create_task(self._send_backup(conversation, request), name="backup")
            self._backups.add(backup)
            backup.add_done_callback(self._backups.discard)
        elif self._member.driver.role is not Role.LEADER:
            conversation.refuse(request.request_id, Refusal.NOT_LEADER)
        elif isinstance(request, Transfer):
            self._transfer(conversation, request)
        else:
            self._change_member(conversation, request)

    def status(self) -> dict[str, object]:
        """Return how the member sees itself, in values that JSON has."""
        member = self._member
        status = member.driver.replica.status
        configuration = status.configuration
        voters = configuration.voters.peer_ids
        members = [
            {
                "id": peer_id,
                "role": "voter" if peer_id in voters else "learner",
                "is_leader": peer_id == status.raft_leader,
                "is_connected": peer_id in member.links.connected
                or peer_id == member.options.peer_id,
                "refusal": member.links.refusal_of(peer_id),
                **self._addresses_of(peer_id),
                **self._progress_of(peer_id),
            }
            for peer_id in sorted(configuration.peer_ids)
        ]
        return {
            "id": status.peer_id,
            "cluster_id": member.options.cluster_id,
            "engine": member.options.engine.value,
            "role": status.role.value,
            "term": status.term,
            "leader": status.raft_leader or None,
            "commit_index": status.commit_index,
            "applied_index": member.data.applied_index,
            "first_index": member.data.log.first_index,
            "last_index": status.last_index,
            "is_joint": configuration.is_joint,
            "members": members,
            "metrics": member.metrics(),
        }

    def _addresses_of(self, peer_id: PeerId) -> dict[str, object]:
        known = self._member.known_addresses.get(peer_id)
        if known is None:
            return {"peer_address": "", "client_address": ""}
        return {"peer_address": str(known.peer), "client_address": str(known.client)}

    def _progress_of(self, peer_id: PeerId) -> dict[str, object]:
        progress = self._member.driver.replica.status.progress.get(peer_id)
        return {} if progress is None else {"match_index": progress.match_index}

    def _transfer(self, conversation: Conversation, request: Transfer) -> None:
        member = self._member
        if request.to not in member.driver.replica.status.configuration.voters.peer_ids:
            detail = f"member {request.to} is no voter of this group"
            conversation.refuse(request.request_id, Refusal.BAD_REQUEST, 0, detail)
        elif self._handover is not None:
            conversation.refuse(request.request_id, Refusal.OVERLOADED)
        elif request.to == member.options.peer_id:
            conversation.answer(Done(request.request_id))
        else:
            timing = member.options.timing
            wait_s = _TRANSFER_TIMEOUTS * timing.election_ticks * timing.tick_ms / 1000
            deadline_s = self._loop.time() + wait_s
            self._handover = _Handover(conversation, request.request_id, request.to, deadline_s)
            member.driver.replica.transfer_leadership(request.to)
            member.driver.wake()

    def _change_member(self, conversation: Conversation, request: ChangeMember) -> None:
        refusal = self._objection(request)
        if refusal:
            conversation.refuse(request.request_id, Refusal.BAD_REQUEST, 0, refusal)
            return
        if self._change is not None:
            conversation.refuse(request.request_id, Refusal.OVERLOADED)
            return
        op = _OPS[request.op]
        context = b""
        if op is not ChangeOp.REMOVE and request.peer_address:
            addresses = MemberAddresses(
                parse_address(request.peer_address), parse_address(request.client_address)
            )
            context = encode_book({request.peer_id: addresses})
        change = ConfChange((SingleChange(op, request.peer_id),), context=context)
        replica = self._member.driver.replica
        try:
            replica.propose_conf_change(change)
        except ProposalDropped:
            conversation.refuse(request.request_id, Refusal.OVERLOADED)
            return
        status = replica.status
        self._change = _Change(conversation, request.request_id, status.last_index, status.term)
        self._member.driver.wake()

    def _objection(self, request: ChangeMember) -> str:
        member = self._member
        op = _OPS.get(request.op)
        if op is None:
            return f"{request.op!r} is no operation; use one of {sorted(_OPS)}"
        if op is ChangeOp.REMOVE:
            return ""
        if request.peer_id in member.data.removed:
            return (
                f"id {request.peer_id} belonged to a member that was removed, whose promises still "
                "count; give the new one another id"
            )
        given = request.peer_address or request.client_address
        try:
            if given or request.peer_id not in member.known_addresses:
                parse_address(request.peer_address)
                parse_address(request.client_address)
        except InvalidOptions as error:
            return str(error)
        return ""

    def applied(self, entry: Entry) -> None:
        """Answer the change of the membership if it was decided with ``entry``."""
        change = self._change
        if change is None or entry.index < change.index:
            return
        self._change = None
        if (entry.index, entry.term) != (change.index, change.term):
            change.conversation.refuse(change.request_id, Refusal.NOT_LEADER)
        elif entry.kind is EntryKind.NORMAL:
            detail = "it does not fit the present members, or another change is under way"
            change.conversation.refuse(change.request_id, Refusal.BAD_REQUEST, 0, detail)
        else:
            change.conversation.answer(Done(change.request_id))

    def take_leader(self, raft_leader: PeerId) -> None:
        """Answer the transfer if it ended."""
        handover = self._handover
        if handover is not None and raft_leader not in (0, self._member.options.peer_id):
            self._handover = None
            if raft_leader == handover.to:
                handover.conversation.answer(Done(handover.request_id))
            else:
                self._give_up(handover)
        if self._change is not None and raft_leader != self._member.options.peer_id:
            self._change.conversation.refuse(self._change.request_id, Refusal.NOT_LEADER)
            self._change = None

    def tick(self) -> None:
        """Give up a transfer that takes too long."""
        handover = self._handover
        if handover is not None and self._loop.time() > handover.deadline_s:
            self._handover = None
            self._give_up(handover)

    def _give_up(self, handover: _Handover) -> None:
        detail = f"member {handover.to} did not take over; is it connected and up to date?"
        handover.conversation.refuse(handover.request_id, Refusal.BAD_REQUEST, 0, detail)

    async def _send_backup(self, conversation: Conversation, request: TakeBackup) -> None:
        data, link = self._member.data, conversation.link
        index = data.applied_index
        term = data.log.term_at(index) or 0
        header = new_header(self._member.options.cluster_id, index, term, data.encode_members())
        for chunk in encode_state(header, data.state.take_snapshot()):
            if not link.is_open:
                return
            link.send(encode(Done(request.request_id, chunk)))
            link.flush()
            await link.drained()
            await asyncio.sleep(0)
        link.send(encode(Done(request.request_id)))
        link.flush()

    def close(self) -> None:
        """Give up backups that are being sent."""
        for backup in self._backups:
            backup.cancel()
