"""``onceflow worker``: run workers of an application, one in this process or several below it."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from onceflow.limits import WORKER_PROCESSES_MAX

app = typer.Typer()

AppPath = Annotated[
    str, typer.Argument(metavar="MODULE:APP", help="The application, as in shop:app.")
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        "-p",
        min=1,
        max=WORKER_PROCESSES_MAX,
        help="Worker processes, each with a data directory and ports of its own; 1 by default.",
    ),
]


class LogLevel(StrEnum):
    """Least severity of what is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", "-l", help="Least severity of what is logged.")
]


@app.command()
def worker(
    app_path: AppPath, *, processes: Processes = None, log_level: LogLevelOption = LogLevel.INFO
) -> None:
    """Run workers of an application until SIGTERM or Ctrl-C, which drain and commit.

    With more than one process they are supervised: restarted with back-off, stopped together.

    Example: onceflow worker shop:app --processes 4
    """
    from onceflow.cli.effective import effective_settings  # noqa: PLC0415 - quick --help

    settings = effective_settings(processes=processes)
    if settings.processes == 1:
        from onceflow.supervisor.alone import run_alone  # noqa: PLC0415

        raise typer.Exit(run_alone(app_path, log_level))

    from onceflow.supervisor.child import Fleet  # noqa: PLC0415
    from onceflow.supervisor.fleet import supervise_hosted  # noqa: PLC0415

    raise typer.Exit(supervise_hosted(Fleet(app_path, log_level, settings, os.environ)))
