"""What an application set in Faust's settings is honoured, refused, or named as without effect."""

from __future__ import annotations

import asyncio
import ssl
import threading

import faust
import pytest
from faust.auth import GSSAPICredentials, OAuthCredentials, SASLCredentials, SSLCredentials

from onceflow.engine import faust_settings as fs
from onceflow.engine.runtime import runtime_of
from onceflow.engine.transport import load_settings
from onceflow.errors import ConfigError


def app_with(**options):
    return faust.App("settings-test", broker="onceflow://localhost:1", **options)


def loaded(**options):
    app = app_with(**options)
    return load_settings(app, app.conf.broker)


def test_an_app_that_sets_nothing_gets_our_defaults():
    app = app_with()
    assert fs.translated(app) == {}
    assert fs.without_effect(app) == {}
    settings = load_settings(app, app.conf.broker)
    assert settings.commit_interval_ms == 100
    assert settings.session_timeout_ms == 10_000


def test_every_setting_of_the_tables_is_one_of_fausts():
    names = app_with().conf.SETTINGS
    assert {*fs.HONOURED, *fs.USED_BY_FAUST, *fs.WITHOUT_EFFECT} <= set(names)


def test_explicit_settings_become_ours():
    settings = loaded(
        broker_commit_interval=0.5,
        broker_commit_every=123,
        broker_session_timeout=30.0,
        broker_max_poll_records=500,
        stream_processing_timeout=40.0,
        consumer_group_instance_id="w1",
    )
    assert settings.commit_interval_ms == 500
    assert settings.commit_records == 123
    assert settings.session_timeout_ms == 30_000
    assert settings.run_records == 500
    assert settings.record_bound_s == 40
    assert settings.worker_id == "w1"


def test_a_value_equal_to_fausts_default_counts_when_it_was_written_down():
    assert loaded(broker_commit_interval=2.8).commit_interval_ms == 2800
    with pytest.warns(FutureWarning, match="broker_commit_interval"):
        assert loaded(commit_interval=2.8).commit_interval_ms == 2800


def test_the_environment_of_faust_counts(monkeypatch):
    monkeypatch.setenv("BROKER_COMMIT_INTERVAL", "1.5")
    assert loaded().commit_interval_ms == 1500


def test_a_configuration_source_counts():
    app = app_with()
    app.config_from_object({"broker_commit_interval": 0.25})
    assert load_settings(app, app.conf.broker).commit_interval_ms == 250


def test_a_value_changed_after_the_configuration_counts():
    app = app_with()
    app.conf.broker_commit_every = 77
    assert load_settings(app, app.conf.broker).commit_records == 77


def test_producer_settings_become_options_of_librdkafka():
    options = loaded(
        producer_linger=0.02,
        producer_compression_type="gzip",
        producer_max_request_size=2_000_000,
        producer_max_batch_size=32_768,
        broker_max_poll_interval=600.0,
        consumer_max_fetch_size=4_000_000,
        broker_check_crcs=False,
    ).kafka
    assert options == {
        "linger.ms": 20,
        "compression.type": "gzip",
        "message.max.bytes": 2_000_000,
        "batch.size": 32_768,
        "max.poll.interval.ms": 600_000,
        "max.partition.fetch.bytes": 4_000_000,
        "check.crcs": "false",
    }


def test_our_own_arguments_and_the_url_win_over_fausts():
    app = faust.App(
        "settings-test",
        broker="onceflow://localhost:1?commit_interval_ms=40",
        broker_commit_interval=9.0,
    )
    assert load_settings(app, app.conf.broker).commit_interval_ms == 40


def test_sasl_credentials_reach_librdkafka():
    options = loaded(
        broker_credentials=SASLCredentials(username="u", password="p", mechanism="SCRAM-SHA-512")
    ).kafka
    assert options == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "p",
    }


def test_kerberos_credentials_reach_librdkafka():
    options = loaded(broker_credentials=GSSAPICredentials(kerberos_service_name="k")).kafka
    assert options["sasl.kerberos.service.name"] == "k"
    assert options["sasl.mechanism"] == "GSSAPI"


def test_an_ssl_context_gives_its_trust_and_its_checks():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    expected = {
        "security.protocol": "SSL",
        "enable.ssl.certificate.verification": "false",
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert loaded(broker_credentials=SSLCredentials(context)).kafka == expected
    assert loaded(ssl_context=context).kafka == expected


def test_a_token_provider_is_asked_off_the_event_loop():
    threads = []

    class Provider:
        async def token(self):
            threads.append(threading.current_thread())
            await asyncio.sleep(0)
            return "secret"

    callback = loaded(broker_credentials=OAuthCredentials(oauth_cb=Provider())).kafka["oauth_cb"]

    async def as_librdkafka_may_call_it():
        return callback("")

    token, _ = asyncio.run(as_librdkafka_may_call_it())
    assert token == "secret"
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"producer_partitioner": lambda key, every, available: 0}, "producer_partitioner"),
        ({"consumer_auto_offset_reset": "none"}, "consumer_auto_offset_reset"),
    ],
)
def test_what_would_not_be_exactly_once_is_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        loaded(**options)


def test_classes_of_the_engine_cannot_be_replaced_unseen():
    class Stream(faust.Stream): ...

    with pytest.raises(ConfigError, match="Stream"):
        _ = app_with(Stream=Stream).conf.id


def test_settings_without_effect_are_named_with_the_reason():
    told = fs.without_effect(app_with(producer_acks=1, stream_wait_empty=False))
    assert set(told) == {"producer_acks", "stream_wait_empty"}


def test_the_replication_of_a_new_topic_is_the_brokers_unless_it_was_set():
    from onceflow.engine.declaring import replication_factor  # noqa: PLC0415 - one use

    assert replication_factor(app_with()) == -1
    assert replication_factor(app_with(), 3) == 3
    assert replication_factor(app_with(topic_replication_factor=1)) == 1
    assert runtime_of(app_with()).settings.kafka == {}
