"""A store after kill -9: always the fold of the changelog up to its own position (INV-STATE-2)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest

from harness.store_writer import EPOCH_MS, fold
from harness.task_stores import TABLES, open_store

KILLS = 8


def kill_after(path, epochs, now_ms):
    """Let a writer apply at least so many epochs, kill it; returns the last number it printed."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "harness.store_writer", str(path), str(now_ms)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": "tests"},
    )
    try:
        printed = [writer.stdout.readline() for _ in range(epochs)]
    finally:
        writer.send_signal(signal.SIGKILL)
    printed += writer.communicate()[0].splitlines(keepends=True)
    # A number without its line's end was cut off by the kill.
    return int(printed[-1] if printed[-1].endswith(b"\n") else printed[-2])


@pytest.mark.timeout(300)
def test_a_killed_writers_store_is_a_prefix_of_its_changelog_in_all_tables(tmp_path):
    path = tmp_path / "store"
    chance = random.Random(5)
    lost = kept = 0
    before = 0
    now_ms = 1_000
    for _ in range(KILLS):
        epochs = chance.randrange(20, 400)
        last = kill_after(path, epochs, now_ms)
        # Later than the killed writer's clock, by as much as it may have applied unseen.
        now_ms += 2 * EPOCH_MS * (epochs + 100)
        store = open_store(path, now_ms=now_ms)
        assert store.rebuild_reasons == {}
        positions = {store.changelog_position(table) or 0 for table in TABLES}
        assert len(positions) == 1, "positions of one batch reached the disk apart"
        (position,) = positions
        assert before <= position
        expected = fold(position)
        for table in TABLES:
            assert dict(store.scan(table)) == expected[table]
        store.close()
        kept += position > before
        lost += position <= last
        before = position
    # Without these the kills would have proven nothing: rows must have been unflushed at some, and
    # flushed by the killed process itself at some.
    assert lost > 0
    assert kept > 0
