"""``onceflow txn``: transactions with two-phase sinks, what is in doubt, and ending it by hand.

Rules of this file: results go to standard output, talk to standard error. What a command does is in
``engine.by_hand``; how things are reached and shown in ``txn_reach`` and ``txn_shown``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer

from onceflow.cli.meta_options import Output, OutputOption
from onceflow.cli.option_groups import with_options
from onceflow.cli.txn_reach import Reach, found_app

app = typer.Typer(
    help="Transactions with two-phase sinks: what is in doubt, why, and ending it by hand.",
    no_args_is_help=True,
    epilog="Exit codes: 0 ok, 1 failure or refused, 2 usage or configuration, 3 Kafka, a sink or "
    "the group is not reachable, 4 data at risk.",
)

AppOption = Annotated[
    str | None,
    typer.Option(
        "--app",
        "-A",
        metavar="MODULE:APP",
        help="The application, as in shop:app: its sinks and Kafka are looked at as well.",
    ),
]
Application = Annotated[
    str, typer.Argument(metavar="MODULE:APP", help="The application, as in shop:app.")
]
Transaction = Annotated[
    str, typer.Argument(metavar="ID", help="EPOCH@INCARNATION, as 'txn list' shows it.")
]


class Wish(StrEnum):
    """How a transaction shall end."""

    COMMIT = "commit"
    ABORT = "abort"


@app.command("list")
@with_options(Reach)
def list_transactions(
    reach: Reach,
    app_path: AppOption = None,
    *,
    ended: Annotated[
        bool, typer.Option("--all", help="Also the last ones that ended in order.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List transactions: those in doubt first, the oldest of them first, then heuristic ones.

    Example: onceflow txn list --app shop:app
    """
    from onceflow.cli.txn_listing import listed  # noqa: PLC0415 - quick --help
    from onceflow.cli.txn_shown import print_transactions  # noqa: PLC0415
    from onceflow.coordinator.vocabulary import Standing  # noqa: PLC0415

    found = found_app(app_path)
    standings = [each for each in Standing if ended or each is not Standing.ENDED]
    with reach.group(found) as settings:
        document = reach.run(listed(settings, reach.timeout_s, found, standings))
    if output is Output.JSON:
        _print(document)
        return
    print_transactions(document["transactions"])
    if document["alarms"]:
        typer.echo(
            f"{document['alarms']} times somebody told the opposite of a recorded decision; the "
            "recorded ones stand ('-o json' shows the last of them)",
            err=True,
        )


@app.command()
@with_options(Reach)
def show(
    reach: Reach,
    transaction: Transaction,
    app_path: AppOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one transaction: what is recorded, and with --app what its sinks and Kafka show.

    Looking changes nothing. Exit code 1 if nobody knows it.

    Example: onceflow txn show 7@cGF5bWVudHM --app shop:app
    """
    from onceflow.cli.txn_listing import shown  # noqa: PLC0415 - quick --help
    from onceflow.cli.txn_shown import print_document, read_id  # noqa: PLC0415

    branch = read_id(transaction)
    found = found_app(app_path)
    with reach.group(found) as settings:
        document = reach.run(shown(settings, reach.timeout_s, found, branch))
    if output is Output.JSON:
        _print(document)
    else:
        print_document(document)
    if not document["is_known"]:
        typer.echo(f"{transaction}: neither the record nor what was looked at knows it", err=True)
        raise typer.Exit(1)


@app.command()
@with_options(Reach)
def resolve(
    reach: Reach,
    app_path: Application,
    transaction: Transaction,
    wish: Annotated[Wish, typer.Argument(help="How it shall end.")],
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Against the evidence; recorded for ever as heuristic."),
    ] = False,
    by: Annotated[
        str, typer.Option(envvar=["USER", "LOGNAME"], help="Who does it, for the record.")
    ] = "somebody",
    output: OutputOption = Output.TABLE,
) -> None:
    """End a transaction by hand, in every sink that still has a prepared branch of it.

    Workers do this by themselves when they start. What contradicts the evidence is refused: its
    worker is fenced, then the markers of all partitions and the marker rows of all sinks are read.

    Example: onceflow txn resolve shop:app 7@cGF5bWVudHM commit
    """
    from onceflow.cli.txn_resolving import Insistence, Resolving  # noqa: PLC0415 - quick --help
    from onceflow.cli.txn_shown import print_document, read_id  # noqa: PLC0415
    from onceflow.engine.by_hand import Verdict  # noqa: PLC0415

    found = found_app(app_path)
    insistence = Insistence.FORCED if force else Insistence.BY_EVIDENCE
    resolving = Resolving(read_id(transaction), Verdict(wish.value), insistence, by)
    with reach.group(found) as settings:
        document = reach.run(resolving.run(settings, found))
    if output is Output.JSON:
        _print(document)
    else:
        print_document(document)


def _print(document: dict[str, Any]) -> None:
    typer.echo(orjson.dumps(document, default=str).decode())
