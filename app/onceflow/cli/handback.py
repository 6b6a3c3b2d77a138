"""``onceflow handback``: make the changelogs of an application readable for stock Faust."""

from __future__ import annotations

import asyncio

import typer

from onceflow.cli.worker import AppPath  # noqa: TC001 - typer reads annotations

app = typer.Typer()


@app.command()
def handback(app_path: AppPath) -> None:
    """Prepare the changelogs of a stopped application for going back to stock Faust.

    Stop all workers, run this, change the broker's URL back, start. Input offsets need nothing.
    """
    from onceflow.engine.handback import hand_back  # noqa: PLC0415 - the engine loads Faust
    from onceflow.engine.worker import find_app  # noqa: PLC0415

    for partition, records in asyncio.run(hand_back(find_app(app_path))):
        typer.echo(f"{partition.topic}[{partition.number}]: {records} records added")
