"""Tables of sets."""

from __future__ import annotations

import faust


class SetTable(faust.SetTable):
    """Faust's set table."""


class SetGlobalTable(faust.SetGlobalTable):
    """Faust's global set table."""
