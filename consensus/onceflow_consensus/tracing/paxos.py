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
    configuration_fields,
    message_fields,
    term_starts,
    texts,
)

if TYPE_CHECKING:
    from onceflow_consensus.paxos.messages import Ballot
    from onceflow_consensus.paxos.ready import PaxosReady
    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.raft.messages import Entry, EntryId, LogIndex
    from onceflow_consensus.raft.options import RaftOptions
    from onceflow_consensus.raft.stable import StableLog
    from onceflow_consensus.tracing.lines import Trace


class TracedPaxosState(Teller[PaxosMessage], PaxosState):
    """The state of a replica that tells every change; see ``raft.TracedState`` for how."""

    def __init__(
        self, options: RaftOptions, stable: StableLog, applied_index: LogIndex, trace: Trace
    ) -> None:
        """Begin as the replica does."""
        super().__init__(options, stable, applied_index)
        self._trace = trace
        self._told_commit = self.log.commit_index
        self._told_last = self.log.last_id
        self._told_configuration = self.tracker.configuration
        self._tell("InitState", prop={"terms": term_starts(self.log)})

    def catch_up(self) -> None:
        """Tell what changed since the last line."""
        message, self.arriving = self.arriving, None
        if message is not None:
            self._tell("Receive" + message.kind.value, message=message)
        last = self.log.last_id
        if last != self._told_last:
            before, self._told_last = self._told_last, last
            if self.phase is Phase.ACCEPT and last.index > before.index:
                self._tell_proposals(before)
        configuration = self.tracker.configuration
        if configuration != self._told_configuration:
            changed = {"newconf": texts(configuration.voters.incoming)}
            self._tell("ApplyConfChange", prop={"cc": changed})
            self._told_configuration = configuration
        if self.log.commit_index != self._told_commit:
            self._told_commit = self.log.commit_index
            self._tell("Decide")

    def _tell_proposals(self, before: EntryId) -> None:
        for entry in self.log.slice(before.index + 1, self.log.last_index + 1, 2**62):
            changes = changes_of(entry)
            prop: dict[str, object] = {"index": entry.index}
            prop |= {"cc": {"changes": changes}} if changes else {}
            self._tell("ChangeConf" if changes else "Replicate", prop=prop, last=before)

    def post(self, message: PaxosMessage) -> None:
        """Queue a message and tell it."""
        super().post(message)
        self.catch_up()
        self._tell("Send" + message.kind.value, message=message)

    def promise(self, cause: Cause, ballot: Ballot) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().promise(cause, ballot)
        self._tell("TakeBallot" if cause is Cause.TAKE_OVER else "Promise")

    def give_up(self, cause: Cause) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().give_up(cause)
        self._tell("GiveUp")

    def open_ballot(self) -> None:
        """See ``PaxosState``."""
        self.catch_up()
        super().open_ballot()
        self._tell("OpenBallot")

    def is_ready(self) -> None:
        """Tell that work was handed out."""
        self.catch_up()
        self._tell("Ready")

    def _tell(
        self,
        name: str,
        *,
        message: PaxosMessage | None = None,
        prop: dict[str, object] | None = None,
        last: EntryId | None = None,
    ) -> None:
        last = self._told_last if last is None else last
        ballot = self.promised
        event: dict[str, object] = {
            "name": name,
            "nid": str(self.peer_id),
            "state": {
                "term": ballot.number,
                "vote": str(ballot.owner),
                "commit": self._told_commit,
            },
            "role": self.phase.value,
            "log": last.index,
            "logTerm": last.term,
            **configuration_fields(self._told_configuration),
        }
        if message is not None:
            event["msg"] = message_fields(message)
        if prop:
            event["prop"] = prop
        self._trace.tell(PAXOS_TAG, event)


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
