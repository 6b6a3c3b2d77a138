"""Settings that exactly-once depends on cannot be taken away, and secrets do not show."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from onceflow.errors import ConfigError
from onceflow.kafka.configuration import (
    ClientConfig,
    GroupProtocol,
    Hooks,
    admin_config,
    consumer_config,
    offsets_config,
    producer_config,
    reader_config,
)

SECRETS = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "me",
    "sasl.password": "hunter2",
}
HOST = "127.0.0.1:1"


@pytest.mark.parametrize(
    "option",
    [
        "enable.auto.commit",
        "isolation.level",
        "transactional.id",
        "enable.idempotence",
        "auto.offset.reset",
        "partition.assignment.strategy",
        "partitioner",
        "group.id",
        "group.instance.id",
        "acks",
        "transaction.timeout.ms",
        "session.timeout.ms",
    ],
)
def test_an_option_that_breaks_exactly_once_is_refused_by_name_and_reason(option):
    with pytest.raises(ConfigError, match=option.replace(".", r"\.")) as error:
        ClientConfig(HOST, {option: "secret-value"})
    assert "because" in str(error.value)
    assert "secret-value" not in str(error.value)
    assert error.value.exit_code == 2


def test_an_empty_address_is_refused():
    with pytest.raises(ConfigError, match="onceflow://"):
        ClientConfig("")


def test_secrets_do_not_show():
    config = ClientConfig(HOST, SECRETS)
    for text in (repr(config), str(config), f"{config}"):
        assert "hunter2" not in text
        assert "sasl.password" in text


@pytest.mark.parametrize("protocol", list(GroupProtocol))
def test_a_consumer_reads_committed_and_never_commits_or_resets_by_itself(protocol):
    settings = consumer_config(ClientConfig(HOST), "app", protocol=protocol)
    expected = {
        "group.id": "app",
        "group.protocol": protocol.value,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "queued.min.messages": 200_000,
        "queued.max.messages.kbytes": 65_536,
        "fetch.queue.backoff.ms": 5,
        "allow.auto.create.topics": False,
    }
    assert settings.items() >= expected.items()


def test_the_classic_protocol_assigns_ranges_within_its_session_timeout():
    settings = consumer_config(ClientConfig(HOST), "app", session_timeout_ms=8_000)
    assert settings["partition.assignment.strategy"] == "range"
    assert settings["session.timeout.ms"] == 8_000
    assert settings["heartbeat.interval.ms"] < 8_000 / 3
    assert "group.remote.assignor" not in settings
    assert "group.instance.id" not in settings


def test_the_consumer_protocol_leaves_timeouts_and_assignment_to_the_broker():
    config = ClientConfig(HOST, {"heartbeat.interval.ms": "100"})
    settings = consumer_config(config, "app", worker_id="w1", protocol=GroupProtocol.CONSUMER)
    assert settings["group.remote.assignor"] == "range"
    assert settings["group.instance.id"] == "w1"
    for name in ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"):
        assert name not in settings


def test_a_producer_is_idempotent_and_partitions_as_java():
    settings = producer_config(ClientConfig(HOST), "app.x.0", 20_000)
    expected = {
        "transactional.id": "app.x.0",
        "transaction.timeout.ms": 20_000,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "linger.ms": 5,
    }
    assert settings.items() >= expected.items()
    plain = producer_config(ClientConfig(HOST), None)
    assert plain["enable.idempotence"] is True
    assert "transactional.id" not in plain


def test_the_users_options_reach_the_clients_they_are_for():
    options = {
        **SECRETS,
        "linger.ms": "1",
        "fetch.wait.max.ms": "77",
        "message.timeout.ms": "60000",
        "socket.keepalive.enable": "true",
    }
    config = ClientConfig(HOST, options)
    consumer = consumer_config(config, "app")
    producer = producer_config(config, "t")
    assert producer["linger.ms"] == "1"
    assert consumer["fetch.wait.max.ms"] == "77"
    assert "linger.ms" not in consumer
    assert "fetch.wait.max.ms" not in producer
    # Within a transaction no record may be given up on its own.
    assert "message.timeout.ms" not in producer
    reader, offsets = reader_config(config), offsets_config(config, "app", "read_committed")
    for settings in (consumer, producer, reader, offsets, admin_config(config)):
        assert settings["sasl.password"] == "hunter2"
        assert settings["socket.keepalive.enable"] == "true"
        assert settings["bootstrap.servers"] == HOST


def test_hooks_become_callbacks():
    hooks = Hooks(on_error=print, on_statistics=print, statistics_interval_ms=1_000)
    settings = consumer_config(ClientConfig(HOST), "app", hooks=hooks)
    assert settings["error_cb"] is print
    assert settings["stats_cb"] is print
    assert settings["statistics.interval.ms"] == 1_000
    assert "stats_cb" not in consumer_config(ClientConfig(HOST), "app")


def test_the_client_library_accepts_all_settings():
    config = ClientConfig(HOST, {"log_level": "0", "security.protocol": "PLAINTEXT"})
    for protocol in GroupProtocol:
        Consumer(consumer_config(config, "app", worker_id="w", protocol=protocol)).close()
    Consumer(reader_config(config)).close()
    for isolation in ("read_committed", "read_uncommitted"):
        Consumer(offsets_config(config, "app", isolation)).close()
    Producer(producer_config(config, "t"))
    Producer(producer_config(config, None))
    AdminClient(admin_config(config))
