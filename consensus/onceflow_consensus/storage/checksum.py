"""CRC32C (Castagnoli), computed by google-crc32c. The only importer of that library."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

# The library's functions carry no types.
extend_crc32c = cast("Callable[[int, bytes], int]", google_crc32c.extend)  # pyright: ignore[reportUnknownMemberType]
"""Returns the checksum of what the first argument is the checksum of, followed by the second."""


def crc32c(*parts: bytes) -> int:
    """Return the checksum of the parts one after the other."""
    checksum = 0
    for part in parts:
        checksum = extend_crc32c(checksum, part)
    return checksum
