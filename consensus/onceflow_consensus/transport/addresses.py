"""Where the members of a group are reached, and how an address is written.

A member has two addresses: one for its peers, one for clients, so that the two can have different
authorities and firewalls. Addresses of members that join later travel in the membership change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from onceflow_consensus.errors import InvalidOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow_consensus.quorum.majority import PeerId

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port. An IPv6 host is written in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address written as ``host:port``.

    Raises:
        InvalidOptions: it is not one.
    """
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit()
    if not colon or not host or not is_number or int(port) > _MAX_PORT:
        raise InvalidOptions(f"{text!r} is no address; write host:port, such as 127.0.0.1:7400")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


@dataclass(frozen=True, slots=True)
class MemberAddresses:
    """Where peers and where clients reach a member."""

    peer: Address
    client: Address


_Book = dict[int, tuple[str, str]]
_decode_book = msgspec.msgpack.Decoder(_Book).decode


def encode_book(book: Mapping[PeerId, MemberAddresses]) -> bytes:
    """Return addresses of members as bytes, equal for equal books."""
    return msgspec.msgpack.encode(
        {peer_id: (str(book[peer_id].peer), str(book[peer_id].client)) for peer_id in sorted(book)}
    )


def decode_book(data: bytes) -> dict[PeerId, MemberAddresses]:
    """Return the addresses that ``encode_book`` wrote; none for no data.

    Raises:
        InvalidOptions: it is no book of addresses.
    """
    if not data:
        return {}
    try:
        book = _decode_book(data)
    except msgspec.DecodeError as error:
        raise InvalidOptions(f"the addresses of members cannot be read: {error}") from error
    return {
        peer_id: MemberAddresses(parse_address(peer), parse_address(client))
        for peer_id, (peer, client) in book.items()
    }
