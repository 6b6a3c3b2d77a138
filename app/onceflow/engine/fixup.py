"""Switches the engine on for every Faust app whose broker is ``onceflow://``, and for no other."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from faust.fixups.base import Fixup as FaustFixup
from faust.types.enums import ProcessingGuarantee

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from faust.types import AppT

SCHEME = "onceflow"
FAUST_FIRST, FAUST_END = (0, 15, 3), (0, 16)
"""Faust's internals move between minor releases; this range is the tested one."""


class Fixup(FaustFixup):
    """Loaded by Faust for every app; acts only on ours."""

    def __init__(self, app: AppT) -> None:
        super().__init__(app)
        cast("Any", app).on_configured.connect(self._on_configured)

    def enabled(self) -> bool:
        """Return True: whether the app is ours is known only when it is configured."""
        return True

    def _on_configured(self, app: Any, conf: Any, *_: Any, **__: Any) -> None:
        if conf.broker and conf.broker[0].scheme == SCHEME:
            install(app, conf)


def install(app: AppT, conf: Any) -> None:
    """Put the engine's classes in place of Faust's.

    Raises:
        ConfigError: another Faust than the tested range, or an app whose parts are spread over
            several kinds of brokers.
    """
    from onceflow.engine.agent import Agent  # noqa: PLC0415 - only apps of ours load the engine
    from onceflow.engine.consumer import TableManager  # noqa: PLC0415
    from onceflow.engine.faust_settings import check_classes, has_worker_class  # noqa: PLC0415
    from onceflow.engine.global_tables import GlobalTable  # noqa: PLC0415
    from onceflow.engine.router import Router  # noqa: PLC0415
    from onceflow.engine.sets import SetGlobalTable, SetTable  # noqa: PLC0415
    from onceflow.engine.stream import Stream  # noqa: PLC0415
    from onceflow.engine.tables import Table  # noqa: PLC0415
    from onceflow.engine.topic import Topic  # noqa: PLC0415
    from onceflow.engine.worker import Worker  # noqa: PLC0415

    check_classes(app)
    check_faust(version("faust-streaming"))
    for brokers in (conf.broker_consumer, conf.broker_producer):
        if any(url.scheme != SCHEME for url in brokers):
            raise ConfigError(
                f"The app consumes from {conf.broker_consumer} and produces to "
                f"{conf.broker_producer}: one transaction cannot span two kinds of brokers. "
                "Nothing was consumed. Use one onceflow:// URL as broker."
            )
    conf.Agent, conf.Stream, conf.Topic = Agent, Stream, Topic
    conf.Table, conf.GlobalTable = Table, GlobalTable
    conf.SetTable, conf.SetGlobalTable = SetTable, SetGlobalTable
    conf.TableManager, conf.Router = TableManager, Router
    conf.processing_guarantee = ProcessingGuarantee.EXACTLY_ONCE
    conf.stream_publish_on_commit = False
    conf.producer_threaded = False
    if not has_worker_class(app):
        conf.Worker = Worker


def check_faust(installed: str) -> None:
    """Refuse a Faust that the engine was not tested with.

    Raises:
        ConfigError: its version is out of range; nothing was consumed.
    """
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    if not FAUST_FIRST <= numbers < FAUST_END:
        raise ConfigError(
            f"faust-streaming {installed} is installed, and the engine works with "
            ">=0.15.3,<0.16: it replaces parts of Faust that change between minor releases, so "
            "another version could lose or double records. Nothing was consumed. Run: "
            "pip install 'faust-streaming>=0.15.3,<0.16'"
        )
