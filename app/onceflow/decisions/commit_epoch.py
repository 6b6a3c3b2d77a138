"""The life of a worker's commit epochs: one Kafka transaction after the other, never two at once.

Decides when a transaction begins, what it commits, whether it is committed, aborted or resolved
from markers, when partitions may be claimed and handed over, and when two-phase participants
prepare. Events in, effects out: no clock, thread or I/O may be imported here.

Theory. An epoch is the work between two openings of the gate under one assignment. It ends either
fully drained and committed, or aborted and replayed from the committed offsets, so nothing is ever
committed below a gap. Whatever wants an epoch to end leaves its wish in a field and closes the
gate. When the epoch is over, ``_settle`` looks at all wishes in one fixed order: lost partitions
are forgotten, leaving ones released, a stop obeyed, joining ones taken over, and only then the gate
opens again. So no epoch spans a change of assignment (INV-EPOCH-4).

A transaction with an unknown end or a spent producer goes through RESOLVING: the producer is
replaced, which fences the old one, and the markers are read.

An epoch with rows for participants is prepared between its seal and its decision. Its branch is
finished beside later epochs, or rolled back by ``_settle``, where no transaction is in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from onceflow.decisions import epoch_branches as branches
from onceflow.decisions import epoch_effects as fx
from onceflow.decisions import epoch_events as ev
from onceflow.decisions.epoch_branches import BranchPhase, OwnBranch
from onceflow.decisions.epoch_doubt import Doubt, Question
from onceflow.decisions.epoch_positions import (
    Claimed,
    EpochKind,
    PendingTransaction,
    Verdict,
    claims,
    drained_positions,
    judge,
    release,
    to_send,
)
from onceflow.decisions.epoch_states import (
    BETWEEN,
    BUSY,
    IGNORED,
    LIVE,
    ON_THE_WAY,
    OVER,
    UNDECIDED,
    EpochState,
    is_late,
)
from onceflow.decisions.epoch_waits import Waits
from onceflow.decisions.epoch_wishes import Goodbye, Wishes
from onceflow.errors import invariant
from onceflow.ids import CommitEpoch, Incarnation, Partition, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onceflow.decisions.epoch_effects import EpochEffect
    from onceflow.decisions.epoch_events import EpochEvent
    from onceflow.ids import Offset


class CommitEpochs:
    """The commit epochs of one worker process, one after the other.

    The engine gives every event to ``handle`` on one thread and performs the returned effects in
    order. The first transactional producer is ready before the first event. Markers name ``own``,
    and ``participants``, the names of the app's two-phase sinks.
    """

    def __init__(self, own: Incarnation, participants: tuple[str, ...] = ()) -> None:
        self._own: Final = own
        self.state = EpochState.UNASSIGNED
        """Advanced by the handlers of ``TRANSITIONS``."""
        self.stamp = Stamp(0, 0)
        """Of live work. The assignment grows with each change of partitions or membership, the
        attempt with each abort. Invariant: never returns to an earlier value."""
        self.commit_epoch = CommitEpoch(0)
        """Number of the last begun transaction; grows by one at each begin. Invariant: never used
        for two transactions (a begun one in which nothing happened is used on)."""
        self._claimed: dict[Partition, Claimed] = {}
        """Partitions ours by a committed claim, with their committed positions. Advanced by a
        commit, shrunk by ``_forget``. Invariant (INV-EPOCH-2): offsets only grow."""
        self._committed_epoch = CommitEpoch(0)
        """Number in the markers of ``_claimed``; advanced with it."""
        self._membership = 0
        """Group metadata of the present assignment; adopted between epochs (INV-EPOCH-4)."""
        self._begun = False
        """Whether a transaction is open on the producer. Invariant: False while RESOLVING."""
        self._begun_assignment = 0
        """Assignment under which the open epoch works. Invariant at the commit: the present one."""
        self._pending: PendingTransaction | None = None
        """What the ending transaction commits; set at the drain, claim or release, cleared by its
        outcome."""
        self._noted: set[Partition] = set()
        """Partitions whose marker is to count one single-record attempt; cleared at epoch's end."""
        self._wishes: Final = Wishes()
        """What was asked meanwhile; obeyed and cleared by ``_settle``."""
        self._rewind = False
        """An attempt was dropped: the consumer goes back before the gate opens."""
        self._waits: Final = Waits()
        """Before the next opening or takeover; set by failures, used up by ``_settle``."""
        self._stop_message: str | None = None
        """Why to leave once the abort is through (``on_error="stop"``)."""
        self._doubt: Final = Doubt()
        """What is unknown of the last transaction. Invariant: nothing while one is open."""
        self.branch: Final = OwnBranch(participants)
        """What is left in participants. Invariant: GIVEN only with a transaction under way."""

    @property
    def committed_offsets(self) -> dict[Partition, Offset]:
        """Committed offset of every claimed partition."""
        return {partition: at.offset for partition, at in self._claimed.items()}

    @property
    def committed_attempts(self) -> dict[Partition, int]:
        """``Marker.attempts`` of every claimed partition, for ``failures``."""
        return {partition: at.attempts for partition, at in self._claimed.items()}

    @property
    def membership(self) -> int:
        """Number of the group metadata that transactions carry; older ones are of no more use."""
        return self._membership

    @property
    def on_the_way(self) -> PendingTransaction | None:
        """The transaction that is being decided; None between two."""
        return self._pending

    def handle(self, event: EpochEvent) -> list[EpochEffect]:
        """Take what happened, return what to do, in order.

        Raises:
            InvariantViolation: a bug of onceflow: stop the worker.
        """
        key = (self.state, type(event))
        if is_late(event, self.stamp, self.commit_epoch) or key in IGNORED:
            return []
        handler = self.TRANSITIONS.get(key)
        invariant(
            handler is not None,
            "INV-EPOCH-6: only events that the state allows",
            state=self.state,
            event=event,
        )
        return [] if handler is None else handler(self, event)

    # What the group and the process say.

    def _assigned(self, event: ev.Assigned) -> list[EpochEffect]:
        self._wishes.assigned(event.partitions, event.membership, self._claimed.keys())
        return self._obey()

    def _revoke_requested(self, event: ev.RevokeRequested) -> list[EpochEffect]:
        self._wishes.revoked(event.partitions, self._on_the_way())
        return self._obey()

    def _stop_requested(self, _: ev.StopRequested) -> list[EpochEffect]:
        self._wishes.stopping = True
        return self._obey()

    def _obey(self) -> list[EpochEffect]:
        """A wish was noted: obey at once, end the epoch for it, or leave it to ``_settle``."""
        if self.state in BETWEEN:
            return [*self._cancel_takeover(), *self._settle()]
        return self._drain() if self.state is EpochState.OPEN else []

    def _revoke_over(self, _: ev.RevokeRequested) -> list[EpochEffect]:
        return [fx.FinishRevoke()]

    def _departure_timed_out_undecided(self, _: ev.RevokeTimedOut) -> list[EpochEffect]:
        """Drained too slowly: abort; the partitions are handed over unreleased."""
        if self._wishes.leaving is None and not self._wishes.stopping:
            return []
        self._wishes.goodbye = Goodbye.GIVEN_UP
        return self._abort()

    def _departure_timed_out(self, _: ev.RevokeTimedOut) -> list[EpochEffect]:
        """What is on the way cannot be called back; do not let the group wait for it."""
        effects: list[EpochEffect] = []
        if self._wishes.leaving is not None:
            self._lose(self._wishes.leaving)
            self._wishes.leaving = None
            effects.append(fx.FinishRevoke())
        if self._wishes.stopping:
            self.state = EpochState.STOPPED
            effects.append(fx.Stop())
        return effects

    def _lost_between(self, event: ev.Lost) -> list[EpochEffect]:
        known = event.partitions & (self._wishes.joining | self._claimed.keys())
        self._lose(event.partitions)
        if not known:
            return []
        # A transaction that was begun, and not used yet, ends here: sends without a record need
        # one of their own if no partition is left.
        cancel = self._cancel_takeover()
        return [*cancel, *(self._abort() if self._begun else self._settle())]

    def _lost_undecided(self, event: ev.Lost) -> list[EpochEffect]:
        self._lose(event.partitions)
        return self._abort() if self._wishes.lost else []

    def _lost_busy(self, event: ev.Lost) -> list[EpochEffect]:
        self._lose(event.partitions)
        return []

    def _lose(self, partitions: frozenset[Partition]) -> None:
        self._wishes.lose(partitions, self._claimed.keys() | self._on_the_way())

    def _failed(self, event: ev.Failed) -> list[EpochEffect]:
        return self._fail(event.message, exit_code=event.exit_code)

    def _cancel_takeover(self) -> list[EpochEffect]:
        return [fx.CancelTakeover()] if self.state is EpochState.TAKING_OVER else []

    def _on_the_way(self) -> frozenset[Partition]:
        """Partitions of the transaction that is being decided."""
        return frozenset(self._pending.positions) if self._pending is not None else frozenset()

    # Between two epochs.

    def _settle(self) -> list[EpochEffect]:
        """No epoch is open: obey what was asked meanwhile, in the one order that is safe."""
        invariant(self._pending is None, "INV-EPOCH-4: assignments change between epochs only")
        if self._stop_message is not None:
            return self._fail(self._stop_message, exit_code=1)
        wishes = self._wishes
        effects = [*self.branch.settle(), *self._forget(wishes.lost)]
        wishes.lost.clear()
        if wishes.unreleased(self._claimed):
            positions = release(self._claimed, wishes.departing(self._claimed.keys()))
            return [*effects, *self._begin(), *self._decide(EpochKind.RELEASE, positions)]
        if wishes.leaving is not None:
            wishes.joining -= wishes.leaving
            effects += [*self._forget(wishes.leaving), fx.FinishRevoke()]
            wishes.leaving = None
        if wishes.stopping:
            return [*effects, *self._forget(set(self._claimed)), *self._leave()]
        if self.branch.is_refused:
            return [*effects, *self._fail(branches.HANDED_OVER, exit_code=1)]
        wishes.goodbye = Goodbye.POSSIBLE
        return [*effects, *self._go_on()]

    def _leave(self) -> list[EpochEffect]:
        """Stop, but first let participants finish, within the bound of the stop."""
        if self.branch.is_left and self._wishes.goodbye is Goodbye.POSSIBLE:
            self.state = EpochState.FINISHING
            return []
        self.state = EpochState.STOPPED
        return [fx.Stop()]

    def _forget(self, partitions: set[Partition] | frozenset[Partition]) -> list[EpochEffect]:
        gone = frozenset(partitions & self._claimed.keys())
        if not gone:
            return []
        for partition in gone:
            self.branch.handed_over(self._claimed.pop(partition).released)
        self.stamp = Stamp(self.stamp.assignment + 1, 0)
        return [fx.ForgetPartitions(gone, self.stamp)]

    def _go_on(self) -> list[EpochEffect]:
        after_s = self._waits.take()
        if self._wishes.membership is not None:
            self._membership, self._wishes.membership = self._wishes.membership, None
            self.stamp = Stamp(self.stamp.assignment + 1, 0)
        effects: list[EpochEffect] = []
        if self._rewind and self._claimed:
            effects.append(fx.Rewind(self.committed_offsets))
        self._rewind = False
        if self._wishes.joining:
            self.state = EpochState.TAKING_OVER
            self.stamp = Stamp(self.stamp.assignment + 1, 0)
            joining = frozenset(self._wishes.joining)
            effects.append(fx.BeginTakeover(self.stamp.assignment, joining, after_s))
        elif self._claimed:
            effects += [*self._begin(), fx.OpenGate(self.stamp, after_s)]
            self.state = EpochState.OPEN
        else:
            self.state = EpochState.UNASSIGNED
        return effects

    def _begin(self) -> list[EpochEffect]:
        """Begin a transaction, or use on a begun one in which nothing happened."""
        invariant(
            self._doubt.question is Question.NONE,
            "INV-EPOCH-7: after a spent producer the markers are read before the next begin",
            question=self._doubt.question,
        )
        self._begun_assignment = self.stamp.assignment
        if self._begun:
            return []
        self._begun = True
        self.commit_epoch = CommitEpoch(self.commit_epoch + 1)
        return [fx.BeginTransaction(self.commit_epoch)]

    def _taken_over(self, event: ev.TakenOver) -> list[EpochEffect]:
        invariant(
            set(event.starts) == self._wishes.joining,
            "INV-EPOCH-5: exactly the joining partitions are claimed",
            joining=self._wishes.joining,
            starts=event.starts,
        )
        positions = {**self._claimed, **claims(event.starts)}
        return [*self._begin(), *self._decide(EpochKind.CLAIM, positions)]

    # The end of an epoch.

    def _commit_due(self, _: ev.CommitDue) -> list[EpochEffect]:
        return self._drain()

    def _note_attempt(self, event: ev.NoteAttempt) -> list[EpochEffect]:
        invariant(
            event.partition in self._claimed,
            "INV-EPOCH-5: attempts are noted on claimed partitions",
            partition=event.partition,
        )
        self._noted.add(event.partition)
        return self._drain()

    def _drain(self) -> list[EpochEffect]:
        self.state = EpochState.DRAINING
        return [fx.CloseGate()]

    def _drained(self, event: ev.Drained) -> list[EpochEffect]:
        positions = drained_positions(self._claimed, event.offsets, self._noted)
        if positions == self._claimed and not event.has_effects:
            # An empty transaction would cost a commit and say nothing; the begun one is used on.
            return self._settle()
        self._noted.clear()
        self._pending = PendingTransaction(EpochKind.RECORDS, self.commit_epoch, positions)
        self.state = EpochState.SEALING
        return [fx.Seal(self.commit_epoch)]

    def _sealed(self, event: ev.Sealed) -> list[EpochEffect]:
        if event.rows is ev.SinkRows.NONE:
            return self._decide_records()
        if self.branch.left_unreleased:
            return self._fail(branches.HANDED_OVER, exit_code=1)
        if self.branch.is_left:
            self.state = EpochState.AWAITING_BRANCH
            return [fx.AwaitBranches(self.commit_epoch, frozenset([self.branch.number]))]
        self.state = EpochState.PREPARING
        return self.branch.prepare(self.commit_epoch)

    def _prepared(self, _: ev.Prepared) -> list[EpochEffect]:
        return self._decide_records()

    def _decide_records(self) -> list[EpochEffect]:
        invariant(self._pending is not None, "INV-EPOCH-1: only a drained epoch is decided")
        if self._pending is None:
            return []
        positions = release(self._pending.positions, self._wishes.departing(self._claimed.keys()))
        first, last = self._decide(EpochKind.RECORDS, positions)
        return [first, fx.Flush(), last]

    def _decide(self, kind: EpochKind, positions: Mapping[Partition, Claimed]) -> list[EpochEffect]:
        invariant(
            self._begun
            and self._begun_assignment == self.stamp.assignment
            and not self._wishes.lost,
            "INV-EPOCH-4: an epoch commits under the assignment that it began under",
            begun=self._begun_assignment,
            present=self.stamp.assignment,
            lost=self._wishes.lost,
        )
        k = self.branch.for_markers
        self._pending = PendingTransaction(kind, self.commit_epoch, positions, *k)
        self._pending.check_covers(self._claimed.keys())
        self.state = EpochState.CLAIMING if kind is EpochKind.CLAIM else EpochState.DECIDING
        return [
            fx.SendOffsets(self._membership, to_send(self._pending, self._own)),
            fx.CommitTransaction(self.commit_epoch),
        ]

    def _transaction_ended(self, event: ev.TransactionEnded) -> list[EpochEffect]:
        match event.outcome:
            case ev.Outcome.COMMITTED:
                if event.spent:
                    self._doubt.question = Question.VERIFY
                return self._committed()
            case ev.Outcome.NOT_COMMITTED:
                return self._abort_unasked()
            case ev.Outcome.UNKNOWN:
                self._doubt.question = Question.OUTCOME
                return self._resolve()

    def _committed(self) -> list[EpochEffect]:
        """The pending transaction is committed: adopt its positions."""
        pending, self._pending = self._pending, None
        invariant(pending is not None, "INV-EPOCH-1: only a pending transaction is committed")
        if pending is None:
            return []
        joined = pending.positions.keys() - self._claimed.keys()
        self._claimed = dict(pending.positions)
        self._committed_epoch = pending.commit_epoch
        self._begun = False
        self._waits.committed()
        if pending.kind is EpochKind.RECORDS:
            self.state = EpochState.APPLYING
            held = frozenset(self._claimed.keys() - self._wishes.lost)
            finish = self.branch.committed(pending.commit_epoch)
            return [fx.Apply(pending.commit_epoch, held), *finish]
        effects: list[EpochEffect] = []
        if pending.kind is EpochKind.CLAIM:
            # Who was lost while the claim was on its way is forgotten at once, and joins again if
            # the group gave it back in between.
            held = joined - self._wishes.lost
            self._wishes.joining -= held
            starts = {partition: self._claimed[partition].offset for partition in held}
            effects += [fx.Rewind(starts)] if starts else []
        return [*effects, *self._after_outcome()]

    def _applied(self, _: ev.Applied) -> list[EpochEffect]:
        return self._after_outcome()

    def _after_outcome(self) -> list[EpochEffect]:
        return self._settle() if self._doubt.question is Question.NONE else self._resolve()

    # Branches in participants.

    def _prepare_failed(self, event: ev.PrepareFailed) -> list[EpochEffect]:
        match event.kind:
            case ev.PrepareFailure.SUPERSEDED:
                return self._fail(branches.superseded(event.message), exit_code=1)
            case ev.PrepareFailure.UNAVAILABLE:
                return self._abort_and_wait()
            case ev.PrepareFailure.ROWS:
                return self._abort_unasked()

    def _branches_timed_out(self, _: ev.BranchesTimedOut) -> list[EpochEffect]:
        return self._abort_and_wait()

    def _branch_finished(self, event: ev.BranchFinished) -> list[EpochEffect]:
        self.branch.gone(event.commit_epoch, BranchPhase.FINISHING)
        return self._after_branch()

    def _branch_rolled_back(self, event: ev.BranchRolledBack) -> list[EpochEffect]:
        self.branch.gone(event.commit_epoch, BranchPhase.ROLLING_BACK)
        return self._after_branch()

    def _after_branch(self) -> list[EpochEffect]:
        """No branch is left: go on with what waited for that."""
        if self.state is EpochState.AWAITING_BRANCH:
            self.state = EpochState.PREPARING
            return self.branch.prepare(self.commit_epoch)
        return self._leave() if self.state is EpochState.FINISHING else []

    def _branch_missing(self, event: ev.BranchMissing) -> list[EpochEffect]:
        return self._fail(event.message, exit_code=4)

    # Aborting.

    def _record_failed(self, event: ev.RecordFailed) -> list[EpochEffect]:
        self._waits.record_failed(event.reopen_after_s)
        self._stop_message = event.stop_message
        return self._abort()

    def _drain_timed_out(self, _: ev.DrainTimedOut) -> list[EpochEffect]:
        return self._abort_unasked()

    def _offsets_refused(self, _: ev.OffsetsRefused) -> list[EpochEffect]:
        self._waits.offsets_refused()
        return self._abort()

    def _send_failed(self, event: ev.SendFailed) -> list[EpochEffect]:
        if event.kind is ev.SendFailure.ABORTABLE:
            return self._abort_unasked()
        effects = self._drop()
        self._doubt.question = Question.VERIFY
        return [*effects, *self._resolve()]

    def _send_failed_between(self, _: ev.SendFailed) -> list[EpochEffect]:
        """No record is in the transaction, but its producer is of no use."""
        self._doubt.question = Question.VERIFY
        return [*self._cancel_takeover(), *self._resolve()]

    def _send_failed_applying(self, _: ev.SendFailed) -> list[EpochEffect]:
        self._doubt.question = Question.VERIFY
        return []

    def _abort_unasked(self) -> list[EpochEffect]:
        """Abort for a reason that may come again at once."""
        self._waits.unasked()
        return self._abort()

    def _abort_and_wait(self) -> list[EpochEffect]:
        """Abort because of participants; they are asked again after growing waits."""
        self._waits.participant_refused()
        return self._abort()

    def _abort(self) -> list[EpochEffect]:
        effects = self._drop()
        self.state = EpochState.ABORTING
        return [*effects, fx.AbortTransaction(self.commit_epoch)]

    def _drop(self, sends: fx.SendsFate = fx.SendsFate.REPEAT) -> list[EpochEffect]:
        """Give the attempt up, whatever becomes of its transaction on the producer."""
        kind = EpochKind.RECORDS if self._pending is None else self._pending.kind
        self._pending = None
        self.branch.drop()
        self._noted.clear()
        self._waits.given_up()
        if kind is EpochKind.RELEASE:
            self._wishes.goodbye = Goodbye.GIVEN_UP
        if kind is not EpochKind.RECORDS:
            return []
        self._rewind = True
        self.stamp = Stamp(self.stamp.assignment, self.stamp.attempt + 1)
        close = [fx.CloseGate()] if self.state is EpochState.OPEN else []
        return [*close, fx.DropAttempt(self.stamp, sends)]

    def _aborted(self, event: ev.Aborted) -> list[EpochEffect]:
        self._begun = False
        if event.spent:
            self._doubt.question = Question.VERIFY
        return self._after_outcome()

    # A spent producer, an unknown outcome.

    def _resolve(self) -> list[EpochEffect]:
        self._begun = False
        self.state = EpochState.RESOLVING
        return [fx.ReplaceProducer()]

    def _producer_ready(self, _: ev.ProducerReady) -> list[EpochEffect]:
        asked = (self._claimed.keys() | self._on_the_way()) - self._wishes.lost
        return [fx.ReadMarkers(self._doubt.ask(asked))] if asked else self._nobody_to_ask()

    def _nobody_to_ask(self) -> list[EpochEffect]:
        """Nothing is ours any more: what markers say is their next owner's business."""
        unknown = self._doubt.settle() is Question.OUTCOME
        if unknown and self.branch.phase is BranchPhase.GIVEN:
            return self._fail(branches.UNKNOWN_TO_US, exit_code=1)
        # A claim that was committed after all names us as an owner who never released.
        self.branch.left_unreleased |= unknown
        fate = fx.SendsFate.UNKNOWN if unknown else fx.SendsFate.REPEAT
        effects = self._drop(fate) if self._pending is not None else []
        return [*effects, *self._settle()]

    def _markers_read(self, event: ev.MarkersRead) -> list[EpochEffect]:
        ours = self._doubt.answer(event.markers, self._wishes.lost)
        if not ours:
            return self._nobody_to_ask()
        question = self._doubt.settle()
        proof = judge(ours, self._pending, self._claimed, (self._own, self._committed_epoch))
        match proof.verdict:
            case Verdict.COMMITTED:
                return self._committed()
            case Verdict.NOT_COMMITTED:
                effects = self._drop() if question is Question.OUTCOME else []
                return [*effects, *self._settle()]
            case Verdict.FENCED | Verdict.FOREIGN_CHANGE:
                return self._fail(proof.explain(), exit_code=4)

    def _fail(self, message: str, *, exit_code: int) -> list[EpochEffect]:
        self.state = EpochState.FAILED
        waiting = [fx.FinishRevoke()] if self._wishes.leaving is not None else []
        self._wishes.leaving = None
        return [fx.Fail(message, exit_code), *waiting]

    _ROWS = (
        (LIVE, ev.Assigned, _assigned),
        (LIVE, ev.RevokeRequested, _revoke_requested),
        (OVER, ev.RevokeRequested, _revoke_over),
        (UNDECIDED, ev.RevokeTimedOut, _departure_timed_out_undecided),
        ((*BUSY, EpochState.FINISHING), ev.RevokeTimedOut, _departure_timed_out),
        (BETWEEN, ev.Lost, _lost_between),
        ((EpochState.OPEN, *UNDECIDED), ev.Lost, _lost_undecided),
        (BUSY, ev.Lost, _lost_busy),
        (LIVE, ev.StopRequested, _stop_requested),
        (LIVE, ev.Failed, _failed),
        ((EpochState.TAKING_OVER,), ev.TakenOver, _taken_over),
        ((EpochState.OPEN,), ev.CommitDue, _commit_due),
        ((EpochState.OPEN,), ev.NoteAttempt, _note_attempt),
        ((EpochState.DRAINING,), ev.Drained, _drained),
        ((EpochState.DRAINING,), ev.DrainTimedOut, _drain_timed_out),
        ((EpochState.OPEN, *UNDECIDED), ev.RecordFailed, _record_failed),
        ((EpochState.SEALING,), ev.Sealed, _sealed),
        ((EpochState.PREPARING,), ev.Prepared, _prepared),
        ((EpochState.PREPARING,), ev.PrepareFailed, _prepare_failed),
        ((EpochState.AWAITING_BRANCH,), ev.BranchesTimedOut, _branches_timed_out),
        (LIVE, ev.BranchFinished, _branch_finished),
        (LIVE, ev.BranchRolledBack, _branch_rolled_back),
        (LIVE, ev.BranchMissing, _branch_missing),
        (BETWEEN, ev.SendFailed, _send_failed_between),
        ((EpochState.OPEN, *UNDECIDED, *ON_THE_WAY), ev.SendFailed, _send_failed),
        ((EpochState.APPLYING,), ev.SendFailed, _send_failed_applying),
        (ON_THE_WAY, ev.OffsetsRefused, _offsets_refused),
        (ON_THE_WAY, ev.TransactionEnded, _transaction_ended),
        ((EpochState.APPLYING,), ev.Applied, _applied),
        ((EpochState.ABORTING,), ev.Aborted, _aborted),
        ((EpochState.RESOLVING,), ev.ProducerReady, _producer_ready),
        ((EpochState.RESOLVING,), ev.MarkersRead, _markers_read),
    )
    TRANSITIONS: ClassVar[
        Mapping[tuple[EpochState, type[EpochEvent]], Callable[..., list[EpochEffect]]]
    ] = {(state, event): handler for states, event, handler in _ROWS for state in states}
