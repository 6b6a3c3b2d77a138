"""``onceflow.App``: a Faust app that is exactly-once, with our settings as arguments."""

from __future__ import annotations

from typing import Any

import faust

from onceflow.engine.aggregates import WindowedAggregate
from onceflow.errors import ConfigError
from onceflow.settings import Settings

_SCHEMES = ("kafka", "aiokafka", "confluent")


class App(faust.App):
    """A `faust.App` whose outputs, state and input offsets commit in one Kafka transaction.

    Takes Faust's arguments and those of `onceflow.settings.Settings` (``commit_interval_ms``,
    ``on_error`` ...). The broker may be given as ``onceflow://host:port``, ``kafka://host:port`` or
    ``host:port``.

    Raises:
        ConfigError: an argument is unknown or wrong; nothing was consumed.
    """

    def __init__(self, id: str, **options: Any) -> None:  # noqa: A002 - Faust's argument
        self.onceflow_arguments = {
            name: options.pop(name) for name in list(options) if name in Settings.model_fields
        }
        options["broker"] = _broker(options.get("broker", "onceflow://localhost:9092"))
        super().__init__(id, **options)

    def agent(self, channel: Any = None, *, on_error: str | None = None, **options: Any) -> Any:
        """Declare an agent, as `faust.App.agent` does.

        Args:
            channel: the topic, its name or a channel.
            on_error: what becomes of a record on which this agent fails: ``"retry"``,
                ``"dead_letter"``, ``"stop"`` or ``"skip"``; None: as the setting ``on_error`` says.
            options: Faust's own.

        Raises:
            ConfigError: there is no such policy; nothing was consumed.
        """
        return super().agent(channel, error_policy=on_error, **options)

    def windowed_aggregate(self, name: str, windows: Any, **options: Any) -> WindowedAggregate:
        """Declare a columnar windowed aggregate for batch agents; see `WindowedAggregate`."""
        return WindowedAggregate(self, name, windows, **options)


def _broker(broker: Any) -> Any:
    if isinstance(broker, (list, tuple)):
        return [_broker(one) for one in broker]
    text = str(broker)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return f"onceflow://{text}"
    if scheme in _SCHEMES:
        return f"onceflow://{rest}"
    if scheme != "onceflow":
        raise ConfigError(
            f"The broker URL {text!r} is none of Kafka. Nothing was consumed. Use "
            "onceflow://host:port."
        )
    return text
