"""``onceflow config``: the effective settings, and where each came from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer()


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"


@app.command()
def config(
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add where each value came from and what it means.")
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the result.")] = (
        Output.TABLE
    ),
) -> None:
    """Show the effective settings of this directory and environment; secrets are masked.

    Example: onceflow config --explain -o json
    """
    import orjson  # noqa: PLC0415 - quick --help
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from onceflow.cli.effective import effective_settings  # noqa: PLC0415

    columns = ("name", "value", "source", "doc") if explain else ("name", "value")
    rows = [
        {column: row._asdict()[column] for column in columns}
        for row in effective_settings().explain()
    ]
    if output is Output.JSON:
        typer.echo(orjson.dumps(rows).decode())
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    Console().print(table)
