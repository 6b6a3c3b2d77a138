"""The contract of two-phase sinks as tests: run it with pytest against a participant of your own.

    from onceflow.testing.participant_contract import ForeignSystem, ParticipantContract

    class MySystem(ForeignSystem): ...

    class TestMySink(ParticipantContract):
        @pytest.fixture
        def system(self):
            return MySystem(...)

Every test is a line of ``onceflow.sinks.participant``. Connections and the whole system are broken
from outside, at many moments, because it is there that rows get lost or doubled. A participant that
passes is one that the engine may trust; how it maps values, and what it refuses at the start, is
for tests of its own.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar

from onceflow.errors import (
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
    Superseded,
    Unreachable,
)
from onceflow.ids import BranchId, CommitEpoch, Incarnation
from onceflow.sinks.gid import Scope
from onceflow.sinks.participant import FinishOutcome, MarkerRow, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from onceflow.sinks.participant import Participant

_T = TypeVar("_T")

_PATIENCE_S: Final = 30.0
"""How long a system may take to answer again after it was broken."""

_PAUSE_S: Final = 0.05
"""Between two calls to a system that was broken."""

_MOMENTS_MS: Final = (0, 1, 2, 3, 5, 8, 13, 21)
"""When connections break after a call began: before, within and after what a prepare does."""


class ForeignSystem(ABC):
    """What the suite needs to know of the system under test. Empty at the start of each test.

    Attributes:
        scope: of the application; one that no other test uses.
    """

    scope: Scope

    @abstractmethod
    def participant(self, name: str = "sink") -> Participant:
        """A participant that is not open yet, writing into the one table of this test.

        Each one is like that of another process: nothing is shared but the system itself.
        """

    @abstractmethod
    def visible(self) -> list[int]:
        """The numbers of all rows that any reader sees now, sorted."""

    @abstractmethod
    def break_connections(self) -> None:
        """End every connection of participants from outside, without a word to them."""

    @abstractmethod
    def restart(self) -> None:
        """Stop the system as by a power cut, and start it again."""

    def row(self, number: int) -> object:
        """What an agent yields for the row with this number, from 1."""
        return {"id": number}

    def refused(self, number: int) -> object | None:
        """A row that ``encode`` takes, and the system refuses for its data; None without one."""
        del number
        return None


class _Branches:
    """What becomes of branches while nothing goes wrong."""

    def test_rows_are_visible_from_the_commit_on(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(1, 1, 2)
            _equal(system.visible(), [], "prepared rows are not visible")
            _equal(worker.sink.branches(), [worker.branch(1)], "a prepared branch is listed")
            _equal(worker.row(), None, "the marker row commits with the rows")
            _equal(worker.finish(1), FinishOutcome.DONE, "a prepared branch commits")
            _equal(system.visible(), [1, 2], "committed rows are visible")
            _equal(worker.sink.branches(), [], "a committed branch is listed no more")
            shown = MarkerRow(CommitEpoch(1), Standing.ACTIVE)
            _equal(worker.row(), shown, "the marker row tells")

    def test_an_epoch_without_rows_writes_its_marker_row(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(3)
            worker.finish(3)
            _equal(worker.row(), MarkerRow(CommitEpoch(3), Standing.ACTIVE), "a row without rows")
            _equal(system.visible(), [], "nothing else is written")

    def test_a_branch_commits_once_however_often_it_is_asked(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(1, 1)
            outcomes = [worker.finish(1) for _ in range(3)]
            _equal(set(outcomes), {FinishOutcome.DONE}, "the marker row proves the commit")
            _equal(system.visible(), [1], "and nothing is doubled")

    def test_a_branch_that_never_was_is_missing(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            _equal(worker.finish(1), FinishOutcome.MISSING, "absence alone is no proof of commit")
            worker.prepare(2, 2)
            worker.sink.roll_back(worker.branch(2))
            _equal(worker.finish(2), FinishOutcome.MISSING, "a branch rolled back is missing")
            worker.prepare(3, 3)
            worker.finish(3)
            _equal(worker.finish(1), FinishOutcome.MISSING, "another epoch's row is no proof")
            _equal(system.visible(), [3], "and nothing is written by asking")

    def test_a_branch_rolled_back_leaves_nothing(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.sink.roll_back(worker.branch(1))
            worker.prepare(2, 1)
            for _ in range(2):
                worker.sink.roll_back(worker.branch(2))
            _equal(worker.sink.branches(), [], "it is listed no more")
            worker.prepare(3, 1)
            worker.finish(3)
            _equal(system.visible(), [1], "the same rows go in with the next epoch")

    def test_rows_of_many_yields_all_arrive(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            for commit_epoch in range(1, 6):
                first = 200 * commit_epoch
                worker.prepare(commit_epoch, *range(first, first + 200))
                worker.finish(commit_epoch)
            _equal(system.visible(), list(range(200, 1_200)), "all rows, once")

    def test_only_own_branches_are_listed(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker, _Worker(system, name="other") as other:
            foreign = _Worker(system, scope=Scope.of("elsewhere", system.scope.scope))
            with foreign, _Worker(system, incarnation="second") as second:
                worker.prepare(1, 1)
                other.prepare(2, 2)
                foreign.prepare(3, 3)
                second.prepare(4, 4)
                mine = sorted([worker.branch(1), second.branch(4)])
                _equal(sorted(worker.sink.branches()), mine, "of our scope and name, all of them")
                _equal(other.sink.branches(), [other.branch(2)], "another name has its own")
                for each, commit_epoch in ((foreign, 3), (other, 2), (worker, 1), (second, 4)):
                    each.finish(commit_epoch)
            _equal(system.visible(), [1, 2, 3, 4], "all of them commit")

    def test_another_process_finishes_what_one_prepared(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker, _Worker(system, incarnation="heir") as heir:
            worker.prepare(1, 1)
            _equal(heir.sink.commit(worker.branch(1)), FinishOutcome.DONE, "while it lives")
            _equal(worker.finish(1), FinishOutcome.DONE, "of which the owner learns")
            worker.prepare(2, 2)
            worker.sink.close()
            heir.sink.roll_back(worker.branch(2))
            _equal(heir.sink.branches(), [], "when it is gone")
            seen = heir.sink.marker_row(worker.incarnation)
            _equal(seen, MarkerRow(CommitEpoch(1), Standing.ACTIVE), "a row is seen by all")
            _equal(system.visible(), [1], "one committed, one not")


class _Breakage:
    """What remains when connections and the system break."""

    def test_branches_outlive_connections_and_the_system(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(1, 1)
            system.break_connections()
            _equal(worker.patient(worker.sink.branches), [worker.branch(1)], "without connections")
            system.restart()
            _equal(worker.patient(worker.sink.branches), [worker.branch(1)], "after a restart")
            _equal(worker.patient(lambda: worker.finish(1)), FinishOutcome.DONE, "and commit")
            system.restart()
            _equal(worker.patient(lambda: worker.finish(1)), FinishOutcome.DONE, "and it is proved")
            _equal(system.visible(), [1], "durably")

    def test_each_call_connects_again_by_itself(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(1, 1)
            system.break_connections()
            worker.patient(lambda: worker.finish(1))
            system.break_connections()
            worker.patient(worker.row)
            system.break_connections()
            worker.patient(lambda: worker.sink.raise_marker(Incarnation("nobody")))
            system.break_connections()
            worker.patient(lambda: worker.sink.roll_back(worker.branch(9)))
            system.break_connections()
            worker.patient(worker.open_again)
            worker.prepare(2, 2)
            system.break_connections()
            worker.sink.close()
            _equal(worker.patient(lambda: worker.finish(2)), FinishOutcome.DONE, "after close too")
            _equal(system.visible(), [1, 2], "all rows, once")

    def test_a_broken_prepare_is_whole_or_absent(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker, _Worker(system, incarnation="heir") as heir:
            kept: list[int] = []
            for number, moment_ms in enumerate(_MOMENTS_MS, start=1):
                rows = range(1_000 * number, 1_000 * number + 300)
                with _breaking(system, moment_ms):
                    is_prepared = worker.tries(lambda n=number, r=rows: worker.prepare(n, *r))
                listed = worker.patient(heir.sink.branches)
                if is_prepared:
                    _equal(listed, [worker.branch(number)], "what returned is durable")
                if listed and number % 2:
                    worker.patient(lambda n=number: heir.sink.commit(worker.branch(n)))
                    kept += rows
                else:
                    worker.patient(lambda n=number: worker.sink.roll_back(worker.branch(n)))
                _equal(worker.patient(heir.sink.branches), [], "a branch rolled back stays away")
                _equal(system.visible(), kept, "rows of an epoch are there all or none")

    def test_a_broken_commit_is_told_truly(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            for number, moment_ms in enumerate(_MOMENTS_MS, start=1):
                worker.patient(lambda n=number: worker.prepare_anew(n, n))
                with _breaking(system, moment_ms):
                    worker.tries(lambda n=number: worker.finish(n))
                outcome = worker.patient(lambda n=number: worker.finish(n))
                _equal(outcome, FinishOutcome.DONE, "whatever became of the first try")
            _equal(system.visible(), list(range(1, len(_MOMENTS_MS) + 1)), "once each")


class _Raising:
    """How an incarnation is kept from preparing."""

    def test_a_raised_incarnation_prepares_nothing_more(self, system: ForeignSystem) -> None:
        with _Worker(system) as late, _Worker(system, incarnation="heir") as heir:
            late.prepare(4, 4)
            late.finish(4)
            for _ in range(2):
                heir.sink.raise_marker(late.incarnation)
            raised = MarkerRow(CommitEpoch(4), Standing.RAISED)
            _equal(late.row(), raised, "the proof of commit is kept")
            late.is_superseded(5)
            _equal(late.finish(4), FinishOutcome.DONE, "and still proves")
            heir.prepare(1, 1)
            heir.finish(1)
            _equal(system.visible(), [1, 4], "others go on")

    def test_a_raise_comes_before_the_first_branch_too(self, system: ForeignSystem) -> None:
        with _Worker(system) as late, _Worker(system, incarnation="heir") as heir:
            heir.sink.raise_marker(late.incarnation)
            _equal(late.row(), MarkerRow(CommitEpoch(0), Standing.RAISED), "raised, none committed")
            late.is_superseded(1)
            _equal(heir.sink.branches(), [], "nothing was prepared")

    def test_an_epoch_is_prepared_in_order_only(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker:
            worker.prepare(2, 2)
            worker.finish(2)
            for stale in (1, 2):
                worker.is_superseded(stale)
            _equal(system.visible(), [2], "a repeated epoch doubles nothing")

    def test_a_prepared_branch_outlives_a_raise(self, system: ForeignSystem) -> None:
        with _Worker(system) as worker, _Worker(system, incarnation="heir") as heir:
            worker.prepare(1, 1)
            # Some systems cannot raise while a branch holds the row; then they say so.
            heir.tries(lambda: heir.sink.raise_marker(worker.incarnation))
            _equal(heir.sink.branches(), [worker.branch(1)], "it is there still")
            _equal(heir.sink.commit(worker.branch(1)), FinishOutcome.DONE, "and can be finished")
            heir.sink.raise_marker(worker.incarnation)
            _equal(worker.row(), MarkerRow(CommitEpoch(1), Standing.RAISED), "then it is raised")
            _equal(system.visible(), [1], "its rows are there")

    def test_a_raise_against_a_running_worker_is_final(self, system: ForeignSystem) -> None:
        with _Worker(system) as late, _Worker(system, incarnation="heir") as heir:
            is_running = threading.Event()

            def run() -> None:
                for commit_epoch in range(1, 100_000):
                    is_running.set()
                    late.tries(lambda n=commit_epoch: late.prepare(n, n))
                    late.tries(lambda n=commit_epoch: late.sink.roll_back(late.branch(n)))

            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(run)
                is_running.wait()

                def take_over() -> None:
                    for branch in heir.sink.branches():
                        heir.sink.roll_back(branch)
                    heir.sink.raise_marker(late.incarnation)

                heir.patient(take_over)
                left = heir.patient(heir.sink.branches)
                for branch in left:
                    heir.patient(lambda each=branch: heir.sink.roll_back(each))
                _equal(type(running.exception(_PATIENCE_S)), Superseded, "the worker is told")
            _equal(heir.sink.branches(), [], "and prepares nothing behind our back")
            _equal(system.visible(), [], "nothing became visible")


class _Rows:
    """What rows are taken and refused, and workers beside each other."""

    def test_workers_write_side_by_side(self, system: ForeignSystem) -> None:
        def run(number: int) -> None:
            with _Worker(system, incarnation=f"worker{number}") as worker:
                for commit_epoch in range(1, 6):
                    first = 1_000 * number + 10 * commit_epoch
                    worker.prepare(commit_epoch, *range(first, first + 10))
                    worker.finish(commit_epoch)

        with ThreadPoolExecutor(2) as pool:
            for finished in [pool.submit(run, number) for number in (1, 2)]:
                finished.result(_PATIENCE_S)
        expected = [1_000 * number + k for number in (1, 2) for k in range(10, 60)]
        _equal(system.visible(), expected, "all rows of both")

    def test_a_row_refused_for_its_data_leaves_nothing(self, system: ForeignSystem) -> None:
        bad = system.refused(2)
        if bad is None:
            return
        with _Worker(system) as worker:
            values = [system.row(1), bad, system.row(3)]
            rows = [worker.sink.encode(value) for value in values]
            try:
                worker.sink.prepare(worker.branch(1), rows)
            except RowsRefused as refused:
                _equal(refused.culprit in {1, None}, True, "the culprit is told, or nobody is")
            else:
                raise AssertionError("the row was meant to be refused, and it was prepared")
            _equal(worker.sink.branches(), [], "nothing is prepared")
            worker.prepare(2, 1, 3)
            worker.finish(2)
            _equal(system.visible(), [1, 3], "without it the rows go in")

    def test_what_cannot_be_a_row_is_refused_when_it_is_yielded(
        self, system: ForeignSystem
    ) -> None:
        with _Worker(system) as worker:
            encoded = worker.sink.encode([system.row(1), system.row(2)])
            _equal(encoded.rows, 2, "rows are counted")
            _equal(encoded.size_bytes > 0, True, "and have a size")
            try:
                worker.sink.encode(object())
            except SerializationError:
                return
            raise AssertionError("an object without fields was taken for a row")


class ParticipantContract(_Branches, _Breakage, _Raising, _Rows):
    """The tests. A subclass adds a pytest fixture ``system`` that gives a ``ForeignSystem``."""


class _Worker:
    """A participant with an incarnation, as one process has it."""

    def __init__(
        self,
        system: ForeignSystem,
        *,
        incarnation: str = "first",
        name: str = "sink",
        scope: Scope | None = None,
    ) -> None:
        self.system = system
        self.incarnation = Incarnation(incarnation)
        self.sink = system.participant(name)
        self._scope = system.scope if scope is None else scope

    def __enter__(self) -> Self:
        self.sink.open(self._scope)
        return self

    def __exit__(self, *_: object) -> None:
        self.sink.close()

    def open_again(self) -> None:
        try:
            self.sink.open(self._scope)
        except Unreachable as error:
            # What ``open`` says of a system that is away ends a worker; here it is tried again.
            raise ParticipantUnavailable(str(error)) from error

    def branch(self, commit_epoch: int) -> BranchId:
        return BranchId(self.incarnation, CommitEpoch(commit_epoch))

    def row(self) -> MarkerRow | None:
        return self.sink.marker_row(self.incarnation)

    def prepare(self, commit_epoch: int, *numbers: int) -> None:
        rows = [self.sink.encode(self.system.row(number)) for number in numbers]
        self.sink.prepare(self.branch(commit_epoch), rows)

    def prepare_anew(self, commit_epoch: int, *numbers: int) -> None:
        """Prepare where an earlier try may have left a branch of the same name."""
        if self.branch(commit_epoch) not in self.sink.branches():
            self.prepare(commit_epoch, *numbers)

    def finish(self, commit_epoch: int) -> FinishOutcome:
        return self.sink.commit(self.branch(commit_epoch))

    def is_superseded(self, commit_epoch: int) -> None:
        try:
            self.prepare(commit_epoch, commit_epoch)
        except Superseded:
            return
        raise AssertionError(f"epoch {commit_epoch} was prepared, and must not be any more")

    def tries(self, call: Callable[[], object]) -> bool:
        """Call once; whether it succeeded rather than found the system unavailable."""
        try:
            call()
        except ParticipantUnavailable:
            return False
        return True

    def patient(self, call: Callable[[], _T]) -> _T:
        """Call until the system is available again."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return call()
            except ParticipantUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)


@contextmanager
def _breaking(system: ForeignSystem, moment_ms: int) -> Generator[None]:
    """Break all connections so long after the block began, and wait for that at its end."""
    breaker = threading.Timer(moment_ms / 1000, system.break_connections)
    breaker.start()
    try:
        yield
    finally:
        breaker.join()


def _equal(found: object, expected: object, line: str) -> None:
    if found != expected:
        raise AssertionError(f"{line}: expected {expected!r}, found {found!r}")
