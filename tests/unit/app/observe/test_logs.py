"""Every line, whoever wrote it, has the promised keys and no secret."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest

from onceflow.observe import logs
from onceflow.observe.events import LogEvent
from onceflow.observe.redaction import is_secret, redact, redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(logs, "_process_keys", {})
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    out = io.StringIO()
    logs.configure(log_format=logs.LogFormat.JSON, stream=out)
    yield out
    root.handlers[:], level = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_promised_keys(stream: io.StringIO) -> None:
    logs.bind_process(worker_id="worker-1", incarnation="f00d")
    with logs.bound(task="4_0", commit_epoch=7):
        logs.get_logger("onceflow.engine.app").info(LogEvent.TASK_RUNNING, duration_s=0.5)
    logs.get_logger("onceflow.engine.app").warning(LogEvent.EPOCH_ABORTED)
    first, second = lines(stream)
    assert list(first)[:4] == ["ts", "level", "event", "logger"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first["ts"])
    assert first["event"] == "task_running"
    assert first["logger"] == "onceflow.engine.app"
    assert (first["task"], first["commit_epoch"], first["duration_s"]) == ("4_0", 7, 0.5)
    assert "task" not in second
    assert second["worker_id"] == "worker-1"
    assert second["incarnation"] == "f00d"


def test_other_threads_carry_the_process_keys_but_not_the_tasks(stream: io.StringIO) -> None:
    logs.bind_process(worker_id="worker-1", incarnation="f00d")
    log = logs.get_logger("onceflow.kafka.poll")
    with logs.bound(task="4_0"):
        thread = threading.Thread(target=log.info, args=(LogEvent.WORKER_STARTED,))
        thread.start()
        thread.join()
    (line,) = lines(stream)
    assert line["worker_id"] == "worker-1"
    assert "task" not in line


def test_a_librarys_sentence_is_a_message_under_a_constant_event(stream: io.StringIO) -> None:
    logging.getLogger("faust.app").warning("Joined %s with kafka://u:hunter2@h:9092", "group")
    logs.librdkafka_logger().error("FAIL [thrd:app]: sasl.password=hunter2 refused")
    faust, librdkafka = lines(stream)
    assert faust["event"] == librdkafka["event"] == "library_log"
    assert faust["message"] == "Joined group with kafka://u:***@h:9092"
    assert librdkafka["logger"] == "onceflow.kafka.librdkafka"
    assert "hunter2" not in stream.getvalue()


def test_an_exceptions_text_is_redacted(stream: io.StringIO) -> None:
    try:
        int("token: hunter2")
    except ValueError:
        logs.get_logger("x").exception(LogEvent.WORKER_FAILED)
    (line,) = lines(stream)
    assert "token: ***" in line["exception"]
    assert "hunter2" not in line["exception"]
    assert line["level"] == "error"


def test_below_the_level_nothing_is_written(stream: io.StringIO) -> None:
    logs.get_logger("x").debug(LogEvent.WORKER_STARTED)
    logging.getLogger("aiohttp.access").info("GET /metrics")
    assert stream.getvalue() == ""


def test_what_json_does_not_know_is_written_as_text(stream: io.StringIO) -> None:
    logs.get_logger("x").info(LogEvent.WORKER_STARTED, odd=object(), raw=b"\xff", keys={1: 2})
    (line,) = lines(stream)
    assert line["odd"].startswith("<object object")
    assert line["keys"] == {"1": 2}


def test_for_people_the_event_stands_first_and_is_no_json(stream: io.StringIO) -> None:
    out = io.StringIO()
    logs.configure(log_format=logs.LogFormat.CONSOLE, stream=out)
    logs.get_logger("x").info(LogEvent.WORKER_STARTED, password="hunter2")
    assert "worker_started" in out.getvalue()
    assert "hunter2" not in out.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())


def test_a_configuration_for_faust_keeps_the_pipeline(stream: io.StringIO) -> None:
    out = io.StringIO()
    config = logs.logging_config(log_format=logs.LogFormat.JSON, stream=out)
    logging.getLogger().handlers.clear()
    logging.config.dictConfig(config)
    logging.getLogger("faust").error("late")
    assert lines(out)[0]["message"] == "late"


def test_event_names_are_snake_case_constants() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", event.value) for event in LogEvent)
    assert all(event.value == event.name.lower() for event in LogEvent)


@pytest.mark.parametrize(
    "name",
    [
        *("sasl.password", "SASL_PASSWORD", "ONCEFLOW_KAFKA__ssl.key.password", "client_secret"),
        *("ssl.key.pem", "ssl_key_location", "oauth_token", "sasl.mechanism", "api-key"),
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["topic", "key", "partition", "bootstrap.servers", "task"])
def test_ordinary_names_are_not_secret(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kafka://user:hunter2@host:9092/x", "kafka://user:***@host:9092/x"),
        ("postgresql://:hunter2@h", "postgresql://:***@h"),
        ("kafka://host:9092", "kafka://host:9092"),
        ("sasl.password=hunter2, x=1", "sasl.password=***, x=1"),
        ("{'ssl.key.password': 'hunter 2', 'x': 1}", "{'ssl.key.password': ***, 'x': 1}"),
        ('{"client_secret":"hunter2"}', '{"client_secret":***}'),
        ("mail to a@b.c", "mail to a@b.c"),
        ("-----BEGIN PRIVATE KEY-----\nMIIhunter2\n-----END PRIVATE KEY-----\nrest", "***\nrest"),
    ],
)
def test_secrets_within_texts_are_hidden(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_secrets_in_nested_values_are_hidden() -> None:
    value = {"client": [{"sasl.password": "hunter2"}, ("kafka://u:hunter2@h", b"token=hunter2")]}
    assert redact(value) == {"client": [{"sasl.password": "***"}, ["kafka://u:***@h", "token=***"]]}
    deep: object = "hunter2"
    for _ in range(20):
        deep = [deep]
    assert "hunter2" not in str(redact(deep))


def test_a_large_text_without_spaces_is_searched_in_linear_time() -> None:
    begun_s = time.perf_counter()
    redact_text("token" + "a" * 500_000)
    assert time.perf_counter() - begun_s < 2.0
