"""Where the benchmarks keep what they fetch and build, and what makes a contestant missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CACHE = TESTS.parent / ".cache" / "bench"
PEERS = Path(__file__).resolve().parent / "peers"


class NotRun(Exception):  # noqa: N818 - named by what happened
    """A contestant cannot run here; the text says why and what would help."""


class RunFailed(Exception):  # noqa: N818 - named by what happened
    """A contestant ran and did not do its work; the text has the end of its log."""


def fingerprint(*contents):
    """Name what is built from these bytes, so that a change builds anew."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]
