"""The contract of outbox sinks as tests: run it with pytest against a sink of your own.

    from onceflow.testing.outbox_contract import OutboxContract, TargetSystem

    class MyTarget(TargetSystem): ...

    class TestMySink(OutboxContract):
        @pytest.fixture
        def target(self):
            return MyTarget(...)

Every test is a line of ``onceflow.sinks.outbox``. A sink that passes is one that the engine may
trust; how it maps values, and what it refuses at the start, is for tests of its own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from onceflow.decisions.outbox import Progress
from onceflow.errors import (
    LaterVersion,
    ParticipantUnavailable,
    RowsRefused,
    SerializationError,
)
from onceflow.limits import OUTBOX_UNTOLD_MAX
from onceflow.sinks.outbox import OutboxRun, OutboxSink, ProgressMoved

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.sinks.gid import Scope

E = TypeVar("E", bound=Exception)

_TOPIC: Final = "topic-1"
LATER_MESSAGE: Final = b"\x93\x7f\xa4what\xa5comes"
"""The number of a version that does not exist, and fields that nobody knows."""

_PATIENCE_S: Final = 30.0
"""How long a target may take to answer again after its connections were broken."""

_PAUSE_S: Final = 0.02


class TargetSystem(ABC):
    """What the suite needs to know of the target under test. Empty at the start of each test.

    Attributes:
        scope: of the application; one that no other test uses.
    """

    scope: Scope

    @abstractmethod
    def sink(self, name: str = "sink") -> OutboxSink:
        """A sink that is not open yet, writing into the one table of this test, as a process would.

        Its table appends, and refuses nothing but what ``refused`` gives.
        """

    @abstractmethod
    def visible(self) -> list[int]:
        """The numbers of all rows that any reader sees now, sorted."""

    @abstractmethod
    def break_connections(self) -> None:
        """End every connection of sinks from outside, as far as there are any."""

    def row(self, number: int) -> object:
        """What an agent yields for the row with this number, from 1."""
        return {"id": number}

    @abstractmethod
    def refused(self, number: int) -> object:
        """A row that ``encode`` takes, and the target refuses for its data."""


class OutboxContract:
    """The suite. Derive from it, and give it a fixture ``target``."""

    _sinks: list[OutboxSink]

    def setup_method(self) -> None:
        self._sinks = []

    def teardown_method(self) -> None:
        for sink in self._sinks:
            sink.close()

    def _opened(self, target: TargetSystem, name: str = "sink") -> OutboxSink:
        sink = target.sink(name)
        self._sinks.append(sink)
        sink.open(target.scope)
        return sink

    def test_rows_and_progress_become_visible_with_the_commit(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        sink.write([_run(target, sink, 0, [1, 2])])
        _equal(target.visible(), [], "what is not committed is not visible")
        sink.commit()
        _equal(target.visible(), [1, 2], "what is committed is")
        _equal(dict(sink.progress()), {0: Progress(_TOPIC, 2)}, "and the progress with it")

    def test_what_was_not_committed_is_rolled_back_by_the_next_write(
        self, target: TargetSystem
    ) -> None:
        sink = self._opened(target)
        sink.write([_run(target, sink, 0, [1])])
        sink.write([_run(target, sink, 0, [2])])
        sink.commit()
        _equal(target.visible(), [2], "the first write left nothing")
        sink.write([_run(target, sink, 1, [3], expected=1)])
        sink.close()
        again = self._opened(target)
        _equal(dict(again.progress()), {0: Progress(_TOPIC, 1)}, "nor one of a process that ended")

    def test_a_run_is_applied_once(self, target: TargetSystem) -> None:
        first, second = self._opened(target), self._opened(target)
        run = _run(target, first, 0, [1, 2])
        _apply(first, run)
        for sink in (first, second):
            _raises(ProgressMoved, sink.write, [run])
        _apply(second, _run(target, second, 2, [3], expected=2))
        _raises(ProgressMoved, first.write, [_run(target, first, 2, [3, 4], expected=2)])
        _equal(target.visible(), [1, 2, 3], "who is late applies nothing")

    def test_progress_that_another_topic_left_lets_nothing_pass(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        _apply(sink, _run(target, sink, 0, [1]))
        other = _run(target, sink, 1, [2], expected=1, topic_id="topic-2")
        _raises(ProgressMoved, sink.write, [other])
        _raises(ProgressMoved, sink.write, [_run(target, sink, 1, [2])])
        _equal(target.visible(), [1], "nothing is applied on another topic's progress")

    def test_runs_of_several_partitions_are_applied_all_or_none(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        one, two = _run(target, sink, 0, [1]), _run(target, sink, 0, [2], number=1)
        sink.write([one, two])
        sink.commit()
        further = _run(target, sink, 1, [3], expected=1)
        _raises(ProgressMoved, sink.write, [further, two])
        _equal(target.visible(), [1, 2], "one that is moved keeps the others back")
        _apply(sink, further)
        _equal(target.visible(), [1, 2, 3], "until they are tried again")

    def test_sinks_of_other_names_have_a_progress_of_their_own(self, target: TargetSystem) -> None:
        sink, other = self._opened(target), self._opened(target, "other")
        _apply(sink, _run(target, sink, 0, [1]))
        _equal(dict(other.progress()), {}, "the other one has applied nothing")
        _apply(other, _run(target, other, 0, [2]))
        _equal(target.visible(), [1, 2], "both write")

    def test_the_target_keeps_its_identity(self, target: TargetSystem) -> None:
        sinks = [target.sink(), target.sink(), target.sink("other")]
        with ThreadPoolExecutor(len(sinks)) as pool:
            identities = set(pool.map(_open, sinks, [target] * len(sinks)))
        _equal(len(identities), 1, "whoever opens it first")
        _equal({_open(target.sink(), target)}, identities, "and later")

    def test_a_refused_row_leaves_nothing_and_is_named(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        rows = [target.row(1), target.refused(2), target.row(3)]
        run = _run_of(sink, 0, rows)
        refusal = _raises(RowsRefused, lambda: _apply(sink, run))
        _equal(refusal.culprit in {1, None}, True, "it is named, or nobody is")
        _equal(target.visible(), [], "nothing was applied")
        _equal(len(sink.progress()), 0, "and no progress made")
        _apply(sink, run.part(range(1)))
        aside = run.part(range(1, 2))
        _apply(sink, aside.kept_aside("why"))
        _apply(sink, run.part(range(2, 3)))
        _equal(target.visible(), [1, 3], "the others are applied")
        [told] = sink.untold({0, 1})
        _equal((told.place, told.error), ((_TOPIC, 0, 1), "why"), "it is kept aside")
        _equal(told.message, run.messages[1], "as it was")
        sink.told([told])
        _equal(sink.untold({0, 1}), [], "and told once")

    def test_no_message_is_refused_and_a_later_one_left_to_who_can_read_it(
        self, target: TargetSystem
    ) -> None:
        sink, other = self._opened(target), self._opened(target)
        run = _run(target, sink, 0, [1, 2, 3])
        first, _, last = run.messages
        nonsense, later = (
            replace(run, messages=[first, each, last]) for each in (b"nonsense", LATER_MESSAGE)
        )
        refusal = _raises(RowsRefused, sink.write, [nonsense])
        _equal(refusal.culprit in {1, None}, True, "it is named, or nobody is")
        _apply(other, run.part(range(1)))
        _equal(target.visible(), [1], "and nothing is held up")
        _raises(LaterVersion, sink.write, [later.part(range(1, 3))])
        _apply(other, run.part(range(1, 2)))
        _equal(target.visible(), [1, 2], "nor here")

    def test_refused_rows_of_other_partitions_do_not_stand_before_ours(
        self, target: TargetSystem
    ) -> None:
        sink, others = self._opened(target), OUTBOX_UNTOLD_MAX
        rows = [
            _run_of(sink, 0, [target.refused(1)], number=number) for number in range(others + 1)
        ]
        sink.write([run.kept_aside("why") for run in rows])
        sink.commit()
        _equal([each.number for each in sink.untold({others})], [others], "ours alone")
        _equal(len(sink.untold(set(range(others)))), others, "those of the others")
        _equal(sink.untold(set()), [], "of nobody")

    def test_a_value_that_is_no_row_is_refused_at_once(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        _raises(SerializationError, sink.encode, object())
        _raises(SerializationError, sink.encode, {"no such column": 1})

    def test_two_appliers_at_once_apply_each_run_once(self, target: TargetSystem) -> None:
        runs = 12

        def apply_all(_: int) -> int:
            sink, applied = target.sink(), 0
            sink.open(target.scope)
            deadline_s = time.monotonic() + _PATIENCE_S
            while time.monotonic() < deadline_s:
                try:
                    at = sink.progress().get(0)
                    first = at.offset if at else 0
                    if first >= runs:
                        break
                    _apply(sink, _run(target, sink, first, [first + 1], expected=first or None))
                    applied += 1
                except ParticipantUnavailable:
                    time.sleep(_PAUSE_S)
            sink.close()
            return applied

        with ThreadPoolExecutor(2) as pool:
            applied = list(pool.map(apply_all, range(2)))
        _equal(target.visible(), list(range(1, runs + 1)), "each row once")
        _equal(sum(applied), runs, "and each was applied by one of them")

    def test_broken_connections_lose_and_double_nothing(self, target: TargetSystem) -> None:
        sink = self._opened(target)
        for number in range(1, 7):
            breaks = iter((target.break_connections,))
            deadline_s = time.monotonic() + _PATIENCE_S
            while not _is_applied(target, sink, number, next(breaks, _leave)):
                _equal(time.monotonic() < deadline_s, True, "the target answers again")
                time.sleep(_PAUSE_S)
        _equal(target.visible(), list(range(1, 7)), "each row once")


def _is_applied(
    target: TargetSystem, sink: OutboxSink, number: int, before_commit: Callable[[], None]
) -> bool:
    """Try to apply one row, unless the progress shows that it was; something happens meanwhile."""
    try:
        at = sink.progress().get(0)
        if at is not None and at.offset == number:
            return True
        sink.write([_run(target, sink, number - 1, [number], expected=number - 1 or None)])
        before_commit()
        sink.commit()
    except ParticipantUnavailable:
        return False
    return True


def _leave() -> None:
    """Let nothing happen."""


def _open(sink: OutboxSink, target: TargetSystem) -> str:
    identity = sink.open(target.scope)
    sink.close()
    return identity


def _run(
    target: TargetSystem,
    sink: OutboxSink,
    first: int,
    numbers: list[int],
    *,
    expected: int | None = None,
    number: int = 0,
    topic_id: str = _TOPIC,
) -> OutboxRun:
    run = _run_of(sink, first, [target.row(each) for each in numbers], expected)
    return OutboxRun(number, topic_id, expected, run.next_offset, run.offsets, run.messages)


def _run_of(
    sink: OutboxSink,
    first: int,
    rows: list[object],
    expected: int | None = None,
    *,
    number: int = 0,
) -> OutboxRun:
    messages: list[bytes] = []
    for row in rows:
        messages += sink.encode(row).payload
    offsets = list(range(first, first + len(messages)))
    return OutboxRun(number, _TOPIC, expected, offsets[-1] + 1, offsets, messages)


def _apply(sink: OutboxSink, run: OutboxRun) -> None:
    sink.write([run])
    sink.commit()


def _equal(found: object, wanted: object, line: str) -> None:
    if found != wanted:
        raise AssertionError(f"{line}: {found!r} instead of {wanted!r}")


def _raises(kind: type[E], call: Callable[..., object], *arguments: object) -> E:
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was to be raised")
