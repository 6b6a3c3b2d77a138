"""The transport behind ``onceflow://``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from faust.transport.base import Transport as FaustTransport

from onceflow.engine.conductor import Conductor
from onceflow.engine.consumer import Consumer
from onceflow.engine.faust_settings import translated
from onceflow.engine.producer import Producer
from onceflow.engine.replies import ReplyConsumer
from onceflow.engine.runtime import Runtime
from onceflow.settings import Settings, settings_file, url_arguments

if TYPE_CHECKING:
    from faust.types import AppT
    from yarl import URL

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
    arguments = translated(app)
    for part in url:
        arguments.update(url_arguments(str(part)))
    arguments.update(cast("Any", app).__dict__.get("onceflow_arguments", {}))
    return Settings.load(arguments, os.environ, settings_file(os.environ, Path.cwd()))
