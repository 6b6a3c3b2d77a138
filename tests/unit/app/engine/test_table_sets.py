"""Set tables: set semantics, Faust's changelog of operations, epochs."""

from __future__ import annotations

import pytest

from harness.table_driver import TableDriver, make_app
from onceflow.errors import ConfigError, DeserializationError, OutsideRecord
from onceflow.state.set_rows import fold_operations


@pytest.fixture
def app():
    return make_app()


async def test_members_are_added_and_discarded_within_the_epoch(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        tags["a"].add("x")
        tags["a"].update(["y", "z"])
        tags["a"].discard("y")
        tags["b"].add(1)
        assert tags["a"] == {"x", "z"}
        assert "x" in tags["a"]
        assert "y" not in tags["a"]
        assert len(tags["a"]) == 2
        assert sorted(tags.keys()) == ["a", "b"]
        assert "c" not in tags
        assert tags["c"] == set()
    produced = await driver.commit()
    assert sorted(produced[("tags", 0)]) == [
        (b'[1,"a"]', b'"x"'),
        (b'[1,"a"]', b'"z"'),
        (b'[1,"b"]', b"1"),
        (b'[2,"a"]', b'"y"'),
    ]
    assert tags["a"] == {"x", "z"}


async def test_an_abort_takes_operations_back(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        tags["a"].add("x")
    await driver.commit()
    with driver.record():
        tags["a"].add("y")
        tags["a"].discard("x")
    driver.abort()
    with driver.record():
        assert tags["a"] == {"x"}


async def test_the_set_algebra_is_that_of_sets(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path).open()
    model = {"a", "b", "c"}
    with driver.record():
        stored = tags["k"]
        stored.update(model)
        stored.intersection_update({"a", "b", "x"})
        model.intersection_update({"a", "b", "x"})
        assert stored == model
        stored.symmetric_difference_update({"b", "z"})
        model.symmetric_difference_update({"b", "z"})
        assert stored == model
        stored |= {"q"}
        stored -= {"a"}
        assert stored == {"z", "q"}
        assert stored | {"r"} == {"z", "q", "r"}
        assert stored.union({"r"}) == {"z", "q", "r"}
        assert stored.issubset({"z", "q", "r"})
        assert stored.pop() in {"z", "q"}
        stored.clear()
        assert not stored


async def test_sets_are_restored_from_the_log_of_operations(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path / "one").open()
    with driver.record():
        tags["a"].update(["x", "y"])
    await driver.commit()
    with driver.record():
        tags["a"].discard("x")
    await driver.commit()
    driver.close()
    driver.directory = tmp_path / "two"
    driver.changelogs[("tags", 0)].append((b'[15,"a"]', b'[["u","v"],["y"]]'))
    driver.open()
    with driver.record():
        assert tags["a"] == {"u", "v"}


async def test_sets_in_windows_expire_with_operations_in_the_changelog(app, tmp_path):
    seen = app.SetTable("seen").tumbling(10, expires=10)
    driver = TableDriver(app, tmp_path).open()
    with driver.record(timestamp=5):
        seen["a"].add("x")
        assert seen["a"].current() == {"x"}
    await driver.commit()
    with driver.record(timestamp=55):
        seen["a"].add("y")
        assert seen["a"].current() == {"y"}
        assert seen["a"].delta(50) == {"x"}
    produced = await driver.commit()
    assert produced[("seen", 0)] == [
        (b'[1,["a",[50.0,59.9]]]', b'"y"'),
        (b'[2,["a",[0.0,9.9]]]', b'"x"'),
    ]
    with driver.record(timestamp=55):
        assert seen["a"].delta(50) == set()


async def test_writing_a_set_outside_of_a_record_is_refused(app, tmp_path):
    tags = app.SetTable("tags")
    TableDriver(app, tmp_path).open()
    with pytest.raises(OutsideRecord):
        tags["a"].add("x")


async def test_a_set_without_members_is_the_default_of_get(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path).open()
    with driver.record():
        assert tags.get("a", "none") == "none"
        tags["a"].add("x")
        assert tags.get("a") == {"x"}


async def test_setting_and_deleting_whole_sets_is_refused(app, tmp_path):
    tags = app.SetTable("tags")
    driver = TableDriver(app, tmp_path).open()
    with driver.record(), pytest.raises(NotImplementedError, match="add"):
        tags["a"] = {"x"}
    with driver.record(), pytest.raises(NotImplementedError, match="add"):
        del tags["a"]


def test_a_changelog_of_operations_is_never_compacted_or_cut_off(app):
    topic = app.SetTable("tags").changelog_topic
    assert not topic.compacting
    assert topic.config["retention.ms"] == "-1"


def test_serializers_that_are_not_json_are_refused(app):
    with pytest.raises(ConfigError, match="JSON"):
        app.SetTable("tags", value_type=bytes)


def test_a_record_that_is_no_operation_is_an_error():
    with pytest.raises(DeserializationError, match="no operation"):
        fold_operations([b'"plain"'], [b"1"], windowed=False)
    with pytest.raises(DeserializationError, match="no operation"):
        fold_operations([b'[1,"k"]'], [None], windowed=False)


async def test_a_global_set_is_the_union_over_partitions(app, tmp_path):
    tags = app.SetGlobalTable("tags")
    driver = TableDriver(app, tmp_path).open()
    with driver.record(0):
        tags["a"].add("x")
    with driver.record(1):
        tags["a"].add("y")
        assert tags["a"] == {"x", "y"}
    await driver.commit()
    assert tags["a"] == {"x", "y"}
    assert "x" in tags["a"]


async def test_the_set_manager_is_an_agent_of_its_topic(app):
    tags = app.SetTable("tags", start_manager=True)
    assert tags.manager.enabled
    assert tags.manager_topic_name == "tags-setmanager"
