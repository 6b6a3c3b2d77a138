"""Options of ``onceflow meta``: who a member is, how a group is reached, and what errors become.

Imports of the replicated group stand in the functions, so that ``--help`` is quick.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    InvariantViolation,
    OnceflowError,
    StorageFailed,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from onceflow_consensus.server.options import ServerOptions
    from onceflow_consensus.transport.addresses import Address, MemberAddresses
    from onceflow_consensus.transport.tls import TlsFiles

DEFAULT_MEMBER = "1=127.0.0.1:7400,127.0.0.1:7401"
DEFAULT_ENDPOINT = "127.0.0.1:7401"
DEFAULT_CLUSTER = "onceflow"

HTTP_OFF = "off"

TLS_FILES = ("tls.crt", "tls.key", "ca.crt")
"""Names in a folder of TLS files, as Kubernetes and cert-manager give them."""


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


def tls_files(folder: Path | None) -> TlsFiles | None:
    """Return the TLS files of a folder, None for none; they are read where they are used."""
    from onceflow_consensus.transport.tls import TlsFiles  # noqa: PLC0415 - quick --help

    if folder is None:
        return None
    certificate, key, authority = (folder / name for name in TLS_FILES)
    return TlsFiles(certificate, key, authority)


def read_token(file: Path | None) -> str:
    """Return the token in a file, empty for no file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if file is None:
        return ""
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The token file {file} cannot be read ({error}). Nothing was done. Correct the path "
            "of --token-file or the file's permissions."
        ) from error
    if not token:
        raise ConfigError(f"The token file {file} is empty. Nothing was done. Write a token in it.")
    return token


@contextmanager
def told() -> Generator[None]:
    """Turn errors of the replicated group into those of the command line, by their exit code."""
    from onceflow_consensus import errors  # noqa: PLC0415 - quick --help

    try:
        yield
    except (errors.InvalidOptions, errors.ConfChangeRefused) as error:
        raise ConfigError(str(error)) from error
    except errors.StorageLocked as error:
        raise ConfigError(str(error)) from error
    except (errors.StorageCorrupt, errors.StorageUnknown, errors.SnapshotUnreadable) as error:
        raise DataAtRisk(str(error)) from error
    except errors.StorageFailed as error:
        raise StorageFailed(str(error)) from error
    except errors.ConsensusError as error:
        raise OnceflowError(str(error)) from error
    except errors.InvariantViolation as error:
        raise InvariantViolation(str(error)) from error
