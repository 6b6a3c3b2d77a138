"""``onceflow meta members``: who belongs to a group, and changes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import orjson
import typer

from onceflow.cli.meta_options import Connection, Output, OutputOption, parse_member
from onceflow.cli.option_groups import with_options

if TYPE_CHECKING:
    from onceflow.cli.meta_asking import Asker
    from onceflow_consensus.transport.requests import ChangeMember, Done

_COLUMNS = ("id", "role", "is_leader", "is_connected", "peer_address", "client_address")

app = typer.Typer(
    help="""Show the members; add, promote and remove them.

    Example: onceflow meta members -o json
    """,
    invoke_without_command=True,
)

MemberId = Annotated[int, typer.Argument(metavar="ID", min=1, help="The member's number.")]


@app.callback()
@with_options(Connection)
def members(
    connection: Connection, ctx: typer.Context, output: OutputOption = Output.TABLE
) -> None:
    """Show the members as the first one that answers knows them."""
    if ctx.invoked_subcommand is not None:
        return
    found = ask_status(connection)
    if output is Output.JSON:
        typer.echo(orjson.dumps(found["members"]).decode())
    else:
        show(found)


@app.command()
@with_options(Connection)
def add(
    connection: Connection,
    member: Annotated[
        str, typer.Argument(metavar="ID=PEER,CLIENT", help="Its number and its two addresses.")
    ],
) -> None:
    """Add a member that follows and does not vote yet. It was started with --join.

    Its number must never have belonged to another member. Promote it when it has caught up.

    Example: onceflow meta members add 4=10.0.0.4:7400,10.0.0.4:7401
    """
    from onceflow_consensus.raft.confchange import ChangeOp  # noqa: PLC0415 - quick --help

    peer_id, addresses = parse_member(member)
    _change(connection, ChangeOp.ADD_LEARNER.value, peer_id, addresses.peer, addresses.client)
    typer.echo(f"member {peer_id} was added; it follows. Promote it when it has caught up.")


@app.command()
@with_options(Connection)
def promote(connection: Connection, peer_id: MemberId) -> None:
    """Let a member that follows vote.

    Example: onceflow meta members promote 4
    """
    from onceflow_consensus.raft.confchange import ChangeOp  # noqa: PLC0415 - quick --help

    _change(connection, ChangeOp.ADD_VOTER.value, peer_id)
    typer.echo(f"member {peer_id} votes")


@app.command()
@with_options(Connection)
def remove(connection: Connection, peer_id: MemberId) -> None:
    """Remove a member for ever: its number is not used again. Keep it running until then.

    Example: onceflow meta members remove 2
    """
    from onceflow_consensus.raft.confchange import ChangeOp  # noqa: PLC0415 - quick --help

    _change(connection, ChangeOp.REMOVE.value, peer_id)
    typer.echo(f"member {peer_id} was removed; stop it and delete its directory")


def _change(
    connection: Connection, op: str, peer_id: int, peer: object = "", client: object = ""
) -> None:
    from onceflow.cli.meta_asking import REQUEST_ID, run  # noqa: PLC0415 - quick --help
    from onceflow_consensus.transport.requests import ChangeMember, Done  # noqa: PLC0415

    request: ChangeMember = ChangeMember(REQUEST_ID, op, peer_id, str(peer), str(client))

    async def ask(asker: Asker) -> Done:
        return await asker.ask(request, Done)

    run(connection, ask)


def ask_status(connection: Connection) -> dict[str, object]:
    """Return the status of the first member that answers."""
    from onceflow.cli.meta_asking import REQUEST_ID, run  # noqa: PLC0415 - quick --help
    from onceflow_consensus.transport.requests import Done, GetStatus  # noqa: PLC0415

    async def ask(asker: Asker) -> Done:
        return await asker.ask(GetStatus(REQUEST_ID), Done)

    found = cast("dict[str, object]", orjson.loads(run(connection, ask).body))
    return found | {"role": _ROLES.get(str(found["role"]), found["role"])}


_ROLES = {
    "StateLeader": "leader",
    "StateFollower": "follower",
    "StateCandidate": "candidate",
    "StatePreCandidate": "candidate",
}
"""Roles as users know them, by the engine's names."""


def show(found: dict[str, object]) -> None:
    """Print the members in a status as a table."""
    from rich.console import Console  # noqa: PLC0415 - quick --help
    from rich.table import Table  # noqa: PLC0415

    table = Table(*(name.replace("_", " ") for name in _COLUMNS))
    for member in cast("list[dict[str, object]]", found["members"]):
        table.add_row(*(str(member[name]) for name in _COLUMNS))
    Console().print(table)
