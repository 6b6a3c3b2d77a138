"""A fatal error that the binding hides behind a ``SystemError``."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from onceflow.kafka.errors import unmasked


def test_a_fatal_error_behind_a_system_error_comes_out():
    fatal = KafkaException(KafkaError(KafkaError._FENCED))
    with pytest.raises(KafkaException) as caught, unmasked():
        raise SystemError("<class 'logging.LogRecord'> returned a result") from fatal
    assert caught.value is fatal


def test_another_system_error_stays_what_it_is():
    with pytest.raises(SystemError, match="of its own"), unmasked():
        raise SystemError("of its own")
