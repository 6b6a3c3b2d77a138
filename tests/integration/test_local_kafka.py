from __future__ import annotations

import pytest

from onceflow.localkafka.readiness import probe
from onceflow.localkafka.wire import Address

pytestmark = pytest.mark.kafka


def test_started_kafka_serves_transactions(kafka):
    host, port = kafka.bootstrap.split(":")
    assert probe([Address(host, int(port))])
