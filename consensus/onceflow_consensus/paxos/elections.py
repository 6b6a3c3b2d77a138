"""Ballot leader election: who is connected to a quorum, who is content, who may take over.

Theory of operation: every replica asks every other for a heartbeat and gets in reply the other's
own ballot, whom it takes for elected, and whether it is content with that. A replica is *content*
if the elected one reports that it is content itself; the elected one is content if a quorum that
answers it has promised nobody higher. A replica takes a higher ballot only if it is not content,
nobody whom it hears is, and a quorum answers it. So a leader must be connected to a quorum, one
that lost its quorum is replaced by whoever has one, and a replica that merely lost its own link to
a working leader disturbs nobody (Ng, Haridi and Carbone, EuroSys'23; contentment as in their
omnipaxos 0.2). Logs do not matter here: the one who is elected fetches what it lacks.

A reply counts from the tick in which it was asked for, so that late or repeated ones prove nothing.
Must never import anything that does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.paxos.messages import NO_BALLOT, Ballot
from onceflow_consensus.quorum.majority import VoteResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow_consensus.quorum.joint import JointVoters
    from onceflow_consensus.quorum.majority import PeerId


@dataclass(frozen=True, slots=True)
class Reply:
    """What a peer told in its last heartbeat, and the tick in which it was asked."""

    ballot: Ballot
    elected: Ballot
    is_content: bool
    asked_at: int


class BallotElection:
    """What one replica knows of the ballots of all.

    own: the ballot that this replica claimed last; its number is zero if it claimed none since
        it started.
    elected: the highest ballot seen, promised or told. Invariant: never falls.
    is_content: whether the elected one leads, as far as this replica can tell. Until it can have
        answered, it is trusted.
    now: ticks since the start.
    """

    __slots__ = (
        "_elected_at",
        "_own_id",
        "_replies",
        "_window_ticks",
        "elected",
        "is_content",
        "now",
        "own",
    )

    def __init__(self, own_id: PeerId, promised: Ballot, window_ticks: int) -> None:
        self._own_id = own_id
        self._window_ticks = window_ticks
        self._replies: dict[PeerId, Reply] = {}
        # A ballot of before the restart is not its own: what it had written under it is unknown.
        self.own = Ballot(0, own_id)
        self.elected = promised
        self.is_content = False
        self.now = 0
        self._elected_at = -window_ticks

    def observe(self, ballot: Ballot) -> None:
        """Learn that a ballot exists; one of number zero is none."""
        if ballot.number > 0 and ballot > self.elected:
            self.elected = ballot
            self._elected_at = self.now
            self.is_content = True

    def claim(self, ballot: Ballot) -> None:
        """Claim a ballot above all that are known."""
        self.own = ballot
        self.observe(ballot)

    def take_reply(self, peer_id: PeerId, reply: Reply) -> None:
        """Keep a peer's reply unless it is older than the last one, or of before the restart."""
        known = self._replies.get(peer_id)
        if reply.asked_at > self.now or (known is not None and reply.asked_at < known.asked_at):
            return
        self._replies[peer_id] = reply
        self.observe(max(reply.ballot, reply.elected))

    def keep_members(self, peer_ids: frozenset[PeerId]) -> None:
        """Forget who left, and count newcomers as heard: they could not answer yet."""
        newcomer = Reply(NO_BALLOT, NO_BALLOT, is_content=False, asked_at=self.now)
        self._replies = {
            peer_id: self._replies.get(peer_id, newcomer) for peer_id in peer_ids - {self._own_id}
        }

    def is_heard(self, peer_id: PeerId) -> bool:
        """Whether a peer answered lately."""
        reply = self._replies.get(peer_id)
        return reply is not None and self.now - reply.asked_at < self._window_ticks

    def heard(self) -> dict[PeerId, Reply]:
        """Return the last replies of the peers that answered lately."""
        return {peer: reply for peer, reply in self._replies.items() if self.is_heard(peer)}

    def is_connected(self, voters: JointVoters) -> bool:
        """Whether a quorum answers."""
        return self._is_quorum(voters, self.heard())

    def can_lead(self, voters: JointVoters) -> bool:
        """Whether a quorum answers that takes nobody higher than the own ballot for elected."""
        return self._is_quorum(
            voters, (peer for peer, reply in self.heard().items() if reply.elected <= self.own)
        )

    def is_outranked(self) -> bool:
        """Whether a peer follows a higher ballot than the own although nobody leads with one.

        Such a peer refuses all that this replica sends.
        """
        higher = [reply for reply in self.heard().values() if reply.elected > self.own]
        return bool(higher) and not any(reply.is_content for reply in higher)

    def judge(self, voters: JointVoters, *, is_proposing: bool) -> None:
        """Decide whether the elected one leads."""
        if is_proposing and self.elected == self.own:
            self.is_content = self.can_lead(voters)
            return
        reply = self.heard().get(self.elected.owner)
        if reply is None or reply.asked_at <= self._elected_at:
            self.is_content = self.now - self._elected_at < self._window_ticks
        else:
            self.is_content = reply.ballot == self.elected and reply.is_content

    def may_take_over(self, voters: JointVoters) -> bool:
        """Whether nobody who is heard is content, and a quorum is heard."""
        if self.is_content or any(reply.is_content for reply in self.heard().values()):
            return False
        return self.is_connected(voters)

    def _is_quorum(self, voters: JointVoters, peer_ids: Iterable[PeerId]) -> bool:
        heard = dict.fromkeys(peer_ids, True) | {self._own_id: True}
        absent = dict.fromkeys(voters.peer_ids, False)
        return voters.vote_result(absent | heard) is VoteResult.WON
