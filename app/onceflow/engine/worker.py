"""Runs one worker of an app in this process, as ``faust -A module worker`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mode.utils.imports import import_from_cwd, symbol_by_name

from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


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


def run(app_path: str, *, datadir: Path | None = None, loglevel: str = "info") -> int:
    """Run a worker until it is stopped; returns its exit code.

    Args:
        app_path: ``module:app``.
        datadir: where this worker keeps its state; the app's own setting when None.
        loglevel: of Faust's and our logs.
    """
    app = find_app(app_path)
    if datadir is not None:
        app.conf.datadir = datadir
    worker = app.Worker(loglevel=loglevel)
    try:
        worker.execute_from_commandline()
    except SystemExit as left:
        return int(left.code or 0)
    return 0
