"""Runs one worker of an app in this process, as ``faust -A module worker`` does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import faust
from mode.utils.imports import import_from_cwd, symbol_by_name
from mode.utils.logging import level_number

from onceflow.engine.faust_settings import tell_without_effect
from onceflow.engine.hosted import needs_group, use_group
from onceflow.engine.runtime import runtime_of
from onceflow.errors import ConfigError
from onceflow.observe import logs
from onceflow.observe.logs import LogFormat

if TYPE_CHECKING:
    from pathlib import Path

    from faust.types import AppT


class Worker(faust.Worker):
    """Faust's worker; its log lines are ours in form, unless the app configures logging itself."""

    def __init__(
        self,
        app: AppT,
        *services: Any,
        loglevel: str | int | None = None,
        logfile: Any = None,
        logging_config: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        tell_without_effect(app)
        if logging_config is None and not app.conf.logging_config:
            stream = open(logfile, "a", encoding="utf-8") if isinstance(logfile, str) else logfile  # noqa: PTH123, SIM115 - lives as long as the process
            level = logging.getLevelName(level_number(loglevel or "INFO"))
            log_format = LogFormat(runtime_of(app).settings.log_format.value)
            logging_config = logs.logging_config(level=level, log_format=log_format, stream=stream)
        super().__init__(
            app,
            *services,
            loglevel=loglevel,
            logfile=logfile,
            logging_config=logging_config,
            **options,
        )


def find_app(path: str) -> Any:
    """Import ``module:app`` from the working directory.

    Raises:
        ConfigError: no such module or attribute.
    """
    try:
        app = symbol_by_name(path if ":" in path else f"{path}:app", imp=import_from_cwd)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{path!r} cannot be imported: {error}. Nothing was started. Give the module and the "
            "app's name as in myproject.pipeline:app, from the directory it is importable from."
        ) from error
    return app


def run(
    app_path: str,
    *,
    datadir: Path | None = None,
    loglevel: str = "info",
    coordinator: str | None = None,
) -> int:
    """Run a worker until it is stopped; returns its exit code.

    Args:
        app_path: ``module:app``.
        datadir: where this worker keeps its state; the app's own setting when None.
        loglevel: of Faust's and our logs.
        coordinator: address of a group that is hosted for it, used if it needs one and names none.
    """
    app = find_app(app_path)
    if datadir is not None:
        app.conf.datadir = datadir
    if coordinator is not None and needs_group(app):
        use_group(app, coordinator)
    worker = app.Worker(loglevel=loglevel)
    try:
        worker.execute_from_commandline()
    except SystemExit as left:
        return int(left.code or 0)
    return 0
