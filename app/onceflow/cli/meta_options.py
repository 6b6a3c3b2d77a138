"""Options of ``onceflow meta``: who a member is, and how a group is reached.

Imports of the replicated group stand in the functions, so that ``--help`` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.coordinator.reaching import (
    DEFAULT_CLUSTER,
    TLS_FILES,
    read_token,
    tls_files,
    told,
)
from onceflow.errors import ConfigError

if TYPE_CHECKING:
    from onceflow_consensus.server.options import ServerOptions
    from onceflow_consensus.transport.addresses import Address, MemberAddresses

DEFAULT_MEMBER = "1=127.0.0.1:7400,127.0.0.1:7401"
DEFAULT_ENDPOINT = "127.0.0.1:7401"

HTTP_OFF = "off"


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"


class EngineName(StrEnum):
    """Engines of a group."""

    RAFT = "raft"
    PAXOS = "paxos"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the result.")]

_Cluster = Annotated[
    str, typer.Option("--cluster", help="Name of the group; keeps others' members and clients out.")
]
_TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the token that clients show to members."),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """How a command reaches the group."""

    endpoints: Annotated[
        str,
        typer.Option(
            "--endpoints",
            envvar="ONCEFLOW_META_ENDPOINTS",
            help="Client addresses of members, host:port with commas between; one is enough if it "
            "answers.",
        ),
    ] = DEFAULT_ENDPOINT
    cluster: _Cluster = DEFAULT_CLUSTER
    tls: Annotated[
        Path | None,
        typer.Option("--tls", help=f"Folder with {', '.join(TLS_FILES)} to speak TLS with."),
    ] = None
    token_file: _TokenFile = None
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the group's answer.")
    ] = 10.0

    def addresses(self) -> list[Address]:
        """Return the client addresses.

        Raises:
            ConfigError: one is malformed.
        """
        from onceflow_consensus.transport.addresses import parse_address  # noqa: PLC0415

        with told():
            return [parse_address(each.strip()) for each in self.endpoints.split(",")]


@dataclass(frozen=True, slots=True)
class Serving:
    """Options of a member."""

    directory: Annotated[
        Path, typer.Option("--dir", help="The member's data; it belongs to this member alone.")
    ]
    peer_id: Annotated[
        int, typer.Option("--id", min=1, help="The member's number, never used again by another.")
    ] = 1
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member",
            metavar="ID=PEER,CLIENT",
            help="A member's number, its address for members and its address for clients; repeat "
            f"it for each member, with the same list on all. Without it: {DEFAULT_MEMBER}.",
        ),
    ] = None
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="PEER,CLIENT",
            help="Where to listen, if not at the member's own addresses of --member.",
        ),
    ] = None
    joining: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Begin empty and wait to be added to a group that exists ('members add').",
        ),
    ] = False
    engine: Annotated[
        EngineName, typer.Option(help="Protocol of the group, the same on all members, for ever.")
    ] = EngineName.RAFT
    cluster: _Cluster = DEFAULT_CLUSTER
    peer_tls: Annotated[
        Path | None,
        typer.Option(
            "--peer-tls",
            help=f"Folder with {', '.join(TLS_FILES)}: mutual TLS between members.",
        ),
    ] = None
    client_tls: Annotated[
        Path | None,
        typer.Option("--client-tls", help="Likewise, mutual TLS with clients."),
    ] = None
    token_file: _TokenFile = None
    snapshot_log_bytes: Annotated[
        int | None,
        typer.Option(
            "--snapshot-log-bytes",
            min=4096,
            help="Bytes of commands after which the log is replaced by a snapshot; 64 MB if not "
            "given.",
        ),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="File to append a JSON line to for each state transition and message of the "
            "member, for judges; it grows without end.",
        ),
    ] = None
    http: Annotated[
        str | None,
        typer.Option(
            envvar="ONCEFLOW_HTTP",
            help=f"Where /metrics and /health are served, or {HTTP_OFF!r}. Without it from "
            "127.0.0.1:9464 on, the next free port.",
        ),
    ] = None

    def to_options(self) -> ServerOptions:
        """Return them as the server takes them.

        Raises:
            ConfigError: something is malformed or contradicts itself; nothing was started.
        """
        from onceflow_consensus.replica import Engine  # noqa: PLC0415 - quick --help
        from onceflow_consensus.server.options import ServerOptions, Start  # noqa: PLC0415

        members = dict(map(parse_member, self.member or [DEFAULT_MEMBER]))
        if self.listen is None and self.peer_id not in members:
            raise ConfigError(
                f"Member {self.peer_id} is not among --member {sorted(members)}. Nothing was "
                "started. Add it there, or say with --listen where it listens."
            )
        listen = members[self.peer_id] if self.listen is None else parse_pair(self.listen)
        with told():
            return ServerOptions(
                peer_id=self.peer_id,
                cluster_id=self.cluster,
                directory=self.directory,
                listen=listen,
                members=members,
                start=Start.JOIN if self.joining else Start.FOUND,
                engine=Engine(self.engine.value),
                peer_tls=tls_files(self.peer_tls),
                client_tls=tls_files(self.client_tls),
                client_token=read_token(self.token_file),
                snapshot_log_bytes=self.snapshot_log_bytes,
            )


def parse_member(text: str) -> tuple[int, MemberAddresses]:
    """Read ``ID=PEER,CLIENT``.

    Raises:
        ConfigError: it is something else.
    """
    number, _, pair = text.partition("=")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ConfigError(
            f"--member {text!r} is not ID=PEER,CLIENT, as in {DEFAULT_MEMBER}. Nothing was done."
        )
    return int(number), parse_pair(pair)


def parse_pair(text: str) -> MemberAddresses:
    """Read ``PEER,CLIENT``, two addresses.

    Raises:
        ConfigError: it is something else.
    """
    from onceflow_consensus.transport.addresses import (  # noqa: PLC0415 - quick --help
        MemberAddresses,
        parse_address,
    )

    peer, comma, client = text.partition(",")
    if not comma:
        raise ConfigError(
            f"{text!r} is not PEER,CLIENT: the address for members, a comma, the address for "
            "clients, as in 10.0.0.1:7400,10.0.0.1:7401. Nothing was done."
        )
    with told():
        return MemberAddresses(parse_address(peer.strip()), parse_address(client.strip()))
