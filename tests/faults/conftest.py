"""The servers of the fault tests, which stay up between runs, and which tests run when.

``make test`` runs the tests marked ``ci``; ``make faults`` runs all of them, and as many random
runs as RUNS says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.fault_run import FaultRun
from harness.healing import heal
from onceflow.errors import ConfigError
from onceflow.localkafka import LocalKafka

BROKER = {
    # Timed-out transactions are looked for every 10 s by default; takeovers wait for that.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # With KIP-848 the broker sets the session: as short as the tests' classic one.
    "group.consumer.session.timeout.ms": "6000",
}


def start(**options):
    """A local Kafka; a missing Java or Maven is a failure under CI=true and a skip elsewhere."""
    server = LocalKafka(settings=BROKER, **options)
    try:
        server.start()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the local Kafka is missing under CI=true: {error}")
        pytest.skip(str(error))
    return server


@pytest.fixture(scope="session")
def one_server():
    """One broker for the session; ``fault_kafka`` is it in good health."""
    server = start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def three_servers():
    """Three brokers for the session; ``three_brokers`` is them in good health."""
    server = start(brokers=3, heap_mb=384)
    yield server
    server.stop()


@pytest.fixture
def fault_kafka(one_server):
    """One broker; tests may end and restart it."""
    return heal(one_server)


@pytest.fixture
def three_brokers(three_servers):
    """A cluster in which one broker may be missing; tests may end and restart one."""
    return heal(three_servers)


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--fault-runs", type=int, help="run all fault tests, with as many random runs")
    group.addoption("--fault-seed", type=int, default=0, help="seed of the random runs")
    group.addoption(
        "--fault-file",
        default=os.environ.get("FILE", ".cache/faults.jsonl"),
        help="where results of random runs are appended; finished ones are not repeated",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "ci: a fault test that is part of make test")


def pytest_collection_modifyitems(config, items):
    # Unknown is the option where this folder was not named: pytest met it only while collecting.
    if config.getoption("fault_runs", None) is not None:
        return
    here = Path(__file__).parent
    left_out = [
        item
        for item in items
        if here in item.path.parents and item.get_closest_marker("ci") is None
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_generate_tests(metafunc):
    if "random_run" in metafunc.fixturenames:
        metafunc.parametrize(
            "random_run", range(metafunc.config.getoption("fault_runs", None) or 0)
        )


def pytest_terminal_summary(terminalreporter, config):
    """What the file of results says of this seed."""
    path = config.getoption("fault_file", None)
    if path is None or not Path(path).is_file():
        return
    seed = f"{config.getoption('fault_seed')}/"
    results = [json.loads(line) for line in Path(path).read_text().splitlines()]
    mine = [result for result in results if result["plan"]["seed"].startswith(seed)]
    passed = {result["plan"]["seed"] for result in mine if result["passed"]}
    failed = {result["plan"]["seed"] for result in mine} - passed
    seconds = sum(result["seconds"] for result in mine)
    terminalreporter.write_line(
        f"random fault runs of seed {config.getoption('fault_seed')} in {path}: "
        f"{len(passed)} passed, {len(failed)} failed, {seconds:.0f} s"
    )
    for each in sorted(failed):
        terminalreporter.write_line(f"  failed: {each}")


@pytest.fixture
def run_app(fault_kafka, tmp_path):
    """Makes the fault application's runs: ``run_app(static=True)`` is a context manager."""

    def make(**options):
        return FaultRun(fault_kafka, tmp_path, **options)

    return make
