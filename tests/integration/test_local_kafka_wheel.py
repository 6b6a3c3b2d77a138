"""The local Kafka needs nothing of the repository: it starts from an unpacked wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("kafka"), pytest.mark.timeout(240)]

_REPOSITORY = Path(__file__).parents[2]

_START = """
import sys
sys.path.insert(0, sys.argv[1])
import onceflow.localkafka
assert onceflow.localkafka.__file__.startswith(sys.argv[1]), onceflow.localkafka.__file__
with onceflow.localkafka.LocalKafka(heap_mb=256) as cluster:
    print(cluster.bootstrap)
"""


def test_kafka_starts_from_an_installed_wheel(tmp_path, monkeypatch):
    monkeypatch.delenv("ONCEFLOW_BROKER", raising=False)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=_REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("onceflow-*.whl")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", _START, str(place)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("127.0.0.1:")
