"""TLS settings of listeners and of connections.

Everything is mutual or not at all: a side that shows a certificate also demands one from the
other, signed by the same authority. TLS 1.3 only, since both ends are ours.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.errors import InvalidOptions

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: own certificate with its chain, its key, and the authority of the other side.

    Peers and clients should have different authorities: who holds a certificate of the peers'
    authority can take part in consensus.
    """

    certificate: Path
    key: Path
    authority: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the settings of a listener that demands certificates.

    Raises:
        InvalidOptions: a file cannot be used.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the settings of who connects; the listener's name or address is checked.

    Raises:
        InvalidOptions: a file cannot be used.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def _loaded(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.authority)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidOptions(
            f"the TLS files {files.certificate}, {files.key} and {files.authority} cannot be used "
            f"({error}); nothing was started. Check their paths and that key and certificate match."
        ) from error
    return context
