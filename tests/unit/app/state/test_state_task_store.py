"""The task store: reads, atomic applies, and when a warm store is not trusted."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from harness.polling import until
from harness.task_stores import BUDGET_BYTES, IDENTITY, TRUSTED_FOR_MS, open_store
from onceflow.errors import ConfigError, InvariantViolation, StorageFailed, TaskCorrupted
from onceflow.limits import STORE_CLOCK_SKEW_MS, STORE_FLUSH_MS
from onceflow.state.directory import MARKER_NAME
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import Changes, Reason, TaskStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tasks" / "4-0"


def fill(path, *, now_ms=2_000):
    store = open_store(path)
    store.apply(
        {
            "counts": Changes([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], (), 30),
            "totals": Changes([(b"x", b"")], (), 7),
        },
        now_ms=now_ms,
    )
    store.close()


def reasons_of(store):
    return {table: reason.reason for table, reason in store.rebuild_reasons.items()}


def test_a_new_store_is_empty_and_has_no_position(path):
    store = open_store(path)
    assert store.changelog_position("counts") is None
    assert store.rebuild_reasons == {}
    assert list(store.scan("counts")) == []
    assert store.first_key("counts") is None
    assert store.last_key("counts") is None
    store.close()


def test_applied_rows_and_positions_survive_a_close(path):
    fill(path)
    store = open_store(path)
    assert store.rebuild_reasons == {}
    assert store.changelog_position("counts") == 30
    assert store.changelog_position("totals") == 7
    assert store.get("counts", b"a") == b"1"
    assert store.get("totals", b"x") == b""
    assert store.get("totals", b"a") is None
    assert store.get_many("counts", [b"c", b"zz", b"a"]) == [b"3", None, b"1"]
    store.close()


def test_scans_are_bounded_and_in_key_order(path):
    fill(path)
    store = open_store(path)
    assert list(store.scan("counts", b"b")) == [(b"b", b"2"), (b"c", b"3")]
    assert list(store.scan("counts", None, b"b")) == [(b"a", b"1")]
    assert list(store.scan("counts", b"aa", b"c")) == [(b"b", b"2")]
    assert list(store.scan("counts", b"d")) == []
    assert list(store.scan_keys("counts", b"b", b"zz")) == [b"b", b"c"]
    assert (store.first_key("counts"), store.last_key("counts")) == (b"a", b"c")
    store.close()


def test_a_scan_does_not_see_applies_made_meanwhile(path):
    fill(path)
    store = open_store(path)
    scan = store.scan("counts")
    assert next(scan) == (b"a", b"1")
    store.apply({"counts": Changes([(b"b", None), (b"bb", b"new")], (), 32)}, now_ms=3_000)
    assert list(scan) == [(b"b", b"2"), (b"c", b"3")]
    assert list(store.scan_keys("counts")) == [b"a", b"bb", b"c"]
    store.close()


def test_a_range_delete_comes_before_the_rows_of_its_changes(path):
    fill(path)
    store = open_store(path)
    store.apply({"counts": Changes([(b"b", b"9")], [(b"a", b"c")], 33)}, now_ms=3_000)
    assert list(store.scan("counts")) == [(b"b", b"9"), (b"c", b"3")]
    assert list(store.scan("totals")) == [(b"x", b"")]
    store.close()


def test_a_position_never_goes_back(path):
    fill(path)
    store = open_store(path)
    with pytest.raises(InvariantViolation, match="INV-STATE-2"):
        store.apply({"counts": Changes([(b"a", b"0")], (), 29)}, now_ms=3_000)
    assert store.get("counts", b"a") == b"1"
    store.close()


def test_close_is_idempotent_ends_scans_and_frees_the_directory(path):
    fill(path)
    store = open_store(path)
    scan = store.scan("counts")
    next(scan)
    store.close()
    store.close()
    assert list(scan) == []
    with pytest.raises(InvariantViolation, match="INV-STATE-3"):
        store.get("counts", b"a")
    open_store(path).close()


def test_a_table_of_another_task_is_refused(path):
    store = open_store(path)
    for read in (store.changelog_position, store.first_key, lambda name: store.get(name, b"a")):
        with pytest.raises(InvariantViolation, match="INV-STATE-3"):
            read("strangers")
    store.close()


def test_a_table_without_topic_id_is_refused(path):
    with pytest.raises(InvariantViolation, match="INV-STATE-4"):
        open_store(path, tables=["strangers"])


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (IDENTITY._replace(app="bank"), Reason.OTHER_APP),
        (IDENTITY._replace(cluster_id="cluster-2"), Reason.OTHER_CLUSTER),
    ],
)
def test_another_apps_or_clusters_store_is_rebuilt_whole(path, identity, reason):
    fill(path)
    store = open_store(path, identity=identity)
    assert reasons_of(store) == {"*": reason}
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == list(store.scan("totals")) == []
    store.close()
    store = open_store(path, identity=identity)
    assert store.rebuild_reasons == {}
    store.close()


def test_a_recreated_changelog_topic_rebuilds_its_table_alone(path):
    fill(path)
    recreated = IDENTITY._replace(changelog_topic_ids={"counts": "id-new", "totals": "id-totals"})
    store = open_store(path, identity=recreated)
    assert reasons_of(store) == {"counts": Reason.OTHER_TOPIC}
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == []
    assert store.changelog_position("totals") == 7
    store.close()


def test_another_format_version_is_rebuilt_without_being_opened(path):
    fill(path)
    (path / MARKER_NAME).write_text('{"format": 999}')
    store = open_store(path)
    assert reasons_of(store) == {"*": Reason.OTHER_FORMAT}
    assert store.changelog_position("counts") is None
    store.close()


def test_a_torn_marker_is_an_unknown_format(path):
    fill(path)
    (path / MARKER_NAME).write_text('{"for')
    store = open_store(path)
    assert reasons_of(store) == {"*": Reason.OTHER_FORMAT}
    store.close()


@pytest.mark.parametrize(
    ("age_ms", "trusted"), [(TRUSTED_FOR_MS - 1, True), (TRUSTED_FOR_MS, False)]
)
def test_a_store_is_trusted_for_half_of_the_tombstones_life(path, age_ms, trusted):
    fill(path, now_ms=2_000)
    store = open_store(path, now_ms=2_000 + age_ms)
    expected = {} if trusted else {"counts": Reason.TOO_OLD, "totals": Reason.TOO_OLD}
    assert reasons_of(store) == expected
    assert store.changelog_position("counts") == (30 if trusted else None)
    store.close()


def test_a_store_from_the_future_is_rebuilt(path):
    fill(path, now_ms=5_000 + STORE_CLOCK_SKEW_MS)
    store = open_store(path, now_ms=5_000)
    assert store.rebuild_reasons == {}
    store.close()
    store = open_store(path, now_ms=4_999)
    assert reasons_of(store) == {"counts": Reason.CLOCK, "totals": Reason.CLOCK}
    store.close()


def test_an_epoch_without_changes_keeps_a_store_young(path):
    fill(path, now_ms=2_000)
    store = open_store(path, now_ms=3_000)
    store.apply({}, now_ms=900_000)
    store.close()
    store = open_store(path, now_ms=1_500_000)
    assert store.rebuild_reasons == {}
    store.close()


def test_an_interrupted_restore_does_not_make_a_table_younger(path):
    fill(path, now_ms=2_000)
    store = open_store(path, now_ms=900_000)
    store.replay("counts", Changes([(b"d", b"4")], (), 40), now_ms=900_000)
    store.close()
    store = open_store(path, now_ms=1_002_000)
    assert reasons_of(store) == {"counts": Reason.TOO_OLD, "totals": Reason.TOO_OLD}
    store.close()


def test_a_table_that_caught_up_is_young_again_and_its_neighbour_is_not(path):
    fill(path, now_ms=2_000)
    store = open_store(path, now_ms=900_000)
    store.replay("counts", Changes([(b"d", b"4")], (), 40), now_ms=900_000)
    store.caught_up("counts", now_ms=900_000)
    store.close()
    store = open_store(path, now_ms=1_002_000)
    assert reasons_of(store) == {"totals": Reason.TOO_OLD}
    assert store.changelog_position("counts") == 40
    store.close()


def test_the_first_epoch_after_a_restore_makes_all_tables_young(path):
    fill(path, now_ms=2_000)
    store = open_store(path, now_ms=900_000)
    store.replay("counts", Changes([(b"d", b"4")], (), 40), now_ms=900_000)
    store.apply({"counts": Changes([], (), 41)}, now_ms=900_500)
    store.close()
    store = open_store(path, now_ms=1_002_000)
    assert store.rebuild_reasons == {}
    store.close()


def test_a_fresh_restore_that_was_interrupted_goes_on(path):
    store = open_store(path, now_ms=1_000)
    store.replay("counts", Changes([(b"a", b"1")], (), 10), now_ms=2_000)
    store.close()
    store = open_store(path, now_ms=3_000)
    assert store.rebuild_reasons == {}
    assert store.changelog_position("counts") == 10
    store.close()
    store = open_store(path, now_ms=1_000 + TRUSTED_FOR_MS)
    assert reasons_of(store) == {"counts": Reason.TOO_OLD}
    store.close()


def test_a_store_ahead_of_its_changelog_is_cleared_with_the_reason(path):
    fill(path)
    store = open_store(path)
    assert store.check_position("counts", 30)
    assert not store.check_position("counts", 29)
    assert reasons_of(store) == {"counts": Reason.AHEAD_OF_CHANGELOG}
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == []
    assert store.check_position("totals", 7)
    store.close()


def test_a_table_added_between_runs_has_no_position_and_the_others_stay(path):
    fill(path)
    ids = {**IDENTITY.changelog_topic_ids, "new": "id-new"}
    identity = IDENTITY._replace(changelog_topic_ids=ids)
    store = open_store(path, identity=identity, tables=["counts", "totals", "new"])
    assert store.rebuild_reasons == {}
    assert store.changelog_position("new") is None
    assert store.changelog_position("counts") == 30
    store.close()


def test_a_removed_table_stays_until_it_is_asked_for(path):
    fill(path)
    store = open_store(path, tables=["counts"])
    store.apply({"counts": Changes([(b"a", b"2")], (), 31)}, now_ms=2_500)
    store.close()
    store = open_store(path)
    assert store.changelog_position("totals") == 7
    store.close()
    store = open_store(path, tables=["counts"])
    store.clear_table("totals")
    store.close()
    store = open_store(path)
    assert store.changelog_position("totals") is None
    assert list(store.scan("totals")) == []
    assert store.changelog_position("counts") == 31
    store.close()


def test_a_removed_table_that_comes_back_late_is_too_old(path):
    fill(path, now_ms=2_000)
    store = open_store(path, tables=["counts"], now_ms=3_000)
    store.apply({}, now_ms=900_000)
    store.close()
    store = open_store(path, now_ms=1_100_000)
    assert reasons_of(store) == {"totals": Reason.TOO_OLD}
    store.close()


def test_a_directory_that_is_not_a_store_is_never_emptied(path):
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ConfigError, match="not a store of onceflow"):
        open_store(path)
    with pytest.raises(ConfigError, match="not a store of onceflow"):
        TaskStore.wipe(path)
    assert (path / "thesis.txt").read_text() == "three years of work"


def test_wipe_removes_a_closed_store_and_refuses_an_open_one(path):
    fill(path)
    store = open_store(path)
    with pytest.raises(ConfigError, match="open already"):
        TaskStore.wipe(path)
    assert store.get("counts", b"a") == b"1"
    store.close()
    TaskStore.wipe(path)
    assert not path.exists()


def test_a_store_of_another_process_is_refused_by_path(path):
    fill(path)
    script = (
        "import sys; from pathlib import Path; from harness.task_stores import open_store\n"
        "store = open_store(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": "tests"},
    )
    try:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match="data directory of its own") as refused:
            open_store(path, identity=IDENTITY._replace(app="bank"))
        assert str(path) in str(refused.value)
    finally:
        holder.kill()
        holder.communicate()
    store = open_store(path)
    assert store.changelog_position("counts") == 30
    store.close()


def test_an_unwritable_data_directory_is_a_storage_failure(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match="Check that the data directory exists"):
        open_store(tmp_path / "file" / "4-0")


def test_sizes_count_rows(path):
    fill(path)
    store = open_store(path)
    sizes = store.sizes()
    assert sizes["counts"].estimated_keys == 3
    assert sizes["counts"].sst_bytes > 0
    store.apply({"counts": Changes([(b"d", bytes(5_000))], (), 40)}, now_ms=3_000)
    assert store.sizes()["counts"].memtable_bytes > sizes["counts"].memtable_bytes
    store.close()


def unflushed_bytes(store):
    return store.sizes()["counts"].memtable_bytes


async def test_rows_are_flushed_by_age_also_of_an_idle_store(tmp_path):
    budget = MemoryBudget(BUDGET_BYTES)
    idle, busy = (open_store(tmp_path / name, budget=budget) for name in ("idle", "busy"))
    idle.apply({"counts": Changes([(b"a", bytes(50_000))], (), 1)}, now_ms=2_000)
    busy.apply({}, now_ms=1_000 + STORE_FLUSH_MS - 1)
    assert unflushed_bytes(idle) > 50_000
    busy.apply({}, now_ms=1_000 + STORE_FLUSH_MS)
    await until(lambda: unflushed_bytes(idle) < 50_000, what="the flush")
    idle.close()
    busy.close()


def damage(path, pattern):
    """Flip a byte in the middle of the largest file; returns its name."""
    victim = max(path.glob(pattern), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    return victim.name


def fill_large(path):
    store = open_store(path)
    rows = [(b"%06d" % n, b"%032d" % (n * 7919)) for n in range(20_000)]
    store.apply({"counts": Changes(rows, (), 20_000)}, now_ms=2_000)
    store.close()


def test_a_damaged_block_is_never_read_silently_and_rebuilds_at_the_next_open(path):
    fill_large(path)
    damage(path, "*.sst")
    store = open_store(path)
    with pytest.raises(TaskCorrupted, match="wiped and restored"):
        list(store.scan("counts"))
    with pytest.raises(TaskCorrupted):
        list(store.scan_keys("counts"))
    with pytest.raises(TaskCorrupted):
        store.get_many("counts", [b"%06d" % n for n in range(20_000)])
    store.close()
    store = open_store(path)
    assert reasons_of(store) == {"*": Reason.CORRUPT}
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == []
    store.close()


@pytest.mark.parametrize("pattern", ["MANIFEST-*", "CURRENT"])
def test_damaged_files_at_open_rebuild_the_store(path, pattern):
    fill_large(path)
    damage(path, pattern)
    store = open_store(path)
    assert reasons_of(store) == {"*": Reason.CORRUPT}
    assert store.changelog_position("counts") is None
    store.close()


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_missing_files_at_open_rebuild_the_store(path, pattern):
    fill_large(path)
    for file in path.glob(pattern):
        file.unlink()
    store = open_store(path)
    assert reasons_of(store) == {"*": Reason.CORRUPT}
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == []
    store.close()


def test_damage_met_while_a_table_is_cleared_rebuilds_the_store(path):
    fill_large(path)
    for file in path.glob("*.sst"):
        content = bytearray(file.read_bytes())
        for at in range(0, len(content) - 4_000, 500):
            content[at] ^= 0xFF
        file.write_bytes(content)
    recreated = IDENTITY._replace(changelog_topic_ids={"counts": "id-new", "totals": "id-totals"})
    store = open_store(path, identity=recreated)
    assert reasons_of(store) == {"*": Reason.CORRUPT}
    store.close()


async def test_a_clock_that_was_set_back_does_not_hold_back_flushes(path):
    store = open_store(path, now_ms=1_000_000)
    store.apply({"counts": Changes([(b"a", bytes(50_000))], (), 1)}, now_ms=1_000_000)
    assert unflushed_bytes(store) > 50_000
    store.apply({}, now_ms=500_000)
    await until(lambda: unflushed_bytes(store) < 50_000, what="the flush")
    store.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_anywhere_is_never_believed(path, seed):
    chance = random.Random(seed)
    store = open_store(path)
    expected = {}
    for number in range(4):
        rows = [(b"%04d" % chance.randrange(3_000), chance.randbytes(40)) for _ in range(800)]
        store.apply({"counts": Changes(rows, (), 800 * (number + 1))}, now_ms=2_000)
        store.flush()
        expected.update(rows)
    store.close()
    files = [file for file in path.iterdir() if file.suffix == ".sst" or "MANIFEST" in file.name]
    victim = chance.choice(sorted(files))
    content = bytearray(victim.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    victim.write_bytes(content)
    store = open_store(path)
    try:
        rows = dict(store.scan("counts"))
    except TaskCorrupted:
        rows = None
    if store.changelog_position("counts") is None:
        assert reasons_of(store) == {"*": Reason.CORRUPT}
        assert not rows
    elif rows is not None:
        assert rows == expected
        assert store.changelog_position("counts") == 3_200
    store.close()
