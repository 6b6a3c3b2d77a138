"""A Paxos replica that tells what it goes through, in the form of Raft's trace. See the package."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onceflow_consensus.paxos.messages import PaxosMessage
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.roles import Cause, Phase
from onceflow_consensus.paxos.state import PaxosState
from onceflow_consensus.tracing.lines import (
    PAXOS_TAG,
    Teller,
    changes_of,
)

if TYPE_CHECKING:
    from onceflow_consensus.paxos.messages import Ballot
    from onceflow_consensus.paxos.ready import PaxosReady
    from onceflow_consensus.quorum.majority import PeerId
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, EntryId, LogIndex, Term
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.tracing.lines import Trace


class TracedPaxosState(Teller[PaxosMessage], PaxosState):
    """The state of a replica that tells every change."""

    tag = PAXOS_TAG

    def __init__(
        self, options: RaftOptions, stable: StableLog, applied_index: LogIndex, trace: Trace
    ) -> None:
        """Begin as the replica does."""
        super().__init__(options, stable, applied_index)
        self.begin(trace)

    def told_state(self) -> tuple[Term, PeerId, str]:
        """See ``Teller``."""
        return self.promised.number, self.promised.owner, self.phase.value

    def may_propose(self) -> bool:
        """See ``Teller``."""
        return self.phase is Phase.ACCEPT

    def tell_arrival(self, message: PaxosMessage) -> None:
        """See ``Teller``."""
        self.tell(PAXOS_TAG, "Receive" + message.kind.value, message=message)

    def tell_proposal(self, entry: Entry, before: EntryId) -> None:
        """See ``Teller``."""
        changes = changes_of(entry)
        prop: dict[str, object] = {"index": entry.index}
        prop |= {"cc": {"changes": changes}} if changes else {}
        self.tell(PAXOS_TAG, "ChangeConf" if changes else "Replicate", prop=prop, last=before)

    def tell_commit(self) -> None:
        """See ``Teller``."""
        self.tell(PAXOS_TAG, "Decide")

    def post(self, message: PaxosMessage) -> None:
        """Queue a message and tell it."""
        super().post(message)
        self.catch_up()
        self.tell(PAXOS_TAG, "Send" + message.kind.value, message=message)

    def promise(self, cause: Cause, ballot: Ballot) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().promise(cause, ballot)
        self.tell(PAXOS_TAG, "TakeBallot" if cause is Cause.TAKE_OVER else "Promise")

    def give_up(self, cause: Cause) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().give_up(cause)
        self.tell(PAXOS_TAG, "GiveUp")

    def open_ballot(self) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().open_ballot()
        self.tell(PAXOS_TAG, "OpenBallot")


class TracedPaxos(PaxosNode):
    """A replica that tells what it goes through; otherwise as ``PaxosNode``."""

    def __init__(
        self,
        options: RaftOptions,
        stable: StableLog,
        trace: Trace,
        *,
        applied_index: LogIndex = 0,
    ) -> None:
        """Start, or start again; see ``PaxosNode`` for the arguments."""
        super().__init__(options, stable, applied_index=applied_index)
        self._traced = TracedPaxosState(options, stable, applied_index, trace)
        self.state = self._traced

    def ready(self) -> PaxosReady:
        """See ``PaxosNode``."""
        ready = super().ready()
        self._traced.is_ready()
        return ready

    def step(self, message: PaxosMessage) -> None:
        """See ``PaxosNode``."""
        self._traced.take(message, partial(super().step, message))

    def advance(self) -> None:
        """See ``PaxosNode``; promises to itself are received one by one."""
        reports, self._on_advance = self._on_advance, []
        super().advance()
        for report in reports:
            self._on_advance = [report]
            self._traced.take(report, super().advance)

    def apply_conf_change(self, entry: Entry) -> Configuration | None:
        """See ``PaxosNode``."""
        configuration = super().apply_conf_change(entry)
        self._traced.catch_up()
        return configuration

    def tick(self, fresh_timeout_ticks: int) -> None:
        """See ``PaxosNode``."""
        super().tick(fresh_timeout_ticks)
        self._traced.catch_up()
