"""Windowed tables: which windows are written, read, expired and closed."""

from __future__ import annotations

import pytest

from harness.table_driver import TableDriver, make_app
from onceflow.errors import ConfigError, ProcessingError


@pytest.fixture
def app():
    return make_app()


def windows_of(table, number=0):
    part = table.table.parts[number]
    return {(key, int(window[0])): value for (key, window), value in part.items()}


async def test_windows_are_deleted_when_event_time_leaves_them_by_expires(app, tmp_path):
    counts = app.Table("counts", default=int).tumbling(10, expires=20)
    driver = TableDriver(app, tmp_path).open()
    for timestamp in (1, 12, 25, 39.9):
        with driver.record(timestamp=timestamp):
            counts["a"] += 1
        await driver.commit()
    assert windows_of(counts) == {("a", 10): 1, ("a", 20): 1, ("a", 30): 1}
    with driver.record(timestamp=40):
        counts["a"] += 1
    produced = await driver.commit()
    assert windows_of(counts) == {("a", 20): 1, ("a", 30): 1, ("a", 40): 1}
    assert (b'["a",[10.0,19.9]]', None) in produced[("counts", 0)]


async def test_windows_without_expires_stay_for_ever(app, tmp_path):
    counts = app.Table("counts", default=int).tumbling(10)
    driver = TableDriver(app, tmp_path).open()
    for timestamp in (1, 1_000_000):
        with driver.record(timestamp=timestamp):
            counts["a"] += 1
        await driver.commit()
    assert len(windows_of(counts)) == 2


async def test_partitions_expire_by_their_own_event_time(app, tmp_path):
    counts = app.Table("counts", default=int).tumbling(10, expires=20)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(0, timestamp=1):
        counts["a"] += 1
    with driver.record(1, timestamp=1):
        counts["a"] += 1
    with driver.record(1, timestamp=1_000):
        counts["a"] += 1
    await driver.commit()
    assert windows_of(counts, 0) == {("a", 0): 1}
    assert windows_of(counts, 1) == {("a", 1000): 1}


async def test_closed_windows_are_told_once_and_in_the_epoch_that_deletes_them(app, tmp_path):
    told = []

    async def closed(key, value):
        told.append((key, value))

    counts = app.Table("counts", default=int, on_window_close=closed).hopping(20, 10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        counts["a"] += 1
    with driver.record(timestamp=15):
        counts["a"] += 1
    await driver.commit()
    assert told == []
    with driver.record(timestamp=35):
        counts["b"] += 1
    await driver.commit()
    assert told == [(("a", (-10.0, 9.9)), 1), (("a", (0.0, 19.9)), 2)]
    told.clear()
    with driver.record(timestamp=36):
        counts["b"] += 1
    await driver.commit()
    assert told == []


async def test_an_abort_keeps_windows_and_their_replay_closes_them_again(app, tmp_path):
    told = []
    counts = app.Table("counts", default=int, on_window_close=lambda k, v: told.append((k, v)))
    counts = counts.tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        counts["a"] += 1
    await driver.commit()
    seal = counts.table.seal

    def broken_seal():
        raise RuntimeError

    counts.table.seal = broken_seal
    with driver.record(timestamp=45):
        counts["a"] += 1
    with pytest.raises(RuntimeError):
        await driver.commit()
    counts.table.seal = seal
    driver.abort()
    assert windows_of(counts) == {("a", 0): 1}
    with driver.record(timestamp=45):
        counts["a"] += 1
    await driver.commit()
    assert told == [(("a", (0.0, 9.9)), 1)] * 2
    assert windows_of(counts) == {("a", 40): 1}


async def test_a_late_record_reopens_its_window_until_the_end_of_the_epoch(app, tmp_path):
    told = []
    counts = app.Table("counts", default=int, on_window_close=lambda k, v: told.append((k, v)))
    counts = counts.tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=100):
        counts["a"] += 1
    await driver.commit()
    with driver.record(timestamp=5):
        counts["a"] += 1
        assert counts["a"].current() == 1
    await driver.commit()
    assert told == [(("a", (0.0, 9.9)), 1)]
    assert windows_of(counts) == {("a", 100): 1}


async def test_expiry_goes_on_after_a_restart_without_new_records(app, tmp_path, monkeypatch):
    monkeypatch.setattr("onceflow.engine.expiry.EXPIRED_ROWS_PER_EPOCH", 30)
    told = []
    counts = app.Table("counts", default=int, on_window_close=lambda k, v: told.append(k[0]))
    counts = counts.tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        for n in range(100):
            counts[f"k{n:02}"] += 1
    await driver.commit()
    with driver.record(timestamp=100):
        counts["new"] += 1
    await driver.commit()
    assert len(told) == 30
    driver.close()
    driver.open()
    assert counts.table.is_dirty()
    for _ in range(3):
        await driver.commit()
    assert sorted(told) == [f"k{n:02}" for n in range(100)]
    assert windows_of(counts) == {("new", 100): 1}
    assert not counts.table.is_dirty()
    folded = dict(driver.changelogs[("counts", 0)])
    assert [key for key, value in folded.items() if value is not None] == [b'["new",[100.0,109.9]]']


async def test_a_window_close_may_write_other_tables(app, tmp_path):
    totals = app.Table("totals", default=int)

    async def closed(key, value):
        totals[key[0]] += value

    counts = app.Table("counts", default=int, on_window_close=closed).tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    for timestamp in (5, 15, 95):
        with driver.record(timestamp=timestamp):
            counts["a"] += 1
        await driver.commit()
    assert totals.parts[0].value("a") == 2
    driver.close()
    driver.open()
    assert totals.parts[0].value("a") == 2


async def test_a_failing_window_close_commits_nothing(app, tmp_path):
    def closed(key, value):
        raise ValueError(key, value)

    counts = app.Table("counts", default=int, on_window_close=closed).tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        counts["a"] += 1
    await driver.commit()
    with driver.record(timestamp=95):
        counts["a"] += 1
    with pytest.raises(ProcessingError, match="on_window_close of table counts"):
        await driver.commit()


async def test_the_key_index_follows_windows_and_aborts(app, tmp_path):
    counts = app.Table("counts", default=int).tumbling(10, expires=10, key_index=True)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        counts["a"] += 1
        counts["b"] += 2
        assert sorted(counts.keys()) == ["a", "b"]
        assert sorted(counts.items()) == [("a", 1), ("b", 2)]
        assert sorted(counts.values()) == [1, 2]
        assert len(counts) == 2
    await driver.commit()
    with driver.record(timestamp=6):
        counts["c"] += 1
    driver.abort()
    with driver.record(timestamp=15):
        assert sorted(counts) == ["a", "b"]
        counts["b"] += 1
    await driver.commit()
    with driver.record(timestamp=34):
        counts["b"] += 1
    await driver.commit()
    with driver.record(timestamp=34):
        assert sorted(counts) == ["b"]


async def test_values_are_found_relative_to_the_record(app, tmp_path):
    counts = app.Table("counts", default=int).tumbling(10)
    driver = TableDriver(app, tmp_path).open()
    for timestamp, amount in ((5, 1), (15, 2), (25, 3)):
        with driver.record(timestamp=timestamp):
            counts["a"] += amount
    with driver.record(timestamp=25):
        assert counts["a"].current() == 3
        assert counts["a"].value() == 3
        assert counts["a"].delta(10) == 2
        assert counts["a"].delta(20) == 1
        assert counts["a"].now() == 0
        assert "a" in counts
        assert "b" not in counts
    with driver.record(timestamp=99):
        assert "a" not in counts


async def test_tables_may_be_relative_to_a_field_a_moment_or_the_clock(app, tmp_path):
    import faust  # noqa: PLC0415 - a model of this test only

    class Sale(faust.Record):
        at: float

    counts = app.Table("counts", default=int).tumbling(10)
    by_field = counts.relative_to_field(Sale.at)
    fixed = counts.relative_to(205.0)
    by_clock = counts.relative_to_now()
    by_stream = counts.relative_to_stream()
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5, value=Sale(at=105.0)):
        by_field["a"] += 1
        fixed["a"] += 1
        by_clock["a"] += 1
        by_stream["a"] += 1
        assert by_field["a"].value() == 1
        assert by_clock["a"].now() == 1
    starts = sorted(start for _, start in windows_of(counts))
    assert starts[:3] == [0, 100, 200]
    assert starts[3] > 1_700_000_000


def test_windows_in_fractions_of_a_second_are_refused(app):
    with pytest.raises(ConfigError, match="whole seconds"):
        app.Table("counts", default=int).tumbling(0.5)
    with pytest.raises(ConfigError, match="whole seconds"):
        app.Table("others", default=int).hopping(3, 1.5)
