"""Files against the contract of two-phase sinks."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from harness.files_sink import SCOPE, visible_files, visible_rows
from onceflow.sinks import Files
from onceflow.testing.participant_contract import ForeignSystem, ParticipantContract


class FilesSystem(ForeignSystem):
    """A directory. It has no connections, and what it says is durable is tested elsewhere."""

    scope = SCOPE

    def __init__(self, directory, **options):
        self._directory = directory
        self._options = {"roll_interval_s": 0, **options}

    def participant(self, name="sink"):
        return Files(self._directory, name=name, **self._options)

    def visible(self):
        return sorted(row["id"] for row in visible_rows(self._directory))

    def break_connections(self):
        pass

    def restart(self):
        pass


class ParquetSystem(FilesSystem):
    def __init__(self, directory):
        super().__init__(directory, format="parquet", schema={"id": int, "part": int | None})

    def visible(self):
        tables = [pq.read_table(path) for path in visible_files(self._directory)]
        return sorted(number for table in tables for number in table["id"].to_pylist())


class TestJsonLines(ParticipantContract):
    @pytest.fixture
    def system(self, tmp_path):
        return FilesSystem(tmp_path / "out")


class TestParquet(ParticipantContract):
    @pytest.fixture
    def system(self, tmp_path):
        return ParquetSystem(tmp_path / "out")
