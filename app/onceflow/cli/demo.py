"""``onceflow demo``: the main job on real data, with kills on the way and a verdict at the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from onceflow.errors import OnceflowError

app = typer.Typer()


class Break(StrEnum):
    """How a run is broken on purpose."""

    DROP = "drop"
    DOUBLE = "double"
    STALE = "stale"


@app.command()
def demo(
    *,
    breakage: Annotated[
        Break | None,
        typer.Option("--break", help="Break the run on purpose; it must end as FAILED."),
    ] = None,
    flights: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many flights; all by default.")
    ] = None,
    kills: Annotated[int, typer.Option(min=0, help="Workers killed by SIGKILL on the way.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Worker processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the flights' disorder.")] = 2013,
) -> None:
    """Process a year of flights exactly once while workers are killed, and verify every result.

    The last line is VERIFIED or FAILED; the exit code is 0 only if verified.
    """
    from onceflow.demo.run import Plan, run_demo  # noqa: PLC0415 - quick --help
    from onceflow.demo.sabotage import Breakage  # noqa: PLC0415

    plan = Plan(
        flights=flights,
        kills=kills,
        workers=workers,
        breakage=None if breakage is None else Breakage(breakage.value),
        seed=seed,
    )
    try:
        outcome = run_demo(plan)
    except OnceflowError as error:
        # A verdict is the last line, whatever happened.
        typer.echo(f"onceflow: {error}", err=True)
        typer.echo("FAILED the run did not come to its end")
        raise typer.Exit(error.exit_code) from error
    typer.echo(outcome.verdict())
    raise typer.Exit(0 if outcome.verified else 1)
