"""The transport behind ``onceflow://``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from faust.transport.base import Transport as FaustTransport

from onceflow.engine.conductor import Conductor
from onceflow.engine.consumer import Consumer
from onceflow.engine.producer import Producer
from onceflow.engine.replies import ReplyConsumer
from onceflow.engine.runtime import Runtime
from onceflow.settings import Settings

if TYPE_CHECKING:
    from faust.types import AppT
    from yarl import URL

SETTINGS_FILE = "onceflow.toml"
DEFAULT_PORT = 9092


class Transport(FaustTransport):
    """Makes the engine's services, and the one `Runtime` that they share."""

    Consumer = Consumer
    Producer = Producer
    Conductor = Conductor
    default_port = DEFAULT_PORT
    driver_version = "onceflow"

    def __init__(self, url: list[URL], app: AppT, loop: Any = None) -> None:
        super().__init__(url, app, loop)
        servers = ",".join(f"{u.host or 'localhost'}:{u.port or DEFAULT_PORT}" for u in url)
        self.runtime = Runtime(app, servers, load_settings(app, url))
        cast("Any", app)._reply_consumer = ReplyConsumer(app, beacon=app.beacon)  # noqa: SLF001 - Faust names no class

    def create_transaction_manager(self, consumer: Any, producer: Any, **options: Any) -> Any:
        """Return the producer: one transaction per worker needs no manager beside it."""
        del consumer, options
        return producer


def load_settings(app: AppT, url: list[URL]) -> Settings:
    """Merge the app's arguments, its broker URL, the environment and the file.

    Raises:
        ConfigError: every wrong setting at once, with its source.
    """
    arguments: dict[str, object] = {}
    conf = cast("Any", app).conf
    if conf.broker_commit_interval != _FAUST_COMMIT_INTERVAL_S:
        arguments["commit_interval_ms"] = int(conf.broker_commit_interval * 1000)
    if conf.broker_commit_every != _FAUST_COMMIT_EVERY:
        arguments["commit_records"] = conf.broker_commit_every
    if conf.broker_session_timeout != _FAUST_SESSION_TIMEOUT_S:
        arguments["session_timeout_ms"] = int(conf.broker_session_timeout * 1000)
    for part in url:
        arguments.update(parse_qsl(part.query_string))
    arguments.update(cast("Any", app).__dict__.get("onceflow_arguments", {}))
    named = os.environ.get("ONCEFLOW_FILE")
    file = Path(named) if named else Path(SETTINGS_FILE)
    return Settings.load(arguments, os.environ, file if named or file.exists() else None)


_FAUST_COMMIT_INTERVAL_S = 2.8
_FAUST_COMMIT_EVERY = 10_000
_FAUST_SESSION_TIMEOUT_S = 60.0
"""Faust's defaults: a value that differs was set by the user and is honoured."""
