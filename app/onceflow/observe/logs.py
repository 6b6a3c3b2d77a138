"""Logging: one pipeline for our events and for the lines of every library.

Our rooms log events with keys through ``get_logger``; Faust, mode, aiohttp and librdkafka log
sentences through the standard library. Both end in one handler: a JSON line each, or the same for
people on a terminal. Keys are an interface: ``ts level event logger`` on every line,
``worker_id incarnation task commit_epoch`` where they are known, durations end in ``_s``.

Secrets are hidden in every line, whoever wrote it. A line that cannot be rendered is rendered by
``str``; logging never raises into the code that logs.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO, cast

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter

from onceflow.observe.events import LogEvent
from onceflow.observe.redaction import HIDDEN, is_secret, redact

if TYPE_CHECKING:
    from collections.abc import Generator

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LIBRDKAFKA_LOGGER = "onceflow.kafka.librdkafka"
"""Name of the standard logger that Kafka clients get as ``logger=``."""

_QUIET_LIBRARIES = ("aiohttp.access", "asyncio", "aiokafka")
"""Libraries that log routine work at INFO or below; their warnings stay."""

_process_keys: dict[str, str] = {}
"""Keys of every line of the process, because threads do not inherit context variables."""


class LogFormat(StrEnum):
    """How lines look."""

    AUTO = "auto"
    """For people if the stream is a terminal, else JSON."""
    JSON = "json"
    CONSOLE = "console"


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module; pass ``__name__``.

    The first argument of each call is a ``LogEvent``; everything that varies goes into keys. It
    writes to the standard library's logger of that name, so that it needs no set-up of its own and
    leaves the set-up of a user who has structlog too as it is.
    """
    wrapped = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return cast("FilteringBoundLogger", wrapped)


def librdkafka_logger() -> logging.Logger:
    """Return the standard logger to pass to Kafka clients as ``logger=``."""
    return logging.getLogger(LIBRDKAFKA_LOGGER)


def bind_process(*, worker_id: str, incarnation: str) -> None:
    """Put the worker's id and incarnation on every line of the process, from any thread."""
    _process_keys["worker_id"] = worker_id
    _process_keys["incarnation"] = incarnation


@contextmanager
def bound(*, task: str | None = None, commit_epoch: int | None = None) -> Generator[None]:
    """Put a task's name or a commit epoch on the lines of this context, not on other threads'."""
    keys = {"task": task, "commit_epoch": commit_epoch}
    with structlog.contextvars.bound_contextvars(
        **{key: value for key, value in keys.items() if value is not None}
    ):
        yield


def configure(
    *,
    level: str = "INFO",
    log_format: LogFormat = LogFormat.AUTO,
    stream: TextIO | None = None,
) -> None:
    """Set up logging of the process; a second call replaces the first.

    Args:
        level: least level of a line: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        log_format: how lines look.
        stream: where they go; standard output if None.
    """
    target = sys.stdout if stream is None else stream
    logging.config.dictConfig(logging_config(level=level, log_format=log_format, stream=target))


def logging_config(
    *, level: str = "INFO", log_format: LogFormat = LogFormat.AUTO, stream: TextIO | None = None
) -> dict[str, object]:
    """Return the same set-up as a ``dictConfig``.

    Faust configures logging itself when a worker starts and drops every handler it finds; its
    setting ``logging_config`` takes this, so that its lines and ours stay in one pipeline.
    """
    target = sys.stdout if stream is None else stream
    for_people = log_format is LogFormat.CONSOLE or (
        log_format is LogFormat.AUTO and target.isatty()
    )
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=target.isatty())] if for_people else [_render_json]
    )
    quiet = {name: {"level": "WARNING"} for name in _QUIET_LIBRARIES}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "onceflow": {
                "()": ProcessorFormatter,
                "foreign_pre_chain": [*_shared(), _library_line],
                "processors": [
                    ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    _redact,
                    *render,
                ],
            }
        },
        "handlers": {
            "onceflow": {
                "class": "logging.StreamHandler",
                "formatter": "onceflow",
                "stream": target,
            }
        },
        "loggers": quiet,
        "root": {"level": level.upper(), "handlers": ["onceflow"]},
    }


def _shared() -> list[Processor]:
    """Steps that our lines and the libraries' have in common."""
    return [
        structlog.contextvars.merge_contextvars,
        _process_context,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]


def _process_context(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    for key, value in _process_keys.items():
        line.setdefault(key, value)
    return line


def _library_line(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Move a library's sentence out of ``event``, which holds constants only."""
    line["message"] = line["event"]
    line["event"] = LogEvent.LIBRARY_LOG.value
    return line


def _redact(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    for key, value in line.items():
        line[key] = HIDDEN if is_secret(key) else redact(value)
    return line


_ORDER = ("ts", "level", "event", "logger")


def _render_json(_: WrappedLogger, __: str, line: EventDict) -> str:
    ordered = {key: line.pop(key) for key in _ORDER if key in line}
    return orjson.dumps({**ordered, **line}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
