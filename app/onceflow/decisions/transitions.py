"""Looking a step up in a machine's table. Must never import anything that acts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from onceflow.errors import invariant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

Handler = TypeVar("Handler")


def handler_of(table: Mapping[Any, Handler], state: Enum, event: object) -> Handler:
    """Return what a machine of taking over does with an event in its state.

    Raises:
        InvariantViolation: INV-TAKEOVER-2, an event that cannot happen in this state: a bug.
    """
    key = (state, type(event))
    invariant(
        key in table,
        "INV-TAKEOVER-2: only events that the state allows",
        state=state,
        event=event,
    )
    return table[key]
