"""Readers of one partition stay together: pieces, their sizes, and nothing out of order."""

from __future__ import annotations

import pytest

from onceflow.engine import lockstep as room
from onceflow.engine.lockstep import Lockstep
from onceflow.ids import Partition
from onceflow.kafka.records import Run
from onceflow.limits import PIECE_RECORDS_FIRST, PIECE_RECORDS_MAX

IN = Partition("in", 0)


def run_of(start, count, partition=IN):
    values = [b"v"] * count
    offsets = list(range(start, start + count))
    return Run(partition, offsets, [None] * count, values, [0] * count, None, count, 1)


class Reading:
    def __init__(self, monkeypatch):
        self.now_s = 0.0
        self.pieces = []
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now_s)
        self.lockstep = Lockstep(self.pieces.append)

    def finish(self, seconds):
        self.now_s += seconds
        self.lockstep.finished(self.pieces[-1])

    def sizes(self):
        return [len(piece) for piece in self.pieces]


@pytest.fixture
def reading(monkeypatch):
    return Reading(monkeypatch)


def test_the_next_piece_follows_when_all_have_read_the_one_before(reading):
    reading.lockstep.arrived(run_of(0, 300))
    assert reading.sizes() == [128]
    reading.finish(0.5)
    reading.finish(0.5)
    reading.finish(0.5)
    assert reading.sizes() == [128, 128, 44]
    assert [o for piece in reading.pieces for o in piece.offsets] == list(range(300))
    assert not reading.lockstep.held
    assert not reading.lockstep.under_way


def test_partitions_do_not_wait_for_each_other(reading):
    reading.lockstep.arrived(run_of(0, 200))
    reading.lockstep.arrived(run_of(0, 200, Partition("in", 1)))
    assert [piece.partition.number for piece in reading.pieces] == [0, 1]


def test_quick_readers_get_larger_pieces_up_to_a_bound(reading):
    reading.lockstep.arrived(run_of(0, 100_000))
    for _ in range(8):
        reading.finish(0.01)
    assert reading.sizes()[:4] == [PIECE_RECORDS_FIRST * 2**n for n in range(4)]
    assert max(reading.sizes()) == PIECE_RECORDS_MAX


def test_slow_readers_get_smaller_pieces_down_to_one_record(reading):
    reading.lockstep.arrived(run_of(0, 1_000))
    for _ in range(5):
        reading.finish(20)
    assert reading.sizes() == [128, 32, 8, 2, 1, 1]


def test_a_drain_out_of_time_makes_what_comes_again_smaller(reading):
    reading.lockstep.arrived(run_of(0, 1_000))
    reading.lockstep.too_long()
    dropped = reading.lockstep.drop_all()
    assert sum(map(len, dropped)) == 1_000 - 128
    reading.lockstep.finished(reading.pieces[0])
    reading.lockstep.arrived(run_of(0, 1_000))
    assert reading.sizes() == [128, 32]


def test_a_flush_hands_the_rest_on_in_order_and_ends_the_pieces(reading):
    reading.lockstep.arrived(run_of(0, 200))
    reading.lockstep.arrived(run_of(200, 300))
    reading.lockstep.flush(IN)
    assert [o for piece in reading.pieces for o in piece.offsets] == list(range(500))
    reading.finish(0.5)
    assert reading.sizes() == [128, 72, 300]


def test_a_forgotten_partition_gives_back_what_it_held(reading):
    reading.lockstep.arrived(run_of(0, 200))
    reading.lockstep.arrived(run_of(0, 200, Partition("in", 1)))
    assert sum(map(len, reading.lockstep.forget(IN))) == 72
    reading.lockstep.finished(reading.pieces[0])
    assert [piece.partition.number for piece in reading.pieces] == [0, 1]
