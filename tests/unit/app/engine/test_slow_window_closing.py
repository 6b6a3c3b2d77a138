"""Windows whose callbacks are slow: told over several epochs, and never in the way of a revoke."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import onceflow
from harness.table_driver import TableDriver, make_app
from onceflow.engine.runtime import runtime_of
from onceflow.ids import Partition
from onceflow.limits import CLOSING_S_MAX
from onceflow.testing import TopologyDriver


@pytest.fixture
def no_time(monkeypatch):
    """Each epoch tells one window, the least that it tells."""
    assert CLOSING_S_MAX > 0
    monkeypatch.setattr("onceflow.engine.closing.CLOSING_S_MAX", -1.0)


def open_windows(tmp_path, **options):
    told = []
    app = make_app()
    table = app.Table("counts", default=int, on_window_close=lambda k, v: told.append((k, v)))
    counts = table.tumbling(10, expires=30)
    return TableDriver(app, tmp_path, **options).open(), counts, told


def write(driver, counts, *timestamps):
    for timestamp in timestamps:
        with driver.record(timestamp=timestamp):
            counts["a"] += 1


def starts(told):
    return [int(key[1][0]) for key, _ in told]


def rows(counts):
    return {int(window[0]): n for (_, window), n in counts.table.parts[0].items()}


async def test_windows_are_told_oldest_first_over_as_many_epochs_as_it_takes(no_time, tmp_path):
    driver, counts, told = open_windows(tmp_path)
    write(driver, counts, -5, 5, 15)
    await driver.commit()
    write(driver, counts, 100)
    await driver.commit()
    assert starts(told) == [-10]
    assert rows(counts) == {0: 1, 10: 1, 100: 1}
    assert counts.table.is_dirty(), "the next epoch goes on without a record"
    await driver.commit()
    await driver.commit()
    assert starts(told) == [-10, 0, 10]
    assert rows(counts) == {100: 1}
    await driver.commit()
    assert not counts.table.is_dirty()


async def test_late_records_below_what_is_closed_are_told_although_time_is_up(no_time, tmp_path):
    driver, counts, told = open_windows(tmp_path)
    write(driver, counts, 100)
    await driver.commit()
    write(driver, counts, 5, 15, 25)
    for _ in range(4):
        await driver.commit()
    assert starts(told) == [0, 10, 20]
    assert rows(counts) == {100: 1}


async def test_a_cut_closing_that_is_aborted_is_told_again(no_time, tmp_path):
    driver, counts, told = open_windows(tmp_path)
    write(driver, counts, 5, 15)
    await driver.commit()
    write(driver, counts, 100)
    seal = counts.table.seal
    counts.table.seal = list.pop
    with pytest.raises(TypeError):
        await driver.commit()
    counts.table.seal = seal
    driver.abort()
    write(driver, counts, 100)
    for _ in range(3):
        await driver.commit()
    assert starts(told) == [0, 0, 10]
    assert rows(counts) == {100: 1}


@pytest.mark.parametrize("seed", range(5))
async def test_each_window_is_told_with_its_last_value_and_store_and_changelog_agree(
    no_time, tmp_path, seed
):
    driver, counts, told = open_windows(tmp_path)
    random_ = random.Random(seed)
    latest, written = 0.0, {}
    for _ in range(60):
        for _ in range(random_.randrange(3)):
            latest += random_.choice((0, 1, 12))
            moment = max(0.0, latest - random_.choice((0, 0, 3, 60)))
            write(driver, counts, moment)
            start = int(moment // 10) * 10
            written[start] = written.get(start, 0) + 1
        await driver.commit()
        if random_.random() < 0.1:
            driver.close()
            driver.open()
    while counts.table.is_dirty():
        await driver.commit()
    closed = {}
    for (_, (start, _)), value in told:
        closed[int(start)] = closed.get(int(start), 0) + value
    assert {**closed, **{s: n + closed.get(s, 0) for s, n in rows(counts).items()}} == written
    folded = dict(driver.changelogs["counts", 0])
    assert sum(value is not None for value in folded.values()) == len(rows(counts))


async def test_a_revoke_does_not_wait_for_a_callback(tmp_path):
    app = onceflow.App("closing", topic_partitions=1)
    clicks = app.topic("clicks", key_type=str, value_type=str)
    inside, left = asyncio.Event(), []

    async def close(key, _value):
        inside.set()
        try:
            await asyncio.sleep(60)
        finally:
            left.append(key[0])

    counts = app.Table("counts", default=int, on_window_close=close).tumbling(10.0, expires=10.0)

    @app.agent(clicks)
    async def count(stream):
        async for page in stream:
            counts[page] += 1

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("clicks", "page", key="page", timestamp=100.0)
        await driver.settle()
        await driver.feed("clicks", "page", key="page", timestamp=200.0)
        settling = asyncio.ensure_future(driver.settle())
        await asyncio.wait_for(inside.wait(), 10)
        epochs = runtime_of(app).epochs
        begun_s = time.monotonic()
        await epochs.revoke(frozenset({Partition("clicks", 0)}), bound_s=0.2)
        assert time.monotonic() - begun_s < 10
        assert left == ["page"]
        assert Partition("clicks", 0) not in epochs.machine.committed_offsets
        settling.cancel()
        await asyncio.wait({settling})
