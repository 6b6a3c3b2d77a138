"""Several two-phase sinks of different kinds in one epoch, MariaDB and files, under kill -9."""

from __future__ import annotations

import json
import time
from collections import Counter

import pymysql
import pytest

from harness.fault_workers import Worker
from harness.files_sink import visible_files
from harness.sink_run import SinkRun
from onceflow.decisions.crash_points import CrashPoint

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]

POINTS = [
    CrashPoint.BEFORE_PREPARE,
    CrashPoint.DURING_PREPARE,
    CrashPoint.AFTER_PREPARE,
    CrashPoint.BEFORE_COMMIT,
    CrashPoint.AFTER_COMMIT,
    CrashPoint.BEFORE_FINISH,
    CrashPoint.DURING_FINISH,
    CrashPoint.AFTER_FINISH,
]
NO_SUCH_TABLE = 1146


class MixedStore:
    """Two tables of a real MariaDB, and a directory."""

    def __init__(self, place, directory, roll_s):
        self.place = place
        self.directory = directory / "files"
        self.environ = {
            "SINK_MARIADB": place.dsn,
            "SINK_FILES": str(self.directory),
            "SINK_ROLL_S": str(roll_s),
        }

    def _rows(self, query):
        try:
            return self.place.sql(query)
        except pymysql.MySQLError as error:
            # The worker that makes the tables may not have come so far.
            if error.args[0] == NO_SUCH_TABLE:
                return []
            raise

    def log(self):
        """Rows of the appending table: (partition, offset, key, count, total)."""
        return self._rows("SELECT p, o, k, c, t FROM log")

    def latest(self):
        """The table of the replacing sink: key to count."""
        return dict(self._rows("SELECT k, c FROM latest"))

    def in_files(self):
        """The rows of all files that readers see, as ``log`` has them."""
        return [
            (int(path.parent.name.removeprefix("p=")), row["o"], row["k"], row["c"], row["t"])
            for path in visible_files(self.directory)
            for row in map(json.loads, path.read_text().splitlines())
        ]

    def prepared(self):
        """Names of branches that are prepared."""
        hidden = self.directory / ".onceflow"
        places = [each for state in ("prepared", "raised") for each in hidden.glob(f"*/*/{state}")]
        staged = [str(path) for place in places for path in place.glob("*/*")]
        staged = [path for path in staged if path.rpartition("/")[2].isdecimal()]
        mine = [row[3].decode() for row in self.place.root_sql("XA RECOVER")]
        return staged + mine


class MixedRun(SinkRun):
    """A run whose rows must be in the files as well."""

    def worker(self, name="a", **environ):
        if name not in self.workers:
            self.workers[name] = Worker(
                name, self.directory, self.environ, program="harness.mixedsinkapp"
            )
        return super().worker(name, **environ)

    def problems(self):
        found, expected = Counter(self.store.in_files()), Counter(self.store.log())
        problems = [f"in files and not in the table: {row}" for row in found - expected]
        problems += [f"in the table and not in files: {row}" for row in expected - found]
        return [*super().problems(), *problems[:20]]


@pytest.fixture
def mixed(fault_kafka, mariadb_place, tmp_path):
    """Makes a run over a place of its own."""

    def make(roll_s=3600, **options):
        store = MixedStore(mariadb_place, tmp_path, roll_s)
        return MixedRun(fault_kafka, tmp_path, store, **options)

    return make


@pytest.mark.ci
def test_rows_in_all_sinks_survive_kills_around_the_decision(mixed):
    with mixed() as run:
        run.feed(900)
        for point in (CrashPoint.DURING_PREPARE, CrashPoint.AFTER_COMMIT):
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:4").wait_killed(60)
        run.worker()
        run.finish()


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_several_times_at_a_point_loses_and_doubles_nothing(mixed, point):
    with mixed() as run:
        run.feed(900)
        for passing in (4, 1, 2):
            run.worker(ONCEFLOW_CRASH_POINT=f"{point}:{passing}").wait_killed(60)
        run.worker()
        run.finish()


def test_files_appear_at_each_commit_while_workers_are_killed_at_any_time(mixed):
    with mixed(roll_s=0) as run:
        run.feed(1_800)
        run.worker("a")
        run.worker("b")
        for name, rows in (("a", 300), ("b", 700), ("a", 1_100)):
            run.wait_rows(rows)
            run.workers[name].kill()
            run.worker(name)
        run.wait_rows(timeout_s=120)
        deadline_s = time.monotonic() + 30
        while len(run.store.in_files()) < len(run.sent):
            assert time.monotonic() < deadline_s, "rows do not become files"
            time.sleep(0.1)
        run.finish()


def test_a_database_that_is_killed_and_comes_back_loses_and_doubles_nothing(mixed, mariadb):
    with mixed() as run:
        run.feed(1_500)
        run.worker()
        for rows in (200, 600):
            run.wait_rows(rows)
            mariadb.process.kill()
            mariadb.start()
        run.finish(120)
