"""The settings: precedence, sources, validation and masking, on inputs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from onceflow.decisions.crash_points import CrashPoint
from onceflow.errors import ConfigError
from onceflow.settings import (
    MASK,
    CrashAt,
    Explained,
    GroupProtocol,
    HttpAddress,
    LogFormat,
    OnError,
    OnRetriesExhausted,
    Settings,
    Source,
    settings_file,
    url_arguments,
)

if TYPE_CHECKING:
    from pathlib import Path


def load(
    arguments: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    return Settings.load(arguments or {}, environ or {}, file)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "onceflow.toml"
    path.write_text(
        'commit_interval_ms = 300\nretries_max = 7\non_error = "stop"\n'
        '[kafka]\nsecurity.protocol = "SSL"\n"linger.ms" = 3\n'
    )
    return path


def test_defaults_are_those_of_the_design():
    settings = load()
    expected = {
        "commit_interval_ms": 100,
        "commit_records": 100_000,
        "commit_bytes": 64 * 1024 * 1024,
        "on_error": OnError.RETRY,
        "on_retries_exhausted": OnRetriesExhausted.DEAD_LETTER,
        "retries_max": 3,
        "retry_backoff_ms": 100,
        "record_bound_s": 15,
        "revoke_bound_s": 5,
        "session_timeout_ms": 10_000,
        "worker_id": None,
        "group_protocol": GroupProtocol.CLASSIC,
        "http": "127.0.0.1:9464",
        "state_memory_bytes": 256 * 1024 * 1024,
        "in_flight_records": 200_000,
        "in_flight_bytes": 128 * 1024 * 1024,
        "run_records": 2_000,
        "coordinator": None,
        "coordinator_cluster": "onceflow",
        "coordinator_tls": None,
        "coordinator_token_file": None,
        "log_format": LogFormat.AUTO,
        "processes": 1,
        "crash_point": None,
        "kafka": {},
    }
    assert settings.model_dump() == expected
    assert {settings.source(name) for name in expected} == {Source.DEFAULT}


def test_precedence_is_arguments_environment_file_default(toml: Path):
    settings = load(
        {"commit_interval_ms": 20},
        {"ONCEFLOW_COMMIT_INTERVAL_MS": "200", "ONCEFLOW_RETRIES_MAX": "5"},
        toml,
    )
    assert (settings.commit_interval_ms, settings.source("commit_interval_ms")) == (
        20,
        Source.ARGUMENT,
    )
    assert (settings.retries_max, settings.source("retries_max")) == (5, Source.ENVIRONMENT)
    assert (settings.on_error, settings.source("on_error")) == (OnError.STOP, Source.FILE)
    assert settings.source("run_records") is Source.DEFAULT


def test_kafka_options_merge_one_by_one(toml: Path):
    settings = load(
        {"kafka": {"linger.ms": 5}},
        {
            "ONCEFLOW_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "ONCEFLOW_KAFKA__SASL_USERNAME": "me",
        },
        toml,
    )
    assert settings.kafka == {
        "security.protocol": "SASL_SSL",
        "linger.ms": 5,
        "sasl.username": "me",
    }
    assert settings.source("kafka.linger.ms") is Source.ARGUMENT
    assert settings.source("kafka.security.protocol") is Source.ENVIRONMENT


def test_url_query_counts_as_arguments():
    url = "onceflow://host:9092?commit_interval_ms=50&kafka.security.protocol=SSL&on_error=skip"
    settings = load(url_arguments(url), {"ONCEFLOW_COMMIT_INTERVAL_MS": "70"})
    assert settings.commit_interval_ms == 50
    assert settings.source("commit_interval_ms") is Source.ARGUMENT
    assert settings.on_error is OnError.SKIP
    assert settings.kafka == {"security.protocol": "SSL"}
    assert url_arguments("onceflow://host:9092") == {}


def test_url_setting_given_twice_is_refused():
    with pytest.raises(ConfigError, match="retries_max twice"):
        url_arguments("onceflow://h?retries_max=1&retries_max=2")


def test_transaction_timeout_is_twice_the_record_bound():
    assert load().transaction_timeout_ms == 30_000
    assert load({"record_bound_s": 0.5}).transaction_timeout_ms == 1_000


def test_sizes_are_readable_by_people():
    assert load({}, {"ONCEFLOW_STATE_MEMORY_BYTES": "512MiB"}).state_memory_bytes == 512 * 1024**2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit_interval_ms", 0),
        ("commit_interval_ms", "soon"),
        ("commit_records", 0),
        ("commit_bytes", 5),
        ("on_error", "ignore"),
        ("on_retries_exhausted", "retry"),
        ("retries_max", -1),
        ("retry_backoff_ms", -1),
        ("record_bound_s", 451),
        ("record_bound_s", 0),
        ("revoke_bound_s", 0),
        ("session_timeout_ms", 100),
        ("worker_id", "has space"),
        ("worker_id", ""),
        ("group_protocol", "share"),
        ("http", "9464"),
        ("http", ":9464"),
        ("http", "host:99999"),
        ("state_memory_bytes", "1KiB"),
        ("in_flight_records", 0),
        ("in_flight_bytes", 0),
        ("run_records", 0),
        ("log_format", "xml"),
        ("processes", 0),
        ("crash_point", ":2"),
        ("crash_point", "before_lunch"),
        ("crash_point", "before_flush:0"),
        ("kafka", "security.protocol"),
    ],
)
def test_wrong_value_is_refused_by_name(name: str, value: object):
    with pytest.raises(ConfigError, match=name) as caught:
        load({name: value})
    assert caught.value.exit_code == 2


def test_all_wrong_values_are_named_at_once_with_their_source():
    with pytest.raises(ConfigError) as caught:
        load({"retries_max": -1}, {"ONCEFLOW_RUN_RECORDS": "none"})
    message = str(caught.value)
    assert "retries_max = -1 (argument)" in message
    assert "run_records = 'none' (environment)" in message
    assert "nothing was started" in message


def test_interval_beyond_the_record_bound_is_refused():
    with pytest.raises(ConfigError, match="must not exceed record_bound_s"):
        load({"commit_interval_ms": 2_000, "record_bound_s": 1})


def test_run_larger_than_the_bound_in_flight_is_refused():
    with pytest.raises(ConfigError, match="no run would fit"):
        load({"run_records": 11, "in_flight_records": 10})


def test_unknown_setting_is_refused_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="Did you mean commit_interval_ms"):
        load({"commit_intervall_ms": 1})
    file = tmp_path / "x.toml"
    file.write_text("zzz = 1")
    with pytest.raises(ConfigError, match="no setting zzz"):
        load(file=file)


def test_misspelt_variable_is_refused_and_foreign_ones_are_left_alone():
    with pytest.raises(ConfigError, match="Did you mean retries_max"):
        load({}, {"ONCEFLOW_RETRIES_MAXX": "1"})
    foreign = {
        "ONCEFLOW_SERVICE_HOST": "10.0.0.1",
        "ONCEFLOW_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        "ONCEFLOW_BROKER": "localhost:9092",
        "ONCEFLOW_FILE": "onceflow.toml",
        "RETRIES_MAX": "9",
    }
    assert load({}, foreign).model_dump() == load().model_dump()


def test_secrets_are_masked_everywhere():
    settings = load(
        {"kafka": {"sasl.password": "hunter2", "ssl.key.pem": "hunter2", "sasl.username": "me"}}
    )
    shown = {row.name: row.value for row in settings.explain()}
    assert shown["kafka.sasl.password"] == shown["kafka.ssl.key.pem"] == MASK
    assert shown["kafka.sasl.username"] == "me"
    assert "hunter2" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load({"kafka": {"sasl.password": "hunter2"}, "retries_max": -1})
    assert "hunter2" not in str(caught.value)


def test_explain_names_every_setting_with_source_and_meaning():
    rows = load({"kafka": {"oauth_cb": print}}, {"ONCEFLOW_HTTP": "off"}).explain()
    by_name = {row.name: row for row in rows}
    assert set(by_name) >= set(Settings.model_fields) - {"kafka"}
    assert all(row.doc for row in rows)
    assert by_name["http"][:3] == ("http", "off", Source.ENVIRONMENT)
    assert by_name["transaction_timeout_ms"].source is Source.DERIVED
    assert by_name["kafka.oauth_cb"].value == "<builtin_function_or_method>"
    assert by_name["commit_bytes"].value == "67108864 (64.0MiB)"
    assert by_name["worker_id"] == Explained(
        "worker_id", "", Source.DEFAULT, by_name["worker_id"].doc
    )


def test_http_address_tells_explicit_from_default():
    assert load().http_address == HttpAddress("127.0.0.1", 9464)
    assert not load().is_explicit("http")
    settings = load({}, {"ONCEFLOW_HTTP": "[::1]:0"})
    assert settings.http_address == HttpAddress("::1", 0)
    assert settings.is_explicit("http")
    assert load({"http": "off"}).http_address is None


def test_coordinator_is_a_list_of_addresses_which_are_checked():
    given = {"coordinator": "10.0.0.1:7401, [::1]:7402", "coordinator_cluster": "blue"}
    settings = load(given | {"coordinator_tls": "tls", "coordinator_token_file": "token"})
    assert settings.coordinator == "10.0.0.1:7401, [::1]:7402"
    assert (settings.coordinator_cluster, settings.coordinator_tls) == ("blue", "tls")
    assert settings.coordinator_token_file == "token"
    assert load().coordinator is None
    for wrong in ("", "host", "host:1,", "host:99999"):
        with pytest.raises(ConfigError, match="coordinator"):
            load({"coordinator": wrong})


def test_crash_point_counts_passings_from_one():
    assert load().crash_at is None
    assert load({"crash_point": "before_flush"}).crash_at == CrashAt(CrashPoint.BEFORE_FLUSH, 1)
    assert load({"crash_point": "before_flush:3"}).crash_at == CrashAt(CrashPoint.BEFORE_FLUSH, 3)


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        load().processes = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_unreadable_file_is_a_configuration_error(tmp_path: Path):
    file = tmp_path / "onceflow.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file=file)
    file.write_text("= nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file=file)


def test_file_is_found_by_variable_then_by_name(tmp_path: Path):
    assert settings_file({}, tmp_path) is None
    (tmp_path / "onceflow.toml").touch()
    (tmp_path / "other.toml").touch()
    assert settings_file({}, tmp_path) == tmp_path / "onceflow.toml"
    assert settings_file({"ONCEFLOW_FILE": "other.toml"}, tmp_path) == tmp_path / "other.toml"
    with pytest.raises(ConfigError, match=r"ONCEFLOW_FILE names missing\.toml"):
        settings_file({"ONCEFLOW_FILE": "missing.toml"}, tmp_path)
