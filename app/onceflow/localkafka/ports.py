"""Chooses TCP ports of 127.0.0.1 for brokers.

Ports are taken from below the range that the system gives to outgoing connections. From within it
a broker that is down for a moment could lose its port to any client; on one machine even to its
own client, whose attempt to connect may be given that very port and so connect to itself.
"""

from __future__ import annotations

import random
import socket

from onceflow.errors import ConfigError, Unreachable

PORT_FIRST = 15_000
PORT_LAST = 32_000
"""Linux gives out 32768-60999 and macOS 49152-65535 to outgoing connections by default."""

_ATTEMPTS = 500
"""Tries to find a free port; only a machine with nearly all of them in use needs more than ten."""


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of 127.0.0.1 at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java does it; without this a port that was in use a minute ago looks taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: frozenset[int] = frozenset()) -> list[int]:
    """Choose ``count`` different free ports, none of ``avoid``.

    Raises:
        Unreachable: no free ports were found; end some servers, then start again.
    """
    # The system's generator: two processes that start at once must not choose alike.
    source = random.SystemRandom()
    found: list[int] = []
    for _ in range(_ATTEMPTS):
        if len(found) == count:
            return found
        port = source.randint(PORT_FIRST, PORT_LAST)
        if port not in avoid and port not in found and is_free(port):
            found.append(port)
    raise Unreachable(
        f"found no {count} free TCP ports between {PORT_FIRST} and {PORT_LAST}; no broker was "
        "started. End some servers on this machine, then start again"
    )


def require_free(port: int, hint: str) -> None:
    """Check that an explicitly requested port is free.

    Raises:
        ConfigError: it is in use, or no port at all; choose another one.
    """
    if not 0 < port < 2**16:
        raise ConfigError(f"{port} is not a TCP port; choose one from 1 to 65535, {hint}")
    if not is_free(port):
        raise ConfigError(
            f"port {port} of 127.0.0.1 is in use (or not allowed to this user); no broker was "
            f"started. Stop what listens there, or choose another port, {hint}"
        )
