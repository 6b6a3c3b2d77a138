"""Rolls of a files sink: when rows become files, and who makes them after errors and deaths."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from harness.files_sink import branch, visible_files
from onceflow.ids import Incarnation
from onceflow.limits import FILES_ADOPT_S
from onceflow.sinks import files_roll, files_segment
from onceflow.sinks.files_branches import BranchStore
from onceflow.sinks.files_roll import Roller, RollLimits
from onceflow.sinks.files_segment import Rows, segment_chunks

W, V = Incarnation("w1"), Incarnation("v2")


def committed(directory: Path, roller: Roller, incarnation: str, commit_epoch: int, *lines: str):
    """Commit lines without a sink, as rows of the directory itself."""
    store = BranchStore(directory)
    store.make()
    roller.make()
    packed = "".join(f"{line}\n" for line in lines).encode()
    at = branch(incarnation, commit_epoch)
    store.prepare(at, segment_chunks("json", {"": Rows(len(lines), packed)}))
    store.commit_branch(at)
    os.utime(store.waiting / f"{incarnation}.{commit_epoch}", (0.0, 0.0))


@pytest.fixture
def roller(tmp_path) -> Roller:
    return roller_of(tmp_path, "me")


def roller_of(tmp_path: Path, token: str) -> Roller:
    limits = RollLimits(rows=3, size_bytes=100, interval_s=60.0)
    root = tmp_path / "root"
    return Roller(tmp_path / "out", root, limits, token, BranchStore(root), "sink")


def shown(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in visible_files(tmp_path / "out"))


def test_rows_wait_for_enough_of_them_and_keep_their_order(roller, tmp_path):
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 9, "1")
    committed(tmp_path / "root", roller, W, 10, "2")
    roller.turn(0.0)
    assert shown(tmp_path) == ""
    committed(tmp_path / "root", roller, W, 11, "3")
    roller.turn(1.0)
    assert shown(tmp_path) == "1\n2\n3\n"
    names = [path.name for path in visible_files(tmp_path / "out")]
    assert names == ["sink-w1-000000000009-0.jsonl"]
    assert list((tmp_path / "root" / "rolling").iterdir()) == []


def test_rows_become_a_file_when_they_are_many_bytes_or_have_waited_long(roller, tmp_path):
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "x" * 120)
    roller.turn(0.0)
    assert len(visible_files(tmp_path / "out")) == 1
    committed(tmp_path / "root", roller, W, 2, "y")
    roller.turn(1.0)
    roller.turn(59.0)
    assert len(visible_files(tmp_path / "out")) == 1
    roller.turn(60.0)
    assert len(visible_files(tmp_path / "out")) == 2


def test_rows_of_another_worker_are_taken_when_they_are_long_overdue(roller, tmp_path):
    roller.adopt(W)
    committed(tmp_path / "root", roller, V, 1, "1", "2", "3", "4")
    roller.turn(0.0)
    roller.turn(60.0 + FILES_ADOPT_S - 0.1)
    assert shown(tmp_path) == ""
    roller.turn(60.0 + FILES_ADOPT_S)
    assert shown(tmp_path) == "1\n2\n3\n4\n"


def test_rows_of_a_raised_worker_are_ours_also_after_restarts(roller, tmp_path):
    for dead, line in ((V, "1"), (W, "2")):
        committed(tmp_path / "root", roller, dead, 1, line)
        roller.turn(59.0)
        assert line not in shown(tmp_path)
        BranchStore(tmp_path / "root").raise_marker(dead)
        if dead == V:
            roller_of(tmp_path, "next").turn(60.0)
        else:
            roller_of(tmp_path, "last").roll_own()
        assert line in shown(tmp_path)


def test_a_roll_is_resumed_after_an_error(roller, tmp_path, monkeypatch):
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "1", "2", "3")
    with monkeypatch.context() as patched:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            roller.turn(0.0)
    assert shown(tmp_path) == ""
    roller.turn(1.0)
    assert shown(tmp_path) == "1\n2\n3\n"


def test_a_roller_that_was_stopped_makes_nothing_twice(roller, tmp_path, monkeypatch):
    """Another one takes the roll over while it builds, and finishes it."""
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "1", "2", "3")
    other = roller_of(tmp_path, "other")
    build = Roller._build

    def stopped(self, home, names):
        made = build(self, home, names)
        if self is roller:
            other.turn(0.0)
            other.turn(FILES_ADOPT_S)
            assert shown(tmp_path) == "1\n2\n3\n"
        return made

    monkeypatch.setattr(Roller, "_build", stopped)
    roller.turn(0.0)
    roller.turn(1.0)
    assert shown(tmp_path) == "1\n2\n3\n"
    assert list((tmp_path / "root" / "rolling").iterdir()) == []


def test_a_file_that_a_reader_took_away_is_not_made_again(roller, tmp_path, monkeypatch):
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "1", "2", "3")
    with monkeypatch.context() as patched:

        def dies(self, home, made):
            publish(self, home, made)
            raise OSError(5, "died")

        publish = Roller._publish
        patched.setattr(Roller, "_publish", dies)
        with pytest.raises(OSError, match="died"):
            roller.turn(0.0)
    shutil.rmtree(tmp_path / "out")
    roller.turn(1.0)
    assert visible_files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("owner", "moment"), [(Roller, "_build"), (Roller, "_publish"), (Path, "rmdir")]
)
def test_a_claim_that_arrives_late_is_no_part_of_the_roll_and_not_lost(
    roller, tmp_path, monkeypatch, owner, moment
):
    """While the files are made, after the manifest is written, or after it was removed."""
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "1", "2", "3")
    store, usual = BranchStore(tmp_path / "root"), getattr(owner, moment)
    arrived: list[str] = []

    def arriving(*arguments):
        if not arrived:
            arrived.append("w1.2")
            committed(tmp_path / "root", roller, W, 2, "4")
            (home,) = (tmp_path / "root" / "rolling").iterdir()
            (store.waiting / "w1.2").rename(home / "w1.2")
        return usual(*arguments)

    monkeypatch.setattr(owner, moment, arriving)
    if moment == "rmdir":
        with pytest.raises(OSError, match="not empty"):
            roller.turn(0.0)
    else:
        roller.turn(0.0)
    assert shown(tmp_path) == "1\n2\n3\n"
    assert arrived
    roller.turn(60.0)
    assert shown(tmp_path) == "1\n2\n3\n4\n"
    assert list((tmp_path / "root" / "rolling").iterdir()) == []


def test_a_roll_that_takes_long_is_not_taken_as_long_as_it_goes_on(roller, tmp_path, monkeypatch):
    roller.adopt(W)
    for commit_epoch in range(1, 5):
        committed(tmp_path / "root", roller, W, commit_epoch, str(commit_epoch))
    other, read_piece = roller_of(tmp_path, "other"), files_roll.read_piece
    taken: list[str] = []
    clock_s = [0.0]

    def slow(path, piece):
        clock_s[0] += FILES_ADOPT_S
        time.sleep(0.02)  # longer than a step of the file system's clock
        other.turn(clock_s[0])
        return read_piece(path, piece)

    def noted(self, name):
        taken.append(name)

    monkeypatch.setattr(files_roll, "read_piece", slow)
    monkeypatch.setattr(files_roll, "FILES_LOOK_S", 0.0)
    monkeypatch.setattr(Roller, "_take_over", noted)
    roller.turn(0.0)
    assert clock_s[0] == 4 * FILES_ADOPT_S
    assert taken == []
    assert shown(tmp_path) == "1\n2\n3\n4\n"


def test_each_footer_is_read_once_however_many_directories_there_are(roller, tmp_path, monkeypatch):
    roller.make()
    store = BranchStore(tmp_path / "root")
    store.make()
    for commit_epoch in (1, 2, 3):
        rows = {f"p={number}": Rows(1, b"1\n") for number in range(20)}
        store.prepare(branch(W, commit_epoch), segment_chunks("json", rows))
        store.commit_branch(branch(W, commit_epoch))
    read: list[str] = []
    read_footer = files_segment.read_footer

    def counted(path):
        read.append(path.name)
        return read_footer(path)

    for module in (files_roll, files_segment):
        monkeypatch.setattr(module, "read_footer", counted)
    roller.adopt(W)
    roller.roll_own()
    assert read == ["w1.1", "w1.2", "w1.3"]
    assert shown(tmp_path) == "1\n" * 60


@pytest.mark.parametrize("manifest_arrives", [False, True])
def test_who_takes_a_roll_makes_room_first_and_only_if_its_files_are_not_whole(
    roller, tmp_path, monkeypatch, manifest_arrives
):
    roller.adopt(W)
    committed(tmp_path / "root", roller, W, 1, "1", "2", "3")
    rename, exists = Path.rename, Path.exists

    def dies(path, target):
        if path.name.startswith(".manifest"):
            raise OSError(5, "died")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dies)
        with pytest.raises(OSError, match="died"):
            roller.turn(0.0)
    (home,) = (tmp_path / "root" / "rolling").iterdir()
    before = {path.name for path in home.glob("*.out")}
    assert before
    other = roller_of(tmp_path, "other")
    build, built = Roller._build, []

    def emptied(self, at, names):
        built.append({path.name for path in at.glob("*")})
        return build(self, at, names)

    def arriving(path):
        found = exists(path)
        if manifest_arrives and path.name == "manifest" and not found:
            for late in path.parent.glob(".manifest.*"):
                rename(late, path)
        return found

    monkeypatch.setattr(Roller, "_build", emptied)
    monkeypatch.setattr(Path, "exists", arriving)
    other.turn(0.0)
    other.turn(FILES_ADOPT_S)
    assert built == ([] if manifest_arrives else [{"w1.1"}])
    assert shown(tmp_path) == "1\n2\n3\n"
    assert list((tmp_path / "root" / "rolling").iterdir()) == []
