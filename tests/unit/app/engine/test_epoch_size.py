"""How much an epoch holds, and the commit that follows when it is enough."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.table_driver import SOURCE, TableDriver, make_app
from onceflow.decisions import epoch_events as ev
from onceflow.engine.epochs import Epochs
from onceflow.engine.runtime import runtime_of
from onceflow.ids import Incarnation, Partition
from onceflow.kafka.records import Run

MIB = 1024 * 1024


class Producer:
    def produce(self, *_args, **_options):
        pass


@pytest.fixture
def world(tmp_path):
    """A worker with an open epoch, one table and its driver, and what its epochs were told."""
    app = make_app()
    texts = app.Table("texts", default=str)
    driver = TableDriver(app, tmp_path).open()
    runtime = runtime_of(app)
    runtime.settings = runtime.settings.model_copy(update={"commit_bytes": MIB})
    posted = []
    work = Epochs(runtime, Incarnation("own")).work
    runtime._epochs = SimpleNamespace(is_open=True, work=work, post=posted.append)
    runtime.sender.in_worker = True
    runtime.sender.existing.add("out")
    runtime.sender.begin(Producer())
    return SimpleNamespace(driver=driver, texts=texts, runtime=runtime, posted=posted, work=work)


def finish_a_batch(world):
    nothing = [None]
    run = Run(Partition(SOURCE, 0), [0], nothing, nothing, [0], None, 0, 0)
    world.runtime.inflow.account(run)
    return [event.reason for event in world.posted]


def test_changed_rows_end_the_epoch_when_they_are_enough(world):
    with world.driver.record():
        world.texts["a"] = "x" * (MIB // 2)
        assert finish_a_batch(world) == []
        world.texts["b"] = "x" * (MIB // 2)
    assert finish_a_batch(world) == [ev.CommitReason.BYTES]


def test_a_row_written_often_is_held_once(world):
    with world.driver.record():
        for _ in range(10):
            world.texts["a"] = "x" * (MIB // 4)
    assert MIB // 4 < world.work.held_bytes() < MIB // 2
    world.driver.abort()
    assert world.work.held_bytes() == 0


async def test_a_committed_epoch_holds_nothing_any_more(world):
    with world.driver.record():
        world.texts["a"] = "x" * 100
        del world.texts["a"]
    assert world.work.held_bytes() > 0
    await world.driver.commit()
    assert world.work.held_bytes() == 0


async def test_sends_with_and_without_a_record_and_dead_letters_count(world):
    with world.driver.record():
        world.runtime.sender.send("out", b"k", b"v" * 99)
    assert world.work.held_bytes() == 100
    sent = world.runtime.sender.send("out", b"k", b"v" * (MIB // 2))
    world.runtime.sender.note_effect("letters", MIB // 2)
    assert finish_a_batch(world) == [ev.CommitReason.BYTES]
    sent.cancel()
