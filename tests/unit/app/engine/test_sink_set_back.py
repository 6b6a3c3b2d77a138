"""Two-phase sinks that are replaced by an older state of themselves while a worker writes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.sink_apps import copy_into, new_app
from harness.sqlite_participant import SqliteParticipant, committed_rows, prepared_branches
from onceflow.engine.runtime import runtime_of
from onceflow.errors import OnceflowError
from onceflow.testing import TopologyDriver


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sink.db"


class FallsBack(SqliteParticipant):
    """At ``when`` of the second epoch a standby takes over, which stands where it was at ``since``.

    Its state is that before or after the first PREPARE; it has not the branch's end in any case.
    """

    when, since = "prepare", "after"
    standby = None

    def _fall_back(self, when):
        if self.when == when and self.standby is not None and "fell back" not in self.calls:
            self.close()
            Path(self.path).write_bytes(self.standby)
            self.calls.append("fell back")

    def _keep(self, since):
        if self.since == since and self.standby is None:
            self.close()
            self.standby = Path(self.path).read_bytes()

    def prepare(self, branch, rows):
        self._fall_back("prepare")
        self._keep("before")
        super().prepare(branch, rows)
        self._keep("after")

    def marker_row(self, incarnation):
        self._fall_back("marker_row")
        return super().marker_row(incarnation)


@pytest.mark.parametrize("when", ["prepare", "marker_row"])
async def test_inv_2pc_2_a_committed_branch_of_a_sink_that_fell_back_is_committed_again(
    tmp_path, path, when
):
    app, words = new_app()
    sink = FallsBack(path)
    sink.when = when

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "a", partition=0)
        await driver.settle()
        await driver.feed("words", "b", partition=0)
        await driver.settle()
    assert "fell back" in sink.calls
    assert committed_rows(path) == [{"word": "a"}, {"word": "b"}]
    assert prepared_branches(path) == []


async def test_a_sink_that_lost_committed_rows_ends_the_worker_before_it_takes_more(tmp_path, path):
    app, words = new_app()
    sink = FallsBack(path)
    sink.when, sink.since = "marker_row", "before"

    copy_into(app, words, sink)

    async with TopologyDriver(app, tmp_path) as driver:
        await driver.feed("words", "a", partition=0)
        await driver.settle()
        await driver.feed("words", "b", partition=0)
        with pytest.raises(OnceflowError, match="shows epoch 0 of") as lost:
            await driver.settle()
    assert lost.value.exit_code == 4
    assert committed_rows(path) == []
    text = runtime_of(app).metrics.exposition().decode()
    assert "onceflow_heuristic_outcomes_total 1.0" in text
