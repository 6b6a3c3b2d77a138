"""Cells: one per stored key, and values as the changelog gives them back."""

from __future__ import annotations

import math

import faust
import pytest

from harness.table_driver import SOURCE, TableDriver, make_app
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError, OutsideRecord, StaleAttempt, TopologyError
from onceflow.ids import Stamp


@pytest.fixture
def app():
    return make_app()


async def test_keys_with_the_same_bytes_share_a_cell(app, tmp_path):
    table = app.Table("t")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        table["k"] = 1
        table[b'"k"'] = 2
        assert table["k"] == 2
    produced = await driver.commit()
    assert produced[("t", 0)] == [(b'"k"', b"2")]


async def test_a_float_that_json_has_not_reads_as_its_row_in_every_epoch(app, tmp_path):
    table = app.Table("t")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        table["nan"] = math.nan
        table["inf"] = math.inf
        assert table["nan"] is None
    await driver.commit()
    with driver.record():
        assert table["nan"] is None
        assert table["inf"] is None


async def test_a_value_reads_as_its_type_in_the_epoch_and_after_it(app, tmp_path):
    table = app.Table("t", value_type=int)
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        table["k"] = "5"
        assert table["k"] == 5
    await driver.commit()
    with driver.record():
        assert table["k"] == 5


async def test_models_are_copies_at_every_read(app, tmp_path):
    class Account(faust.Record):
        total: int = 0

    table = app.Table("t", default=Account, value_type=Account)
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        account = table["k"]
        account.total = 5
        table["k"] = account
        account.total = 7
        assert table["k"].total == 5
        table["k"].total = 9
        assert table["k"].total == 5


async def test_many_writes_of_a_key_are_one_changelog_record(app, tmp_path):
    table = app.Table("t", default=int)
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        for _ in range(100):
            table["k"] += 1
        table["gone"] = 1
        del table["gone"]
    produced = await driver.commit()
    assert produced[("t", 0)] == [(b'"k"', b"100"), (b'"gone"', None)]


def test_writing_outside_of_a_record_is_refused_with_the_way_to_do_it(app, tmp_path):
    table = app.Table("t")
    driver = TableDriver(app, tmp_path).open()
    with pytest.raises(OutsideRecord, match="Send a record to a topic"):
        table["k"] = 1
    with driver.record() as event:
        event.live = False
        with pytest.raises(OutsideRecord, match="finished"):
            table["k"] = 1


def test_a_write_of_an_aborted_attempt_is_dropped(app, tmp_path):
    table = app.Table("t")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        runtime_of(app).gate.stamp = Stamp(0, 99)
        with pytest.raises(StaleAttempt):
            table["k"] = 1


def test_a_source_with_another_partition_count_is_refused(app, tmp_path):
    table = app.Table("t")
    driver = TableDriver(app, tmp_path).open()
    runtime_of(app).partition_counts[SOURCE] = 7
    with driver.record(), pytest.raises(TopologyError, match="7 partitions"):
        table["k"] = 1


def test_the_partitioner_and_changelog_callbacks_are_refused(app):
    with pytest.raises(ConfigError, match="use_partitioner"):
        app.Table("t", use_partitioner=True)
    with pytest.raises(ConfigError, match="on_changelog_event"):
        app.Table("u", on_changelog_event=print)
