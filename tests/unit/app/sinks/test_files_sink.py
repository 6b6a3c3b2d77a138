"""The files sink: protocol, layout, rolls, takeovers, and death at every step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.files_sink import (
    SCOPE,
    Moment,
    branch,
    crash_runs,
    hidden,
    visible_files,
    visible_rows,
)
from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    ParticipantUnavailable,
    SerializationError,
    Superseded,
)
from onceflow.ids import Incarnation
from onceflow.sinks import files_branches, files_place
from onceflow.sinks.files import Files
from onceflow.sinks.files_place import Location, Place
from onceflow.sinks.files_segment import Rows, pieces_of, read_footer, read_piece, segment_chunks
from onceflow.sinks.participant import FinishOutcome, MarkerRow, Standing
from onceflow.sinks.rows import Delete

W, V = Incarnation("w1"), Incarnation("v2")


@pytest.fixture
def opened(tmp_path):
    """Opens sinks on one directory, and closes them at the end."""
    sinks: list[Files] = []

    def open_sink(**options) -> Files:
        sink = Files(tmp_path / "out", **options)
        sink.open(SCOPE)
        sinks.append(sink)
        return sink

    yield open_sink
    for sink in sinks:
        sink.close()


def put(sink: Files, commit_epoch: int, *values, incarnation: str = W) -> None:
    sink.prepare(branch(incarnation, commit_epoch), [sink.encode(value) for value in values])


def test_rows_are_invisible_until_they_are_committed_and_whole_afterwards(opened, tmp_path):
    sink = opened(roll_interval_s=0)
    put(sink, 1, {"n": 1}, [{"n": 2}, {"n": 3}])
    assert visible_files(tmp_path / "out") == []
    assert sink.branches() == [branch(W, 1)]
    assert sink.commit(branch(W, 1)) is FinishOutcome.DONE
    assert visible_rows(tmp_path / "out") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert sink.branches() == []
    assert sink.marker_row(W) == MarkerRow(1, Standing.ACTIVE)
    assert sink.commit(branch(W, 1)) is FinishOutcome.DONE
    assert len(visible_rows(tmp_path / "out")) == 3


def test_a_branch_that_is_rolled_back_leaves_nothing(opened, tmp_path):
    sink = opened(roll_interval_s=0)
    put(sink, 1, {"n": 1})
    sink.roll_back(branch(W, 1))
    sink.roll_back(branch(W, 1))
    assert sink.branches() == []
    assert sink.marker_row(W) is None
    assert sink.commit(branch(W, 1)) is FinishOutcome.MISSING
    assert visible_files(tmp_path / "out") == []


def test_an_epoch_without_rows_commits_its_marker_alone(opened, tmp_path):
    sink = opened(roll_interval_s=0)
    put(sink, 4)
    assert sink.branches() == [branch(W, 4)]
    assert sink.commit(branch(W, 4)) is FinishOutcome.DONE
    assert sink.marker_row(W) == MarkerRow(4, Standing.ACTIVE)
    assert visible_files(tmp_path / "out") == []


def test_a_committed_epoch_is_not_prepared_again(opened):
    sink = opened()
    put(sink, 2, {"n": 1})
    sink.commit(branch(W, 2))
    for late in (1, 2):
        with pytest.raises(Superseded, match="is committed there"):
            put(sink, late, {"n": 1})
    assert sink.branches() == []


def test_a_process_that_commits_late_does_not_set_the_marker_row_back(
    opened, tmp_path, monkeypatch
):
    late, heir = opened(roll_interval_s=0), opened(roll_interval_s=0)
    for commit_epoch in (5, 6):
        put(late, commit_epoch, {"n": commit_epoch})
    marker = files_branches.BranchStore._marker

    def overtaken(store, incarnation):
        seen = marker(store, incarnation)
        if store is late._opened.branches and heir.marker_row(W) is None:
            for commit_epoch in (5, 6):
                assert heir.commit(branch(W, commit_epoch)) is FinishOutcome.DONE
        return seen

    monkeypatch.setattr(files_branches.BranchStore, "_marker", overtaken)
    late.commit(branch(W, 5))
    for sink in (late, heir):
        assert sink.marker_row(W) == MarkerRow(6, Standing.ACTIVE)
    put(heir, 7)
    heir.commit(branch(W, 7))
    markers = hidden(tmp_path / "out", heir) / "markers" / W
    assert [path.name for path in markers.iterdir()] == ["7"], "they do not grow in number"
    assert visible_rows(tmp_path / "out") == [{"n": 5}, {"n": 6}]


def test_a_raised_incarnation_prepares_nothing_more_and_its_branches_stay(opened, tmp_path):
    ours, taker = opened(roll_interval_s=0), opened(roll_interval_s=0)
    put(ours, 1, {"n": 1})
    taker.raise_marker(W)
    taker.raise_marker(W)
    assert taker.marker_row(W) == MarkerRow(0, Standing.RAISED)
    with pytest.raises(Superseded, match="judged dead"):
        put(ours, 2, {"n": 2})
    assert taker.branches() == [branch(W, 1)]
    assert taker.commit(branch(W, 1)) is FinishOutcome.DONE
    assert taker.marker_row(W) == MarkerRow(1, Standing.RAISED)
    assert visible_rows(tmp_path / "out") == [{"n": 1}]
    put(ours, 1, {"n": 9}, incarnation=V)
    assert ours.branches() == [branch(V, 1)]


def test_an_incarnation_that_never_prepared_can_be_raised(opened):
    ours, taker = opened(), opened()
    taker.raise_marker(W)
    with pytest.raises(Superseded):
        put(ours, 1, {"n": 1})
    assert taker.branches() == []


def test_a_prepare_that_was_stopped_before_its_last_step_fails_after_a_raise(opened, monkeypatch):
    ours, taker = opened(), opened()
    put(ours, 1, {"n": 1})
    ours.roll_back(branch(W, 1))
    rename = Path.rename

    def raised_meanwhile(path, target):
        if path.name.endswith(".staging"):
            taker.raise_marker(W)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", raised_meanwhile)
    with pytest.raises(Superseded):
        put(ours, 2, {"n": 2})
    assert taker.branches() == []


def test_a_branch_stays_findable_while_it_is_moved_by_a_raise(opened, monkeypatch, tmp_path):
    ours, taker = opened(roll_interval_s=0), opened()
    put(ours, 1, {"n": 1})
    rename = Path.rename

    def raised_meanwhile(path, target):
        if path.name == "1" and path.parent.parent.name == "prepared":
            taker.raise_marker(W)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", raised_meanwhile)
    assert ours.commit(branch(W, 1)) is FinishOutcome.DONE
    assert visible_rows(tmp_path / "out") == [{"n": 1}]
    assert taker.branches() == []


def test_a_listing_finds_a_branch_that_a_raise_moves_meanwhile(opened, monkeypatch):
    ours, taker = opened(), opened()
    put(ours, 1, {"n": 1})
    entries = files_branches._entries

    def raised_meanwhile(directory):
        if directory.name == W:
            taker.raise_marker(W)
        return entries(directory)

    monkeypatch.setattr(files_branches, "_entries", raised_meanwhile)
    assert ours.branches() == [branch(W, 1)]


def test_another_application_sees_nothing_of_ours(opened, tmp_path):
    sink = opened()
    put(sink, 1, {"n": 1})
    other = Files(tmp_path / "out")
    other.open(type(SCOPE).of("cluster", "another"))
    assert other.branches() == []
    other.close()


def test_rows_go_to_the_directory_of_their_value_without_the_column(opened, tmp_path):
    sink = opened(roll_interval_s=0, partition_by="day")
    put(sink, 1, [{"day": "a/b=%", "n": 1}, {"day": None, "n": 2}, {"day": 7, "n": 3}])
    sink.commit(branch(W, 1))
    out = tmp_path / "out"
    found = {path.parent.name: path.read_text() for path in visible_files(out)}
    assert found == {
        "day=a%2Fb%3D%25": '{"n":1}\n',
        "day=__HIVE_DEFAULT_PARTITION__": '{"n":2}\n',
        "day=7": '{"n":3}\n',
    }


def test_sinks_that_share_a_directory_keep_the_rows_of_each_other(opened, tmp_path):
    """Also where one of them writes into a directory that the other made for a value."""
    whole = opened(roll_interval_s=0, name="whole")
    days = opened(roll_interval_s=0, partition_by="day", name="days")
    inner = Files(tmp_path / "out" / "day=1", roll_interval_s=0, name="inner")
    inner.open(SCOPE)
    for number, sink in enumerate((whole, days, inner)):
        put(sink, 1, {"day": 1, "n": number})
        sink.commit(branch(W, 1))
    inner.close()
    assert sorted(row["n"] for row in visible_rows(tmp_path / "out")) == [0, 1, 2]


def test_no_file_is_named_so_that_readers_skip_it(opened, tmp_path):
    sink = opened(roll_interval_s=0)
    put(sink, 1, {"n": 1}, incarnation="_w")
    sink.commit(branch("_w", 1))
    (file,) = visible_files(tmp_path / "out")
    assert file.name[0] not in "._"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"n": 1}, "has no 'day'"),
        ({"day": 1.5}, "cannot name a directory"),
        ({"day": ""}, "cannot name a directory"),
        ({"day": "x" * 300}, "too long"),
        ({"day": 1, "n": object()}, "written as JSON"),
        ({"day": 1, "n": None, "x": [{"y": float("nan")}]}, "no number"),
        ({"day": "\ud800"}, "cannot name a directory"),
        (Delete(1), "only appended"),
        (3, "cannot become a row"),
    ],
)
def test_a_value_that_cannot_be_written_is_refused_at_once(tmp_path, value, says):
    with pytest.raises(SerializationError, match=says):
        Files(tmp_path, partition_by="day").encode(value)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "csv"},
        {"format": "parquet"},
        {"schema": {"n": int}},
        {"format": "parquet", "schema": 3},
        {"format": "parquet", "schema": {"n": int}, "partition_by": "day"},
        {"partition_by": "_day"},
        {"roll_rows": 0},
        {"location": "somewhere"},
        {"name": "Too Long And Wrong"},
        {"name": "_skipped"},
    ],
)
def test_a_wrong_argument_is_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        Files(tmp_path, **options)


def test_names_differ_by_directory_and_format(tmp_path):
    schema = {"n": int}
    names = {
        Files(tmp_path / "a").name,
        Files(tmp_path / "b").name,
        Files(tmp_path / "a", format="parquet", schema=schema).name,
        Files(tmp_path / "a", name="mine").name,
    }
    assert len(names) == 4
    assert "mine" in names


def test_a_damaged_segment_is_data_at_risk_wherever_it_is_damaged(tmp_path):
    path = tmp_path / "segment"
    chunks = segment_chunks("json", {"a": Rows(2, b"1\n2\n"), "b": Rows(1, b"3\n")})
    whole = b"".join(chunks)
    path.write_bytes(whole)
    assert [section.rows for section in read_footer(path).sections] == [2, 1]
    pieces = list(pieces_of(read_footer(path)))
    assert [read_piece(path, piece) for piece in pieces] == [b"1\n2\n", b"3\n"]
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DataAtRisk, match="damaged"):
            assert [read_piece(path, piece) for piece in pieces_of(read_footer(path))]
        path.write_bytes(whole[:position])
        with pytest.raises(DataAtRisk, match="damaged"):
            read_footer(path)


def test_a_damaged_segment_stops_the_sink_instead_of_losing_rows(opened, tmp_path):
    sink = opened(roll_interval_s=3600)
    put(sink, 1, {"n": 1})
    sink.commit(branch(W, 1))
    (segment,) = (hidden(tmp_path / "out", sink) / "waiting").iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    roller = sink._opened.roller
    with pytest.raises(DataAtRisk):
        roller.turn(0.0)
    for trouble, raised in (
        (DataAtRisk("damaged"), DataAtRisk),
        (KeyError("a bug"), KeyError),
        (OSError(28, "No space left on device"), ParticipantUnavailable),
    ):
        sink._opened._trouble = trouble
        with pytest.raises(raised):
            put(sink, 2, {"n": 2})


def test_a_full_disk_is_unavailable_and_leaves_no_part_of_a_branch(opened, tmp_path, monkeypatch):
    sink = opened()
    with monkeypatch.context() as patched:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(ParticipantUnavailable, match="No space"):
            put(sink, 1, {"n": 1})
    assert sink.branches() == []
    put(sink, 2, {"n": 2})
    assert sink.branches() == [branch(W, 2)]


def test_closing_makes_files_of_what_waits(tmp_path):
    sink = Files(tmp_path / "out", roll_interval_s=3600)
    sink.open(SCOPE)
    sink.open(SCOPE)
    put(sink, 1, {"n": 1})
    sink.commit(branch(W, 1))
    assert visible_files(tmp_path / "out") == []
    sink.close()
    sink.close()
    assert visible_rows(tmp_path / "out") == [{"n": 1}]
    put(sink, 2, {"n": 2})
    assert sink.commit(branch(W, 2)) is FinishOutcome.DONE
    sink.open(SCOPE)
    sink.close()
    assert visible_rows(tmp_path / "out") == [{"n": 1}, {"n": 2}]


def test_a_sink_is_opened_before_it_is_used(tmp_path):
    with pytest.raises(ConfigError, match="before it was opened"):
        Files(tmp_path).branches()


def test_each_name_is_synced_after_its_contents_before_a_prepare_returns(opened, monkeypatch):
    sink = opened()
    put(sink, 1)
    sink.roll_back(branch(W, 1))
    calls: list[str] = []
    rename, fsync = Path.rename, os.fsync

    def told(what, call):
        def tell(*args):
            calls.append(what(*args))
            return call(*args)

        return tell

    kinds = {True: "directory", False: "file"}
    monkeypatch.setattr(Path, "rename", told(lambda path, target: "rename", rename))
    monkeypatch.setattr(
        os, "fsync", told(lambda fd: kinds[Path(f"/proc/self/fd/{fd}").is_dir()], fsync)
    )
    put(sink, 2, {"n": 1})
    assert calls == ["file", "rename", "directory"]


def test_a_local_directory_is_bound_to_its_host(tmp_path, monkeypatch):
    ours = files_place.settle(tmp_path, Location.LOCAL, "here")
    assert ours == Place(ours.identity, Location.LOCAL, "here")
    assert files_place.settle(tmp_path, Location.LOCAL, "here") == ours
    with pytest.raises(ConfigError, match="belongs to the host here; this is there"):
        files_place.settle(tmp_path, Location.LOCAL, "there")
    shared = files_place.settle(tmp_path, Location.SHARED, "there")
    assert shared.identity == ours.identity
    with pytest.raises(ConfigError, match="was used as a shared one"):
        files_place.settle(tmp_path, Location.LOCAL, "here")
    assert files_place.host_identity()
    monkeypatch.setattr(files_place, "_MACHINE_ID", tmp_path / "absent")
    assert files_place.host_identity()


def test_two_workers_know_that_they_see_the_same_directory(opened, tmp_path):
    one, two = opened(), opened(partition_by="day", name="another")
    elsewhere = Files(tmp_path / "elsewhere")
    elsewhere.open(SCOPE)
    assert one.place == two.place != elsewhere.place
    elsewhere.close()


def test_a_directory_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be used by a files sink"):
        Files(tmp_path / "out").open(SCOPE)


EPOCHS = 3
"""Of the process that is killed: epoch 2 is one that Kafka aborted."""


def lived(directory: Path, interval_s: float, say) -> None:
    """What the process does that is killed."""
    sink = Files(directory, partition_by="p", roll_interval_s=interval_s, name="same")
    sink.open(SCOPE)
    for commit_epoch in range(1, EPOCHS + 1):
        put(sink, commit_epoch, [{"p": p, "n": commit_epoch} for p in "ab"])
        if commit_epoch == 2:
            sink.roll_back(branch(W, commit_epoch))
            continue
        say(f"decided {commit_epoch}")
        assert sink.commit(branch(W, commit_epoch)) is FinishOutcome.DONE
    sink.close()


def inherited(directory: Path, interval_s: float, said: list[str]) -> None:
    """What the next owner does: finish, raise, look again, and roll what lies still."""
    sink = Files(directory, partition_by="p", roll_interval_s=interval_s, name="same")
    sink.open(SCOPE)
    for _ in range(2):
        for each in sink.branches():
            if f"decided {each.commit_epoch}" in said:
                assert sink.commit(each) is FinishOutcome.DONE
            else:
                sink.roll_back(each)
        sink.raise_marker(W)
    assert sink.branches() == []
    last = max(expected_of(said), default=0)
    assert sink.marker_row(W) == MarkerRow(last, Standing.RAISED)
    for now_s in (1e10, 2e10):
        sink._opened.roller.turn(now_s)
    sink.close()


def expected_of(said: list[str]) -> list[int]:
    return sorted([epoch for epoch in range(1, EPOCHS + 1) if f"decided {epoch}" in said] * 2)


def numbers(directory: Path) -> list[int]:
    return sorted(row["n"] for row in visible_rows(directory))


@pytest.mark.parametrize(
    ("moment", "interval_s", "calls"),
    [(Moment.BEFORE, 0, 80), (Moment.BEFORE, 3600, 60), (Moment.TORN, 0, 10)],
)
def test_death_at_any_call_loses_and_doubles_nothing(
    tmp_path, moment, interval_s, calls, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    at = [tmp_path / "0"]
    for said in crash_runs(lambda say: lived(at[-1], interval_s, say), moment):
        before = visible_rows(at[-1]) if at[-1].exists() else []
        inherited(at[-1], interval_s, said)
        assert numbers(at[-1]) == expected_of(said)
        assert all(row in visible_rows(at[-1]) for row in before)
        at.append(tmp_path / str(len(at)))
    assert len(at) > calls


def test_death_of_the_next_owner_as_well_loses_and_doubles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    left, at = tmp_path / "left", tmp_path / "again"
    deaths = 0
    for said in crash_runs(lambda say: lived(left, 0, say), Moment.BEFORE, stride=11):
        shutil.copytree(left, at)
        for _ in crash_runs(lambda _, known=said: inherited(at, 0, known), Moment.BEFORE, 3):
            inherited(at, 0, said)
            assert numbers(at) == expected_of(said)
            shutil.rmtree(at)
            shutil.copytree(left, at)
            deaths += 1
        shutil.rmtree(at)
        shutil.rmtree(left)
    assert deaths > 60
