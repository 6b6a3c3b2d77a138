"""``onceflow meta kv``: the small key-value space of a group, for administration and checking.

Keys and values are text here, in UTF-8; bytes that are none are shown with backslashes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from onceflow.cli.meta_options import Connection, Output, OutputOption
from onceflow.cli.option_groups import with_options

if TYPE_CHECKING:
    from onceflow.cli.meta_asking import Asker
    from onceflow_consensus.kv import Command, Query, Response

EXIT_NO = 1
"""Exit code of a key that is missing and of a comparison that failed."""

app = typer.Typer(
    help="A small key-value space of the group.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done, 1 the key is missing or the comparison failed, 2 usage, 3 the "
    "group does not answer.",
)

Key = Annotated[str, typer.Argument(help="The key.")]


class ReadConsistency(StrEnum):
    """What a read may miss."""

    LINEARIZABLE = "linearizable"
    SESSION = "session"
    STALE = "stale"


class Compared(StrEnum):
    """What a comparison looks at."""

    VALUE = "value"
    VERSION = "version"


_Consistency = Annotated[
    ReadConsistency,
    typer.Option(
        "--consistency",
        help="linearizable: everything answered before; session: at least up to --min-index; "
        "stale: what the member has, at most --max-age-ms old if that is given.",
    ),
]
_MinIndex = Annotated[
    int,
    typer.Option(
        "--min-index", min=0, help="With session: 'index' of what you have seen (-o json)."
    ),
]
_MaxAge = Annotated[int, typer.Option("--max-age-ms", min=0, help="With stale: a bound in ms.")]


@app.command()
@with_options(Connection)
def put(
    connection: Connection,
    key: Key,
    value: Annotated[str, typer.Argument(help="The value.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a key. Repeated by itself until it is answered, it takes effect once.

    Example: onceflow meta kv put greeting hello
    """
    from onceflow_consensus.kv import Put  # noqa: PLC0415 - quick --help

    _write(connection, Put(key.encode(), value.encode()), output)


@app.command()
@with_options(Connection)
def cas(
    connection: Connection,
    key: Key,
    expected: Annotated[str, typer.Argument(help="The value, or the version, that it must have.")],
    value: Annotated[str, typer.Argument(help="The value to set.")],
    by: Annotated[
        Compared,
        typer.Option("--by", help="Compare the value or the version; version 0: no such key yet."),
    ] = Compared.VALUE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a key if it is as expected: compare and set. Exit code 1 if it is not.

    Example: onceflow meta kv cas greeting hello goodbye
    """
    from onceflow_consensus.kv import CompareValue, CompareVersion  # noqa: PLC0415 - quick --help

    if by is Compared.VALUE:
        command: Command = CompareValue(key.encode(), expected.encode(), value.encode())
    elif expected.isascii() and expected.isdigit():
        command = CompareVersion(key.encode(), int(expected), value.encode())
    else:
        raise typer.BadParameter(f"{expected!r} is not a version, a number from 0 up")
    _write(connection, command, output)


@app.command()
@with_options(Connection)
def delete(connection: Connection, key: Key, output: OutputOption = Output.TABLE) -> None:
    """Delete a key. Exit code 1 if there was none.

    Example: onceflow meta kv delete greeting
    """
    from onceflow_consensus.kv import Delete  # noqa: PLC0415 - quick --help

    _write(connection, Delete(key.encode()), output)


@app.command()
@with_options(Connection)
def get(
    connection: Connection,
    key: Key,
    consistency: _Consistency = ReadConsistency.LINEARIZABLE,
    min_index: _MinIndex = 0,
    max_age_ms: _MaxAge = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the value of a key. Exit code 1 if there is none.

    Example: onceflow meta kv get greeting --consistency stale
    """
    from onceflow_consensus.kv import Found, Get  # noqa: PLC0415 - quick --help

    index, answer = _read(connection, Get(key.encode()), consistency, min_index, max_age_ms)
    if not isinstance(answer, Found):
        raise typer.BadParameter(f"the group refuses: {answer}")
    value = _text(answer.value) if answer.version else None
    if output is Output.JSON:
        _print({"key": key, "value": value, "version": answer.version, "index": index})
    elif value is not None:
        typer.echo(value)
    if value is None:
        typer.echo(f"there is no key {key!r}", err=True)
        raise typer.Exit(EXIT_NO)


@app.command()
@with_options(Connection)
def scan(
    connection: Connection,
    prefix: Annotated[str, typer.Argument(help="What the keys begin with; nothing: all.")] = "",
    after: Annotated[str, typer.Option(help="Begin above this key, to go on from a page.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Keys of a page, at most.")] = 1_000,
    consistency: _Consistency = ReadConsistency.LINEARIZABLE,
    output: OutputOption = Output.TABLE,
) -> None:
    """List a page of keys in order, with versions and values.

    Example: onceflow meta kv scan app/ --limit 20
    """
    from onceflow_consensus.kv import Page, Scan  # noqa: PLC0415 - quick --help

    query = Scan(prefix.encode(), after.encode(), limit)
    index, page = _read(connection, query, consistency)
    if not isinstance(page, Page):
        raise typer.BadParameter(f"the group refuses: {page}")
    rows = [(_text(key), _text(value), version) for key, value, version in page.rows]
    if output is Output.JSON:
        found = [{"key": key, "value": value, "version": version} for key, value, version in rows]
        _print({"keys": found, "more": page.more, "index": index})
        return
    for key, value, version in rows:
        typer.echo(f"{key}\t{version}\t{value}")
    if page.more:
        typer.echo(f"there are more keys: --after {rows[-1][0]!r}", err=True)


def _write(connection: Connection, command: Command, output: Output) -> None:
    from onceflow.cli.meta_asking import run  # noqa: PLC0415 - quick --help
    from onceflow_consensus import kv  # noqa: PLC0415

    async def submit(asker: Asker) -> tuple[int, bytes]:
        return await asker.submit(kv.encode_command(command))

    index, response = run(connection, submit)
    result = kv.decode_response(response)
    if isinstance(result, kv.Refused):
        raise typer.BadParameter(result.reason)
    if not isinstance(result, kv.Written | kv.Mismatch | kv.Deleted):
        raise typer.BadParameter(f"the group answers {result}")
    is_done = not isinstance(result, kv.Mismatch) and result.version > 0
    if output is Output.JSON:
        shown = {"key": _text(command.key), "done": is_done, "version": result.version}
        _print(shown | {"index": index})
    elif is_done:
        typer.echo(f"version {result.version}")
    if not is_done:
        found = f"it has version {result.version}" if result.version else "there is no such key"
        typer.echo(f"{_text(command.key)!r} was not changed: {found}", err=True)
        raise typer.Exit(EXIT_NO)


def _read(
    connection: Connection,
    query: Query,
    consistency: ReadConsistency,
    min_index: int = 0,
    max_age_ms: int = 0,
) -> tuple[int, Response]:
    """Return the index that the answer reflects, and the answer."""
    from onceflow.cli.meta_asking import REQUEST_ID, run  # noqa: PLC0415 - quick --help
    from onceflow_consensus.kv import decode_response, encode_query  # noqa: PLC0415
    from onceflow_consensus.transport.requests import (  # noqa: PLC0415
        Consistency,
        Read,
        ReadAnswered,
    )

    chosen = Consistency[consistency.name]
    request = Read(REQUEST_ID, chosen, [encode_query(query)], min_index, max_age_ms)

    async def ask(asker: Asker) -> ReadAnswered:
        return await asker.ask(request, ReadAnswered)

    answer = run(connection, ask)
    return answer.index, decode_response(answer.results[0])


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _print(content: object) -> None:
    typer.echo(orjson.dumps(content).decode())
