"""``onceflow dev``: a local Kafka and workers of an application, under one command."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from onceflow.cli.worker import AppPath, LogLevel, LogLevelOption, Processes

app = typer.Typer()

PORT = 9092
"""Kafka's customary port, which an application's broker URL is likely to name."""


@app.command()
def dev(
    app_path: AppPath,
    *,
    processes: Processes = None,
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Port of Kafka; your broker URL names it.")
    ] = PORT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Start a local Kafka and workers of an application on it; Ctrl-C stops both.

    Kafka's data is kept for the next time. With ONCEFLOW_BROKER set, the Kafka that runs there is
    used instead, and none is started.

    Example: onceflow dev shop:app
    """
    from onceflow.cli.effective import effective_settings  # noqa: PLC0415 - quick --help
    from onceflow.localkafka.cluster import LocalKafka  # noqa: PLC0415
    from onceflow.localkafka.detached import directory_for  # noqa: PLC0415
    from onceflow.supervisor.child import Fleet  # noqa: PLC0415
    from onceflow.supervisor.fleet import supervise_hosted  # noqa: PLC0415

    settings = effective_settings(processes=processes)
    with LocalKafka(directory_for(None, port), port=port, progress=_tell) as kafka:
        _tell(f"Kafka answers at {kafka.bootstrap}")
        # Kafka outlives the workers' drain, which needs it.
        code = supervise_hosted(Fleet(app_path, log_level, settings, os.environ))
    raise typer.Exit(code)


def _tell(step: str) -> None:
    typer.echo(f"onceflow dev: {step}", err=True)
