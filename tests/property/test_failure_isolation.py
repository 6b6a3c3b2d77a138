"""A worker that reads as `FailurePolicy` says: bad records are ended, good ones never.

Some records raise, some kill the process; the process is also killed for no reason. Markers survive
(position and attempts of each partition), everything else is lost with the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from onceflow.decisions.epoch_events import Start
from onceflow.decisions.failures import (
    Ending,
    Failure,
    FailureKind,
    FailureOptions,
    FailurePolicy,
    Hold,
    NoteFirst,
    ReadUpTo,
    Replay,
    TryAlone,
)
from onceflow.decisions.marker import (
    CommitEpoch,
    Incarnation,
    Marker,
    claim_attempts,
    commit_attempts,
    noted_attempts,
)
from onceflow.ids import Offset, Partition

PARTITIONS = [Partition("in", number) for number in range(3)]
RECORDS = 12
OPTIONS = FailureOptions(retries_max=2)
STEPS_MAX = 4_000


class KilledError(Exception):
    pass


@dataclass
class Application:
    """Logs with offset gaps, what is bad in them, and what Kafka remembers of the group."""

    random: Random
    raising: set[tuple[Partition, int]]
    killing: set[tuple[Partition, int]]
    offsets: dict[Partition, list[int]]
    kills: float
    committed: dict[Partition, int] = field(default_factory=dict)
    attempts: dict[Partition, int] = field(default_factory=dict)
    processed: list[tuple[Partition, int]] = field(default_factory=list)
    dead: list[tuple[Partition, int]] = field(default_factory=list)
    fetched: set[Partition] = field(default_factory=set)
    batch_max: int = 5
    tries: dict[tuple[Partition, int], int] = field(default_factory=dict)

    def run(self) -> int:
        """Process everything; returns how many processes it took."""
        processes = 0
        while any(self.committed[each] <= self.offsets[each][-1] for each in PARTITIONS):
            processes += 1
            assert processes < STEPS_MAX, "never finishes"
            try:
                self.process_of_its_own()
            except KilledError:
                continue
        return processes

    def process_of_its_own(self) -> None:
        policy = FailurePolicy({}, OPTIONS)
        self.fetched.clear()
        for partition in PARTITIONS:
            marker = Marker(Incarnation("x"), CommitEpoch(1), attempts=self.attempts[partition])
            at = Offset(self.committed[partition])
            waiting = any(offset >= at for offset in self.offsets[partition])
            self.attempts[partition] = claim_attempts(marker, at, at) if waiting else 0
        policy.claimed(
            {each: Start(Offset(self.committed[each]), self.attempts[each]) for each in PARTITIONS}
        )
        for _ in range(STEPS_MAX):
            if all(self.committed[each] > self.offsets[each][-1] for each in PARTITIONS):
                return
            self.epoch(policy)
        raise AssertionError("an attempt never ends")

    def in_hand(self) -> dict[Partition, Offset]:
        hands = {}
        for each in PARTITIONS:
            left = [offset for offset in self.offsets[each] if offset >= self.committed[each]]
            if left and (each in self.fetched or self.random.random() < 0.5):
                self.fetched.add(each)
                hands[each] = Offset(left[0])
        return hands

    def epoch(self, policy: FailurePolicy) -> None:
        committed = {each: Offset(offset) for each, offset in self.committed.items()}
        hands = self.in_hand()
        plan = policy.plan(committed, hands)
        positions = dict(self.committed)
        done: list[tuple[Partition, int]] = []
        dead: list[tuple[Partition, int]] = []
        noted = {plan.partition} if isinstance(plan, NoteFirst) else set()
        for partition, batch in self.batches(plan, hands):
            failed = self.give(policy, partition, batch, done, dead)
            if failed is not None:
                assert isinstance(policy.record_failed(failed), Replay)
                return
            positions[partition] = batch[-1] + 1
        if isinstance(plan, ReadUpTo) and hands.get(plan.partition, 0) >= plan.offset:
            positions[plan.partition] = max(positions[plan.partition], plan.offset)
        self.commit(policy, positions, noted)
        self.processed += done
        self.dead += dead

    def batches(self, plan, hands):
        """What the plan lets the agent have, in batches."""
        for partition in PARTITIONS:
            left = [o for o in self.offsets[partition] if o >= self.committed[partition]]
            size = self.random.randrange(1, self.batch_max + 1)
            match plan:
                case NoteFirst():
                    return
                case TryAlone(suspect, records):
                    left = left[:records] if partition == suspect else []
                    size = records
                case ReadUpTo(suspect, offset) if partition == suspect:
                    left = [each for each in left if each < offset]
                case Hold(partitions) if partition in partitions:
                    left = []
                case _:
                    pass
            if partition in hands and left:
                yield partition, left[:size]

    def give(self, policy, partition, batch, done, dead) -> Failure | None:
        """One batch to the agent, all or nothing."""
        if len(batch) == 1 and not policy.quiet:
            ending = policy.ending(partition, Offset(batch[0]), "agent")
            if ending is not None:
                assert ending is Ending.DEAD_LETTER
                dead.append((partition, batch[0]))
                return None
        for offset in batch:
            self.tries[partition, offset] = self.tries.get((partition, offset), 0) + 1
        if self.random.random() < self.kills or self.killing.intersection(
            (partition, offset) for offset in batch
        ):
            raise KilledError
        if self.raising.intersection((partition, offset) for offset in batch):
            first, end = Offset(batch[0]), Offset(batch[-1] + 1)
            return Failure(partition, first, end, len(batch), "agent", FailureKind.RAISED, "no")
        done.extend((partition, offset) for offset in batch)
        return None

    def commit(self, policy, positions, noted) -> None:
        for partition, offset in positions.items():
            moved = offset > self.committed[partition]
            self.attempts[partition] = commit_attempts(
                self.attempts[partition], moved=moved, noted=partition in noted
            )
            self.committed[partition] = offset
        policy.committed(
            {each: Offset(offset) for each, offset in positions.items()}, self.attempts
        )


def application(seed: int, *, kills: float) -> Application:
    random = Random(seed)
    offsets = {}
    for partition in PARTITIONS:
        offset = random.randrange(3)
        offsets[partition] = []
        for _ in range(RECORDS):
            offsets[partition].append(offset)
            offset += random.choice([1, 1, 1, 2, 4])
    records = [(each, offset) for each in PARTITIONS for offset in offsets[each]]
    raising = set(random.sample(records, random.randrange(3)))
    killing = set(random.sample(records, random.randrange(3))) - raising
    return Application(
        random,
        raising,
        killing,
        offsets,
        kills,
        committed=dict.fromkeys(PARTITIONS, 0),
        attempts=dict.fromkeys(PARTITIONS, 0),
    )


@pytest.mark.parametrize("block", range(4))
def test_bad_records_are_dead_lettered_and_good_ones_processed_once(block: int):
    for seed in range(block * 100, block * 100 + 100):
        app = application(seed, kills=0.0)
        app.run()
        bad = app.raising | app.killing
        every = {(each, offset) for each in PARTITIONS for offset in app.offsets[each]}
        assert sorted(app.dead) == sorted(bad), seed
        assert sorted(app.processed) == sorted(every - bad), seed


@pytest.mark.parametrize("block", range(2))
def test_a_process_killed_for_no_reason_loses_and_doubles_nothing(block: int):
    for seed in range(block * 100, block * 100 + 100):
        app = application(seed, kills=0.1)
        app.run()
        every = {(each, offset) for each in PARTITIONS for offset in app.offsets[each]}
        assert sorted(app.processed + app.dead) == sorted(every), seed
        assert app.raising | app.killing <= set(app.dead), seed


def test_a_record_that_kills_far_behind_the_committed_offset_is_found_in_few_lives():
    lives = []
    for seed in range(25):
        app = application(seed, kills=0.0)
        app.offsets = {each: list(range(3_000)) for each in PARTITIONS}
        app.batch_max = 3_000
        app.raising = set()
        app.killing = {(PARTITIONS[seed % 3], app.random.randrange(3_000))}
        lives.append(app.run())
        assert set(app.dead) == app.killing
        assert len(app.processed) == 3 * 3_000 - 1
    assert max(lives) <= 40, lives


def test_noted_attempts_are_what_policy_and_marker_agree_on():
    policy = FailurePolicy({}, OPTIONS)
    policy.claimed({PARTITIONS[0]: Start(Offset(5), attempts=2 + OPTIONS.retries_max + 1)})
    assert noted_attempts(2 + OPTIONS.retries_max + 1) == OPTIONS.retries_max + 1
    assert policy.ending(PARTITIONS[0], Offset(5), "agent") is Ending.DEAD_LETTER
