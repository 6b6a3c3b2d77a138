"""A timeout says why nobody answered."""

from __future__ import annotations

from confluent_kafka import KafkaError as K

from onceflow.errors import ConfigError, Unreachable
from onceflow.kafka.connection import Connection


def test_the_last_trouble_explains_a_silence():
    heard = []
    connection = Connection(heard.append)
    assert type(connection.silence("describe topics", 2.0)) is Unreachable
    refused = K(K._TRANSPORT, "Connect to localhost:1 failed: Connection refused")
    connection(refused)
    error = connection.silence("describe topics", 2.0)
    assert type(error) is Unreachable
    assert "describe topics: no answer within 2 s" in str(error)
    assert "Connection refused" in str(error)
    assert "advertised" in str(error)
    assert (heard, connection.count, connection.refusal("x")) == ([refused], 1, None)


def test_refused_credentials_are_a_configuration_error_not_a_silence():
    connection = Connection()
    connection(K(K._AUTHENTICATION, "SASL authentication error"))
    assert type(connection.refusal("consumer")) is ConfigError
    error = connection.silence("cluster id", 2.0)
    assert type(error) is ConfigError
    assert "sasl.password" in str(error)
