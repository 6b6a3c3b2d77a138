"""Joins that Faust names and does not have are refused, not silently left out."""

from __future__ import annotations

import faust
import pytest

from harness.table_driver import make_app
from onceflow.errors import ConfigError


class Trade(faust.Record):
    symbol: str


@pytest.mark.parametrize("kind", ["join", "left_join", "inner_join", "outer_join"])
async def test_joins_are_refused(kind):
    stream = make_app().topic("trades", value_type=Trade).stream()
    with pytest.raises(ConfigError, match="GlobalTable"):
        getattr(stream, kind)(Trade.symbol)


async def test_combinations_are_refused():
    app = make_app()
    one, other = app.topic("one").stream(), app.topic("other").stream()
    with pytest.raises(ConfigError, match="combine"):
        one & other
