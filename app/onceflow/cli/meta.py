"""``onceflow meta``: run members of a replicated group, look at them, and change the group.

Rules of this file: results go to standard output, talk to standard error; errors are raised and
become exit codes where the commands are mounted. The group's own rooms are imported only when a
command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from onceflow.cli import meta_kv, meta_members
from onceflow.cli.meta_options import Connection, Output, OutputOption, Serving
from onceflow.cli.option_groups import with_options

if TYPE_CHECKING:
    from onceflow.cli.meta_asking import Asker
    from onceflow_consensus.transport.requests import Done

app = typer.Typer(
    help="The replicated group: members, state, backup.",
    no_args_is_help=True,
    epilog="Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 the group does not answer, "
    "4 data at risk: do not restart blindly.",
)
_Target = Annotated[Path, typer.Argument(help="Where to write it; must not exist.")]
_Source = Annotated[Path, typer.Argument(help="A file of 'meta backup'.")]

app.add_typer(meta_members.app, name="members")
app.add_typer(meta_kv.app, name="kv")


@app.command()
@with_options(Serving)
def serve(serving: Serving) -> None:
    """Run a member until SIGTERM or Ctrl-C.

    Without --member it is a group of one, for development. Three or five members are a group that
    survives the loss of one or two.

    Example: onceflow meta serve --id 1 --dir data/meta --member 1=10.0.0.1:7400,10.0.0.1:7401
    --member 2=10.0.0.2:7400,10.0.0.2:7401 --member 3=10.0.0.3:7400,10.0.0.3:7401
    """
    from onceflow.cli.meta_serve import run_member  # noqa: PLC0415 - quick --help

    run_member(serving.to_options(), serving.http, serving.trace)


@app.command()
@with_options(Connection)
def status(connection: Connection, output: OutputOption = Output.TABLE) -> None:
    """Show how the first member that answers sees itself and the group; 3 if none answers.

    Example: onceflow meta status --endpoints 10.0.0.1:7401 -o json
    """
    found = meta_members.ask_status(connection)
    if output is Output.JSON:
        typer.echo(orjson.dumps(found).decode())
        return
    for name, value in found.items():
        if name not in ("members", "metrics"):
            typer.echo(f"{name:<16}{value}")
    meta_members.show(found)


@app.command()
@with_options(Connection)
def transfer(
    connection: Connection,
    peer_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="Who shall lead.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Hand leadership to another member, within milliseconds and without losing anything.

    Example: onceflow meta transfer 2
    """
    from onceflow.cli.meta_asking import REQUEST_ID, run  # noqa: PLC0415 - quick --help
    from onceflow_consensus.transport.requests import Done, Transfer  # noqa: PLC0415

    async def ask(asker: Asker) -> Done:
        return await asker.ask(Transfer(REQUEST_ID, peer_id), Done)

    run(connection, ask)
    if output is Output.JSON:
        typer.echo(orjson.dumps({"leader": peer_id}).decode())
    else:
        typer.echo(f"member {peer_id} leads")


@app.command()
@with_options(Connection)
def backup(
    connection: Connection,
    file: _Target,
    *,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="What the first member that answers has, also if nobody leads."
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write the group's state to a file, whole or not at all.

    Example: onceflow meta backup meta-2026-11-24.bin
    """
    from onceflow.cli.meta_backup import take_backup  # noqa: PLC0415 - quick --help

    taken = take_backup(connection, file, is_stale_enough=stale)
    if output is Output.JSON:
        typer.echo(orjson.dumps(taken).decode())
    else:
        typer.echo(f"{file}: {taken['bytes']} bytes, the state at index {taken['index']}")


@app.command()
@with_options(Serving)
def restore(serving: Serving, file: _Source) -> None:
    """Make an empty member's directory from a backup, as the beginning of a new group.

    Run it for each member of the new group with the same file and the same --member list, and give
    the group a new name with --cluster; then start the members with the same options.

    Example: onceflow meta restore meta.bin --id 1 --dir data/meta --cluster onceflow-2
    """
    from onceflow.cli.meta_backup import restore_backup  # noqa: PLC0415 - quick --help

    index = restore_backup(serving.to_options(), file)
    typer.echo(
        f"member {serving.peer_id} of the group {serving.cluster!r} begins at index {index}; "
        "restore the others alike, then start them all"
    )
