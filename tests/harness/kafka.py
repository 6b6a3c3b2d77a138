"""One real Kafka for all integration tests of a session.

A missing Java or Maven is a skip on a developer's machine and a failure with CI=true: a run that
tested nothing must not look like a success there.
"""

from __future__ import annotations

import os
import uuid

import pytest

from onceflow.errors import ConfigError
from onceflow.localkafka import LocalKafka


@pytest.fixture(scope="session")
def kafka():
    """A ``LocalKafka`` of one broker, shared: tests use topics and groups of their own names."""
    server = LocalKafka()
    try:
        server.start()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the local Kafka is missing under CI=true: {error}")
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def unique():
    """Makes a name that no other test uses: ``unique("orders")`` -> ``orders-1f3a9c04``."""

    def make(name: str) -> str:
        return f"{name}-{uuid.uuid4().hex[:8]}"

    return make
